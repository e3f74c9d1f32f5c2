"""What batching is worth: one daemon that runs what waits together as one batch, beside one that runs one at a time.

    python -m tests.bench.batching [--json FILE] [--rounds N] [--seconds S] [--delay SECONDS]

Both serve the same networks on the device `cpu` alone, each in a process of its own, and are driven in turn by the same
client over a Unix socket, in closed loop, with 1 and with 32 requests at a time. `wide` is a made-up network of three
dense layers whose 23 MB of weights are read from memory for every run; `mnist` is the shipped convolutional one, which
computes on what it has read. With `--delay`, the policy lets the batching daemon wait for a fuller batch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import uvloop

from daemon.cli.serve import run_daemon
from hal.artifact import FORMAT, Manifest, OperatingPoint, Origin, TensorSpec
from hal.cpu import Cpu
from hal.device import Kind
from models import ir, onnx_export, writer
from protos import open_inference_pb2 as oip

MODELS = ("wide", "mnist")
CONCURRENCIES = (1, 32)
METHOD = "/inference.GRPCInferenceService/ModelInfer"
TRAINED = Path(onnx_export.__file__).parent / "trained"
CONFIG = """
start_policy = "roomy"
repository = "{folder}/repository"
[metrics]
address = ""
[device.cpu]
driver = "cpu"
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


def _serve(folder: Path, role: str, delay: float) -> None:
    """Run a daemon; `single` runs one request at a time."""
    if role == "single":
        Cpu.batch_limit = 1
        delay = 0.0
    place = folder / role
    place.mkdir()
    config = place / "jouled.toml"
    config.write_text(CONFIG.format(folder=folder, delay=delay))
    run_daemon(config, "", place / "state", place / "run")


async def _drive(address: str, model: str, concurrency: int, seconds: float) -> dict[str, float]:
    """Keep so many requests under way; give what came of it, joules as the replies tell them: modelled."""
    image = np.random.default_rng(1).integers(0, 256, (1, 28, 28), np.uint8)
    request = oip.ModelInferRequest(model_name=model, raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=image.shape)
    message, times, joules = request.SerializeToString(), list[float](), 0.0
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 60)
        call = channel.unary_unary(METHOD, None, None)
        started = time.perf_counter()

        async def worker() -> None:
            nonlocal joules
            while (sent := time.perf_counter()) - started < seconds:
                reply = await call(message, timeout=10)
                times.append(time.perf_counter() - sent)
                if len(times) % 50 == 0:
                    joules += oip.ModelInferResponse.FromString(reply).parameters["energy_joules"].double_param

        await asyncio.gather(*(worker() for _ in range(concurrency)))
        took = time.perf_counter() - started
    p50, p99 = np.percentile(times, (50, 99))
    return {
        "requests_per_second": len(times) / took, "p50_seconds": float(p50), "p99_seconds": float(p99),
        "modelled_joules_per_request": joules / max(len(times) // 50, 1),
    }  # fmt: skip


def measure(rounds: int, seconds: float, delay: float) -> list[dict[str, Any]]:
    """Measure both daemons in turn; give the medians over the rounds by network, concurrency and daemon."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_wide(folder / "repository")
        shutil.copytree(TRAINED / "mnist" / "1" / "dnn", folder / "repository" / "mnist" / "1" / "dnn")
        command = [sys.executable, "-m", "tests.bench.batching", "--folder", name, "--delay", str(delay), "--role"]
        roles = ("batching", "single")
        servers = [psutil.Popen([*command, role], stderr=subprocess.DEVNULL) for role in roles]
        found: dict[tuple[str, int, str], list[dict[str, float]]] = {}
        try:
            for _ in range(rounds + 1):
                for model in MODELS:
                    for concurrency in CONCURRENCIES:
                        for role in roles:
                            address = f"unix:{folder / role / 'run' / 'jouled.sock'}"
                            row = uvloop.run(_drive(address, model, concurrency, seconds))
                            found.setdefault((model, concurrency, role), []).append(row)
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait(30)
    return [
        {
            "model": model, "concurrency": concurrency, "server": role,
            # The first round warms up.
            **{key: statistics.median(row[key] for row in rows[1:]) for key in rows[0]},
        }
        for (model, concurrency, role), rows in found.items()
    ]  # fmt: skip


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Compare the two daemons: throughput with 32 requests at a time, the slowest hundredth with one."""
    by = {(row["model"], row["concurrency"], row["server"]): row for row in rows}
    found = {}
    for model in MODELS:
        many, alone = by[model, 32, "batching"], by[model, 32, "single"]
        found[f"{model}_throughput_at_32"] = many["requests_per_second"] / alone["requests_per_second"]
        found[f"{model}_joules_at_32"] = many["modelled_joules_per_request"] / alone["modelled_joules_per_request"]
        one, single = by[model, 1, "batching"], by[model, 1, "single"]
        found[f"{model}_p99_at_1"] = one["p99_seconds"] / single["p99_seconds"]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Throughput and latency with and without batching.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--role", choices=["batching", "single"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        _serve(options.folder, options.role, options.delay)
        return
    rows = measure(options.rounds, options.seconds, options.delay)
    print("model  at a time  server    requests/s  p50 [ms]  p99 [ms]  modelled [mJ]")
    for row in rows:
        print(
            f"{row['model']:6} {row['concurrency']:9}  {row['server']:8}  {row['requests_per_second']:10.0f}  "
            f"{row['p50_seconds'] * 1e3:8.2f}  {row['p99_seconds'] * 1e3:8.2f}  "
            f"{row['modelled_joules_per_request'] * 1e3:13.3f}"
        )
    for name, ratio in ratios(rows).items():
        print(f"{name:24} {ratio:6.2f}")
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "ratios": ratios(rows)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
