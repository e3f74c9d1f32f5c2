"""What metrics and an open page cost at full load: a daemon that is watched against one that counts nothing.

    python -m tests.bench.watched [--json FILE] [--rounds N] [--requests N]

Both have the shipped configuration and are driven in turn, eight requests at a time, by the same client. The watched
one is scraped each second, with exemplars, and tells an open page each second; who reads runs beside, at the lowest
priority. The other one has no HTTP server, and neither tally nor samples. The daemons have one core of the host, and
who drives and reads has another: where the kernel puts them otherwise makes more of a difference.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np

from daemon.cli.demo import reference_configuration
from daemon.cli.serve import run_daemon
from daemon.pulse import Pulse
from daemon.tally import Tally
from protos import jouled_pb2 as pb
from tests.bench import drive, servers
from tests.bench.overhead import CONCURRENCY, METHOD
from tests.daemon.serving import free_port

OPEN_METRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
BAR_PERCENT = 3.0


def measure(rounds: int, requests: int) -> dict[str, float]:
    """Drive both in turn; give medians over the rounds: answers per second, and seconds of CPU per request."""
    image = np.zeros((8, 8), np.uint8)
    tensor = pb.Tensor(dtype="uint8", shape=image.shape, data=image.tobytes())
    request = pb.ClassifyRequest(model="digits", tensor=tensor).SerializeToString()
    rows: dict[str, list[float]] = {f"{role}_{what}": [] for role in ("bare", "watched") for what in ("rate", "cpu")}
    ratios: dict[str, list[float]] = {"rate": [], "cpu": []}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        address = f"127.0.0.1:{free_port()}"
        running, targets = {}, {}
        for role, metrics in (("bare", ""), ("watched", address)):
            folder = Path(name, role)
            folder.mkdir()
            command = [sys.executable, "-m", "tests.bench.watched", "--serve", str(folder), "--metrics", metrics]
            running[role] = stack.enter_context(servers.started(["taskset", "-c", "0", *command]))
            targets[role] = drive.Target(f"unix:{folder / 'run' / 'jouled.sock'}", METHOD, request)
            servers.wait_until_it_answers(running[role], targets[role])
            drive.closed(targets[role], requests, CONCURRENCY)
        reader = [sys.executable, "-m", "tests.bench.watched", "--read", address]
        stack.enter_context(servers.started(["taskset", "-c", "1", *reader]))
        for number in range(rounds):
            for role in ("bare", "watched") if number % 2 else ("watched", "bare"):
                before = servers.cpu_seconds(running[role])
                driven = drive.closed(targets[role], requests, CONCURRENCY)
                rows[f"{role}_rate"].append(driven.requests_per_second)
                rows[f"{role}_cpu"].append((servers.cpu_seconds(running[role]) - before) / requests)
            for what, each in ratios.items():
                each.append(rows[f"watched_{what}"][-1] / rows[f"bare_{what}"][-1])
    cost = {
        "cost_percent": 100 * (1 - statistics.median(ratios["rate"])),
        "cpu_percent": 100 * (statistics.median(ratios["cpu"]) - 1),
    }
    return {key: statistics.median(values) for key, values in rows.items()} | cost


def _serve(folder: Path, metrics: str) -> None:
    """Run a daemon; without metrics it does not count either."""
    if not metrics:
        Tally.ended = Tally.final = lambda *_: None  # type: ignore[method-assign, assignment]
        take = Pulse.take
        Pulse.take = lambda self: None if self.past else take(self)  # type: ignore[method-assign]
    run_daemon(reference_configuration(), "", folder / "state", folder / "run", metrics_address=metrics)


def _read(address: str) -> None:
    """Scrape each second and keep a page open, until ended."""
    os.nice(19)

    def page() -> None:
        with urllib.request.urlopen(f"http://{address}/events") as stream:
            for _ in stream:
                pass

    threading.Thread(target=page, daemon=True).start()
    while True:
        with urllib.request.urlopen(urllib.request.Request(f"http://{address}/metrics", headers=OPEN_METRICS)) as reply:
            reply.read()
        time.sleep(1.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What metrics and an open page cost at full load.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--requests", type=int, default=1500)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--metrics", default="", help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve(options.serve, options.metrics)
    elif options.read:
        _read(options.read)
    else:
        os.sched_setaffinity(0, {1})
        found = measure(options.rounds, options.requests)
        for role in ("bare", "watched"):
            rate, cpu = found[f"{role}_rate"], found[f"{role}_cpu"]
            print(f"  {role:8} {rate:6.0f} requests/s, {cpu * 1e6:6.1f} us of CPU per request")
        print(f"  cost     {found['cost_percent']:6.2f} % of the requests per second (bar: {BAR_PERCENT} %)")
        print(f"  cost     {found['cpu_percent']:6.2f} % more CPU per request")
        if options.json:
            options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
