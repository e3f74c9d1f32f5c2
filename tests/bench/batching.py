"""What batching is worth: one daemon that runs what waits together as one batch, beside one that runs one at a time.

    python -m tests.bench.batching [--json FILE] [--rounds N] [--seconds S] [--delay SECONDS] [--threads N]

Both serve the same networks on the device `cpu` alone, each in a process of its own, and are driven in turn by the same
client over a Unix socket, in closed loop, with 1 and with 32 requests at a time. `tiny` is one layer, so that most is
the daemon's own work; `wide` is a made-up network of three dense layers whose 23 MB of weights are read from memory for
every run; `mnist` is the shipped convolutional one, which computes on what it has read. With `--delay`, the policy
lets the batching daemon wait for a fuller batch.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from daemon.cli.serve import run_daemon
from daemon.clock import NANO
from hal import artifact
from hal.artifact import FORMAT, Manifest, OperatingPoint, Origin, TensorSpec
from hal.cpu import Cpu
from hal.device import Kind
from models import ir, onnx_export, writer
from protos import open_inference_pb2 as oip
from tests.bench import drive, servers, tiny

if TYPE_CHECKING:
    import psutil

MODELS = (tiny.NAME, "wide", "mnist")
CONCURRENCIES = (1, 32)
ROLES = ("batching", "single")
WARM_UP_REQUESTS = 100
PROGRAM_IMAGES = 3200
METHOD = "/inference.GRPCInferenceService/ModelInfer"
TRAINED = Path(onnx_export.__file__).parent / "trained"
CONFIG = """
start_policy = "roomy"
repository = "{folder}/repository"
[metrics]
address = ""
[server]
default_deadline_seconds = 60.0
[device.cpu]
driver = "cpu"
threads = {threads}
[policy.roomy]
strategy = "accuracy"
budget_watts = 1000.0
batch_delay_seconds = {delay}
"""


def _write_wide(repository: Path) -> None:
    """Write the network 784 - 2048 - 2048 - 10 with random weights."""
    random, sizes = np.random.default_rng(0), (784, 2048, 2048, 10)
    layers = [
        ((random.standard_normal((out, taken)) / taken**0.5).astype(np.float32), np.zeros(out, np.float32))
        for taken, out in pairwise(sizes)
    ]
    network = onnx_export.dense_classifier("wide", layers, (1, 28, 28))
    manifest = Manifest(
        format=FORMAT, kind=Kind.DNN, input=TensorSpec("image", "uint8", (28, 28)), output="scores",
        labels=tuple("0123456789"), operating_points=(OperatingPoint(1.0),),
        origin=Origin("none", "none", "by construction", "none"), tool="bench", files={},
        multiplies=sum(weight.size for weight, _ in layers),
    )  # fmt: skip
    writer.write(repository / "wide" / "1" / "dnn", manifest, ir.dnn_files(network.SerializeToString()))


def _serve(folder: Path, role: str, delay: float, threads: int) -> None:
    """Run a daemon; `single` runs one request at a time."""
    if role == "single":
        Cpu.batch_limit = 1
        delay = 0.0
    place = folder / role
    place.mkdir()
    config = place / "jouled.toml"
    config.write_text(CONFIG.format(folder=folder, delay=delay, threads=threads))
    run_daemon(config, "", place / "state", place / "run")


def _request(model: str) -> bytes:
    image = np.random.default_rng(1).integers(0, 256, (1, 28, 28), np.uint8)
    request = oip.ModelInferRequest(model_name=model, raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=image.shape)
    return request.SerializeToString()


def _drive(target: drive.Target, server: psutil.Process, concurrency: int, seconds: float) -> dict[str, Any]:
    """Keep so many requests under way for about so long; give what came of it, and the server's time for each."""
    rate = drive.closed(target, WARM_UP_REQUESTS, concurrency).requests_per_second
    cpu, began = servers.cpu_seconds(server), time.time_ns()
    driven = drive.closed(target, max(round(rate * seconds), WARM_UP_REQUESTS), concurrency)
    return {
        "requests_per_second": driven.requests_per_second,
        "p50_seconds": driven.percentile_seconds(50), "p99_seconds": driven.percentile_seconds(99),
        "cpu_seconds_per_request": (servers.cpu_seconds(server) - cpu) / driven.requests,
        "unix_nanoseconds": (began, time.time_ns()),
    }  # fmt: skip


def _joules(journal: Path, unix: tuple[int, int]) -> float:
    """Give the modelled joules of a request that was accepted between two moments."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        query = "SELECT avg(dynamic_nanojoules) FROM requests WHERE accepted_unix BETWEEN ? AND ?"
        (nanojoules,) = database.execute(query, unix).fetchone()
    return float(nanojoules) / NANO


def programs(repository: Path, threads: int) -> list[dict[str, Any]]:
    """Run the programs alone, without a daemon; give the processor's time for an image in batches of so many."""
    rows = []
    device = Cpu("cpu", threads=threads, core_watts=1.0, time_limit_seconds=60.0)
    for model in MODELS:
        program = device.load(artifact.read(repository / model / "1" / "dnn"))
        for batch in CONCURRENCIES:
            images = np.random.default_rng(1).integers(0, 256, (batch, 28, 28), np.uint8)
            times = []
            for _ in range(max(PROGRAM_IMAGES // batch, 10)):
                started = time.process_time()
                program(images, 0)
                times.append((time.process_time() - started) / batch)
            rows.append({"model": model, "batch": batch, "cpu_seconds_per_image": statistics.median(times)})
    return rows


def measure(rounds: int, seconds: float, delay: float, threads: int) -> dict[str, list[dict[str, Any]]]:
    """Measure both daemons in turn; give the medians over the rounds by network, concurrency and daemon."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny.write(folder / "repository")
        _write_wide(folder / "repository")
        shutil.copytree(TRAINED / "mnist" / "1" / "dnn", folder / "repository" / "mnist" / "1" / "dnn")
        alone = programs(folder / "repository", threads)
        options = ["--folder", name, "--delay", str(delay), "--threads", str(threads)]
        command = [sys.executable, "-m", "tests.bench.batching", *options, "--role"]
        found: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
        with ExitStack() as stack:
            daemons = {role: stack.enter_context(servers.started([*command, role])) for role in ROLES}
            targets = {
                (role, model): drive.Target(f"unix:{folder / role / 'run' / 'jouled.sock'}", METHOD, _request(model))
                for role, model in product(ROLES, MODELS)
            }
            for (role, _), target in targets.items():
                servers.wait_until_it_answers(daemons[role], target)
            # The first round warms up.
            for number, model, concurrency, role in product(range(rounds + 1), MODELS, CONCURRENCIES, ROLES):
                row = _drive(targets[role, model], daemons[role], concurrency, seconds)
                if number:
                    found.setdefault((model, concurrency, role), []).append(row)
        for (_, _, role), rows in found.items():
            for row in rows:
                journal = folder / role / "state" / "journal.db"
                row["modelled_joules_per_request"] = _joules(journal, row.pop("unix_nanoseconds"))
    medians = [
        {
            "model": model, "concurrency": concurrency, "server": role,
            **{key: statistics.median(row[key] for row in rows) for key in rows[0]},
        }
        for (model, concurrency, role), rows in found.items()
    ]  # fmt: skip
    return {"rows": medians, "programs": alone}


def ratios(found: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Compare the two daemons: throughput with 32 requests at a time, the slowest hundredth with one.

    `program` is the time that an image takes alone over that in a batch of 32, without a daemon: what would be gained
    if the program were all there is.
    """
    by = {(row["model"], row["concurrency"], row["server"]): row for row in found["rows"]}
    alone = {(row["model"], row["batch"]): row["cpu_seconds_per_image"] for row in found["programs"]}
    made = {}
    for model in MODELS:
        many, few = by[model, 32, "batching"], by[model, 32, "single"]
        made[f"{model}_throughput_at_32"] = many["requests_per_second"] / few["requests_per_second"]
        made[f"{model}_cpu_at_32"] = many["cpu_seconds_per_request"] / few["cpu_seconds_per_request"]
        made[f"{model}_joules_at_32"] = many["modelled_joules_per_request"] / few["modelled_joules_per_request"]
        made[f"{model}_p99_at_1"] = by[model, 1, "batching"]["p99_seconds"] / by[model, 1, "single"]["p99_seconds"]
        made[f"{model}_program"] = alone[model, 1] / alone[model, 32]
    return made


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Throughput and latency with and without batching.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--role", choices=ROLES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        _serve(options.folder, options.role, options.delay, options.threads)
        return
    found = measure(options.rounds, options.seconds, options.delay, options.threads)
    print("model  at a time  server    requests/s  p50 [ms]  p99 [ms]  CPU [us]  modelled [mJ]")
    for row in found["rows"]:
        print(
            f"{row['model']:6} {row['concurrency']:9}  {row['server']:8}  {row['requests_per_second']:10.0f}  "
            f"{row['p50_seconds'] * 1e3:8.2f}  {row['p99_seconds'] * 1e3:8.2f}  "
            f"{row['cpu_seconds_per_request'] * 1e6:8.0f}  {row['modelled_joules_per_request'] * 1e3:13.3f}"
        )
    for row in found["programs"]:
        print(
            f"{row['model']:6} alone, {row['batch']:2} images: {row['cpu_seconds_per_image'] * 1e6:6.1f} us of CPU each"
        )
    for name, ratio in ratios(found).items():
        print(f"{name:24} {ratio:6.2f}")
    if options.json:
        options.json.write_text(json.dumps({**found, "ratios": ratios(found)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
