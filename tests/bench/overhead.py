"""CPU of one `Classify`: a warm daemon with the shipped configuration against a bare grpc.aio echo, in the same run.

    python -m tests.bench.overhead [--json FILE] [--rounds N] [--requests N]

Both servers run on uvloop, each in a process of its own, and are driven in turn by the same client over a Unix socket:
with eight requests at a time, where the echo is the quicker one and each does as much as it can, and both at the same
steady rate. The time that the program itself runs is measured inside the daemon and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from daemon.cli.demo import reference_configuration
from protos import jouled_pb2 as pb
from tests.bench import drive, servers

if TYPE_CHECKING:
    import psutil

CONCURRENCY = 8
# Requests per second of the steady rate, about a third of what the daemon can do.
STEADY_RATE = 1000
METHOD = "/jouled.v1.Classifier/Classify"


def measure(rounds: int, requests: int) -> dict[str, dict[str, float]]:
    """Measure both servers in turn, eight requests at a time and at a steady rate.

    Gives medians over the rounds: seconds of CPU per request, and their ratio.
    """
    image = np.zeros((8, 8), np.uint8)
    tensor = pb.Tensor(dtype="uint8", shape=image.shape, data=image.tobytes())
    request = pb.ClassifyRequest(model="digits", tensor=tensor).SerializeToString()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        addresses = {"echo": f"unix:{folder / 'echo.sock'}", "daemon": f"unix:{folder / 'run' / 'jouled.sock'}"}
        commands = {
            "echo": servers.echo_command(addresses["echo"]),
            "daemon": servers.daemon_command(reference_configuration(), folder, ""),
        }
        running = {role: stack.enter_context(servers.started(command)) for role, command in commands.items()}
        targets = {role: drive.Target(address, METHOD, request) for role, address in addresses.items()}
        for role, target in targets.items():
            servers.wait_until_it_answers(running[role], target)
            drive.closed(target, requests, CONCURRENCY)
        return {
            "closed": _compare(running, targets, folder, rounds, requests, 0),
            "steady": _compare(running, targets, folder, rounds, requests, STEADY_RATE),
        }


def _compare(
    running: dict[str, psutil.Process], targets: dict[str, drive.Target], folder: Path, rounds: int, requests: int,
    rate: float,
) -> dict[str, float]:  # fmt: skip
    rows: dict[str, list[float]] = {"echo": [], "daemon": [], "program": [], "ratio": [], "rate": [], "echo_rate": []}
    for _ in range(rounds):
        for role, target in targets.items():
            before, program = servers.cpu_seconds(running[role]), servers.program_seconds(folder)
            driven = drive.steady(target, requests, rate) if rate else drive.closed(target, requests, CONCURRENCY)
            own = servers.program_seconds(folder) - program
            rows[role].append((servers.cpu_seconds(running[role]) - before - own) / requests)
            rows["rate" if role == "daemon" else "echo_rate"].append(driven.requests_per_second)
            if role == "daemon":
                rows["program"].append(own / requests)
                rows["ratio"].append(rows["daemon"][-1] / rows["echo"][-1])
    return {key: statistics.median(values) for key, values in rows.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU of a request against a bare echo server.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=3000)
    options = parser.parse_args()
    result = measure(options.rounds, options.requests)
    for title, found in (("eight at a time", result["closed"]), ("both at the same rate", result["steady"])):
        print(title)
        print(f"  bare echo {found['echo'] * 1e6:7.1f} us of CPU per request, {found['echo_rate']:6.0f} requests/s")
        print(f"  daemon    {found['daemon'] * 1e6:7.1f} us of CPU per request, {found['rate']:6.0f} requests/s")
        print(f"  program   {found['program'] * 1e6:7.1f} us of CPU per request, not counted above")
        print(f"  ratio     {found['ratio']:7.2f} (bar: 2.0)")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
