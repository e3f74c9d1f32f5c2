"""The worker boundary: what a round trip to a worker adds to the program's own time.

    python -m tests.bench.worker [--json FILE] [--runs N]

A dense network runs on the host CPU behind a worker. The round trip is what the caller waits, less the seconds that the
program itself measured; one for a 28 x 28 uint8 picture, one for 3 x 224 x 224 float32. Beside them, in the same run
and in turn, the bare transport of such a picture over the socket, as the worker has it, and through shared memory.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hal import wire
from hal.artifact import FORMAT, Artifact, Manifest, OperatingPoint, Origin, TensorSpec
from hal.device import Kind
from hal.remote import RemoteDevice
from models import ir, onnx_export

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CLASSES = 10
PICTURES = {"28x28 uint8": ("uint8", (28, 28)), "3x224x224 float32": ("float32", (3, 224, 224))}
BARS_SECONDS = {"28x28 uint8": 80e-6, "3x224x224 float32": 400e-6}


def _artifact(dtype: Any, shape: tuple[int, ...]) -> Artifact:
    """Make an artifact of one dense layer."""
    size = int(np.prod(shape))
    weight = np.random.default_rng(1).standard_normal((CLASSES, size), np.float32) / np.float32(size)
    channels: tuple[int, int, int] = (1, shape[0], shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])
    model = onnx_export.dense_classifier("bench", [(weight, np.zeros(CLASSES, np.float32))], channels)
    manifest = Manifest(
        format=FORMAT,
        kind=Kind.DNN,
        input=TensorSpec("image", dtype, shape),
        output="scores",
        labels=tuple(str(number) for number in range(CLASSES)),
        operating_points=(OperatingPoint(1.0),),
        origin=Origin("none", "none", "none", "none"),
        tool="bench",
        files={},
    )
    return Artifact("bench", "1", "dnn", "b" * 64, manifest, ir.dnn_files(model.SerializeToString()))


def _serve_echo(socket_descriptor: int, memory_descriptor: int, size: int) -> None:
    """Answer every frame with ten scores; a frame without an array has its picture in the shared memory."""
    channel = wire.Channel(socket.socket(fileno=socket_descriptor))
    shared = np.frombuffer(mmap.mmap(memory_descriptor, size), np.uint8)
    try:
        while True:
            _, arrays = channel.receive(1 << 30)
            picture = arrays[0] if arrays else shared
            assert picture.size
            channel.send({}, [np.zeros((1, CLASSES), np.float32)])
    except wire.Closed:
        return


def _transports(picture: NDArray[Any], runs: int) -> dict[str, list[float]]:
    """Time the bare transport of a picture in both ways, in turn."""
    memory = os.memfd_create("picture")
    os.ftruncate(memory, picture.nbytes)
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "tests.bench.worker", "--echo", str(theirs.fileno()), str(memory)]
    process = subprocess.Popen([*command, str(picture.nbytes)], pass_fds=[theirs.fileno(), memory])
    theirs.close()
    channel = wire.Channel(ours)
    shared = np.frombuffer(mmap.mmap(memory, picture.nbytes), picture.dtype).reshape(picture.shape)

    def over_the_socket() -> None:
        deadline = time.monotonic() + 10.0
        channel.send({"do": "run"}, [picture], deadline)
        channel.receive(1 << 10, deadline)

    def through_memory() -> None:
        deadline = time.monotonic() + 10.0
        shared[...] = picture
        channel.send({"do": "run"}, [], deadline)
        channel.receive(1 << 10, deadline)

    try:
        return _in_turn({"socket": over_the_socket, "shared memory": through_memory}, runs)
    finally:
        channel.close()
        process.wait()
        os.close(memory)


def _in_turn(ways: dict[str, Callable[[], None]], runs: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(runs + runs // 10):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn >= runs // 10:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _round_trips(picture: NDArray[Any], runs: int) -> list[float]:
    """Time what a worker adds to a program's own time."""
    device = RemoteDevice("cpu", "bench", time_limit_seconds=10.0, say=print, threads=1, core_watts=7.5)
    try:
        program = device.load(_artifact(picture.dtype.name, picture.shape[1:]))
        added = []
        for turn in range(runs + runs // 10):
            started = time.perf_counter()
            inference = program(picture, 1)
            if turn >= runs // 10:
                added.append(time.perf_counter() - started - inference.seconds)
        return added
    finally:
        device.close()


def _figures(seconds: list[float]) -> dict[str, float]:
    hundredths = statistics.quantiles(seconds, n=100)
    return {"p50_seconds": hundredths[49], "p99_seconds": hundredths[98]}


def main() -> None:
    """Measure, print, and say which bars are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--echo", type=int, nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        _serve_echo(*options.echo)
        return
    rows: list[dict[str, Any]] = []
    for name, (dtype, shape) in PICTURES.items():
        picture = np.random.default_rng(2).integers(0, 2, (1, *shape)).astype(dtype)
        measured = {"worker": _round_trips(picture, options.runs), **_transports(picture, options.runs)}
        rows += [{"picture": name, "way": way, **_figures(seconds)} for way, seconds in measured.items()]
    for row in rows:
        bar = BARS_SECONDS[row["picture"]] if row["way"] == "worker" else None
        told = f"  (bar {bar * 1e6:.0f} us: {'reached' if row['p50_seconds'] <= bar else 'MISSED'})" if bar else ""
        print(
            f"{row['picture']:18} {row['way']:14} p50 {row['p50_seconds'] * 1e6:6.1f} us, "
            f"p99 {row['p99_seconds'] * 1e6:6.1f} us{told}"
        )
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "bars_seconds": BARS_SECONDS}, indent=2) + "\n")


if __name__ == "__main__":
    main()
