"""What overload does to a daemon: requests at one to ten times what it can answer, sent however late the answers are.

    python -m tests.bench.overload [--json FILE] [--seconds S] [--limit program|budget|both]

The capacity is set by a program that takes 20 ms an image, on a stand-in for the device `cpu` that runs one at a time,
or by the budget, which holds so many joules a second. Requests have half a second. Each is sent when it is due, from
a process beside the daemon, and its time counts from then. The bars: at ten times the capacity at least 90 % of the
best goodput, 99 of 100 refusals within 10 ms, and no more memory at the end than after the first overload.

On a host that has other things to do every call is late now and then. So `ServerLive`, which decides nothing, is called
beside the requests fifty times a second, and the daemon's journal is asked how long the refusals took in there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import uvloop

from daemon.cli.serve import run_daemon
from daemon.clock import NANO
from daemon.errors import STATUS, OverBudget, Overloaded
from daemon.journal import MOVE_INTERVAL_SECONDS
from hal.cpu import CpuProgram
from hal.device import Cost, Inference
from protos import open_inference_pb2 as oip

METHOD = "/inference.GRPCInferenceService/ModelInfer"
LIVE = "/inference.GRPCInferenceService/ServerLive"
LIVE_RATE = 50
# How the journal calls refusals; by when it has them.
REFUSALS = [STATUS[error] for error in (OverBudget, Overloaded)]
JOURNAL_SECONDS = 3 * MOVE_INTERVAL_SECONDS
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
    """Send requests when they are due; give status and seconds of each, from when it was due; "LIVE" is no request."""
    image = np.zeros((1, 8, 8), np.uint8)
    request = oip.ModelInferRequest(model_name="digits", raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=image.shape)
    message, ends = request.SerializeToString(), list[tuple[str, float]]()
    # Each connection has a limit of streams; beyond it requests would wait in the client.
    channels = [grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(8)]
    calls = [channel.unary_unary(METHOD, None, None) for channel in channels]
    await asyncio.gather(*(asyncio.wait_for(channel.channel_ready(), 60) for channel in channels))

    live = channels[0].unary_unary(LIVE, None, None)

    async def one(call: Any, content: bytes, due: float, status: str) -> None:
        await asyncio.sleep(due - time.perf_counter())
        try:
            await call(content, timeout=DEADLINE_SECONDS)
        except grpc.aio.AioRpcError as error:
            status = error.code().name
        ends.append((status, time.perf_counter() - due))

    started = time.perf_counter() + 0.1
    await asyncio.gather(
        *(
            one(calls[index % len(calls)], message, started + index / rate, "OK")
            for index in range(round(rate * seconds))
        ),
        *(one(live, b"", started + index / LIVE_RATE, "LIVE") for index in range(round(LIVE_RATE * seconds))),
    )
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
                began = time.time_ns()
                ends = sender.submit(_send_apart, address, factor * capacity, seconds).result()
                time.sleep(JOURNAL_SECONDS)
                within = _refused_within(Path(name) / "state" / "journal.db", began)
                rows.append(_row(limit, factor, ends, within, seconds, server.memory_info().rss))
        finally:
            server.terminate()
            server.wait(30)
    return rows


def _refused_within(journal: Path, began_unix: int) -> list[float]:
    """Give the seconds that refusals since then took in the daemon, from the request's acceptance to its end."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as database:
        marks = ", ".join("?" * len(REFUSALS))
        found = database.execute(
            f"SELECT ended - accepted FROM requests WHERE accepted_unix >= ? AND status IN ({marks})",  # noqa: S608
            (began_unix, *REFUSALS),
        )
        return [nanoseconds / NANO for (nanoseconds,) in found]


def _row(
    limit: str, factor: int, ends: list[tuple[str, float]], within: list[float], seconds: float, rss: int
) -> dict[str, Any]:
    live = [took for status, took in ends if status == "LIVE"]
    ends = [end for end in ends if end[0] != "LIVE"]
    statuses = {status: sum(each == status for each, _ in ends) for status in sorted({each for each, _ in ends})}
    refused = [took for status, took in ends if status == "RESOURCE_EXHAUSTED"]
    answered = [took for status, took in ends if status == "OK"]
    return {
        "limit": limit, "factor": factor, "statuses": statuses, "goodput_per_second": len(answered) / seconds,
        "answers_p99_seconds": _p99(answered), "refusals_p99_seconds": _p99(refused),
        "refusals_in_daemon_p99_seconds": _p99(within), "live_p99_seconds": _p99(live), "rss_bytes": rss,
    }  # fmt: skip


def _p99(seconds: list[float]) -> float | None:
    return float(np.percentile(seconds, 99)) if seconds else None


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
            refusals, within, live = (
                (row[f"{name}_p99_seconds"] or 0.0) * 1e3 for name in ("refusals", "refusals_in_daemon", "live")
            )
            print(
                f"  {row['factor']:3} x: {row['goodput_per_second']:6.1f} answered/s, refusals p99 {refusals:6.1f} ms, "
                f"in the daemon {within:5.2f} ms, of ServerLive {live:6.1f} ms, {row['rss_bytes'] / 2**20:6.1f} MiB, "
                f"{row['statuses']}"
            )
        print("  " + ", ".join(f"{name} {value:.4g}" for name, value in bars(rows).items()))
    if options.json:
        content = {"rows": [row for rows in found.values() for row in rows]}
        content["bars"] = {limit: bars(rows) for limit, rows in found.items()}  # type: ignore[assignment]
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
