"""What overload does to a daemon: requests at one to ten times what it can answer, sent however late the answers are.

    python -m tests.bench.overload [--json FILE] [--seconds S] [--limit program|budget|both]

The capacity is set by a program that takes 20 ms an image, on a stand-in for the device `cpu` that runs one at a time,
or by the budget, which holds so many joules a second. Requests have half a second. Each is sent when it is due, from
a process beside the daemon, and its time counts from then. The bars: at ten times the capacity at least 90 % of the
best goodput, 99 of 100 refusals within 10 ms, and no more memory at the end than after the first overload.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import uvloop

from daemon.cli.serve import run_daemon
from hal.cpu import CpuProgram
from hal.device import Cost, Inference
from protos import open_inference_pb2 as oip

METHOD = "/inference.GRPCInferenceService/ModelInfer"
FACTORS = (1, 2, 4, 10)
DEADLINE_SECONDS = 0.5
PROGRAM_SECONDS = 0.02
# What an image costs on the stand-in, and what the budget holds for in a second.
JOULES = 0.01
BUDGET_RATE = 50.0
CONFIG = """
start_policy = "only"
[metrics]
address = ""
[device.cpu]
driver = "cpu"
[policy.only]
strategy = "accuracy"
budget_watts = {watts}
window_seconds = 1.0
"""
# Requests per second that the program or the budget lets through.
CAPACITIES = {"program": 1 / PROGRAM_SECONDS, "budget": BUDGET_RATE}


def _serve(folder: Path, limit: str) -> None:
    """Run a daemon whose processor takes 20 ms an image, or as good as nothing, and costs the same each time."""
    seconds = PROGRAM_SECONDS if limit == "program" else 0.0005
    labels = 10

    def run(_self: CpuProgram, images: Any, _steps: int, _margin: int = 0) -> Inference:
        time.sleep(seconds * len(images))
        return Inference(
            np.zeros((len(images), labels), np.float32), 1, seconds * len(images), JOULES * len(images), 0.0, 0.0
        )

    CpuProgram.__call__ = run  # type: ignore[assignment,method-assign]
    CpuProgram.cost = lambda *_: Cost(JOULES, JOULES, seconds)  # type: ignore[method-assign]
    config = folder / "jouled.toml"
    config.write_text(CONFIG.format(watts=JOULES * BUDGET_RATE if limit == "budget" else 1000.0))
    run_daemon(config, "", folder / "state", folder / "run")


async def _send(address: str, rate: float, seconds: float) -> list[tuple[str, float]]:
    """Send requests when they are due; give status and seconds of each, from when it was due."""
    image = np.zeros((1, 8, 8), np.uint8)
    request = oip.ModelInferRequest(model_name="digits", raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=image.shape)
    message, ends = request.SerializeToString(), list[tuple[str, float]]()
    # Each connection has a limit of streams; beyond it requests would wait in the client.
    channels = [grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(8)]
    calls = [channel.unary_unary(METHOD, None, None) for channel in channels]
    await asyncio.gather(*(asyncio.wait_for(channel.channel_ready(), 60) for channel in channels))

    async def one(index: int, due: float) -> None:
        await asyncio.sleep(due - time.perf_counter())
        status = "OK"
        try:
            await calls[index % len(calls)](message, timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        ends.append((status, time.perf_counter() - due))

    started = time.perf_counter() + 0.1
    await asyncio.gather(*(one(index, started + index / rate) for index in range(round(rate * seconds))))
    await asyncio.gather(*(channel.close(None) for channel in channels))
    return ends


def _send_apart(address: str, rate: float, seconds: float) -> list[tuple[str, float]]:
    """Send from a process of its own."""
    return uvloop.run(_send(address, rate, seconds))


def measure(limit: str, seconds: float) -> list[dict[str, Any]]:
    """Measure one limit at rising rates, the highest one twice."""
    capacity, rows = CAPACITIES[limit], []
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(1) as sender:
        command = [sys.executable, "-m", "tests.bench.overload", "--folder", name, "--role", limit]
        server = psutil.Popen(command, stderr=subprocess.DEVNULL)
        address = f"unix:{Path(name) / 'run' / 'jouled.sock'}"
        try:
            sender.submit(_send_apart, address, capacity, 1.0).result()
            for factor in (*FACTORS, FACTORS[-1]):
                ends = sender.submit(_send_apart, address, factor * capacity, seconds).result()
                rows.append(_row(limit, factor, ends, seconds, server.memory_info().rss))
        finally:
            server.terminate()
            server.wait(30)
    return rows


def _row(limit: str, factor: int, ends: list[tuple[str, float]], seconds: float, rss: int) -> dict[str, Any]:
    statuses = {status: sum(each == status for each, _ in ends) for status in sorted({each for each, _ in ends})}
    refused = [took for status, took in ends if status == "RESOURCE_EXHAUSTED"]
    answered = [took for status, took in ends if status == "OK"]
    return {
        "limit": limit, "factor": factor, "statuses": statuses, "goodput_per_second": len(answered) / seconds,
        "answers_p99_seconds": float(np.percentile(answered, 99)) if answered else None,
        "refusals_p99_seconds": float(np.percentile(refused, 99)) if refused else None, "rss_bytes": rss,
    }  # fmt: skip


def bars(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Compare with the bars: goodput at the highest rate over the best, slowest refusals, growth of memory."""
    last, first = rows[-1], next(row for row in rows if row["factor"] == FACTORS[-1])
    return {
        "goodput_at_10": last["goodput_per_second"] / max(row["goodput_per_second"] for row in rows),
        "refusals_p99_seconds": max(row["refusals_p99_seconds"] or 0.0 for row in rows),
        "growth_bytes": last["rss_bytes"] - first["rss_bytes"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Goodput and refusals beyond the capacity.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--limit", choices=[*CAPACITIES, "both"], default="both")
    parser.add_argument("--role", choices=list(CAPACITIES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        _serve(options.folder, options.role)
        return
    limits = list(CAPACITIES) if options.limit == "both" else [options.limit]
    found = {limit: measure(limit, options.seconds) for limit in limits}
    for limit, rows in found.items():
        print(f"limited by the {limit}, {CAPACITIES[limit]:.0f} requests/s")
        for row in rows:
            refusals = (row["refusals_p99_seconds"] or 0.0) * 1e3
            print(
                f"  {row['factor']:3} x: {row['goodput_per_second']:6.1f} answered/s, refusals p99 {refusals:6.1f} ms, "
                f"{row['rss_bytes'] / 2**20:6.1f} MiB, {row['statuses']}"
            )
        print("  " + ", ".join(f"{name} {value:.4g}" for name, value in bars(rows).items()))
    if options.json:
        content = {"rows": [row for rows in found.values() for row in rows]}
        content["bars"] = {limit: bars(rows) for limit, rows in found.items()}  # type: ignore[assignment]
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
