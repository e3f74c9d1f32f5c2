"""CPU of one request: a warm daemon against a bare grpc.aio echo server, in the same run.

    python -m tests.bench.overhead [--json FILE] [--rounds N] [--requests N]

Both servers run on uvloop, each in a process of its own, and are driven in turn by the same client over a Unix socket:
with eight requests at a time, where the echo is the quicker one and each does as much as it can, and both at the same
steady rate. The daemon has the shipped configuration. The time that the program itself runs is measured inside the
daemon and left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import uvloop

from daemon.cli.demo import reference_configuration
from daemon.cli.serve import run_daemon
from hal.cpu import CpuProgram
from hal.loihi_sim import LoihiSimProgram
from hal.ncs2_sim import Ncs2SimProgram
from protos import jouled_pb2 as pb

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONCURRENCY = 8
# Requests per second of the steady rate, about a third of what the daemon can do.
STEADY_RATE = 1000
METHOD = "/jouled.v1.Classifier/Classify"


async def _echo(address: str) -> None:
    """Serve the barest method there is: bytes in, the same bytes out."""

    async def echo(request: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    service, method = METHOD.strip("/").split("/")
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(echo)})
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def _serve_counting(folder: Path) -> None:
    """Run a daemon that adds up the CPU of its programs in the file `program` of its folder."""
    counter = folder / "program"
    counter.write_bytes(bytes(8))
    with counter.open("r+b") as file:
        total = np.frombuffer(mmap.mmap(file.fileno(), 8), np.int64)
    for program in (CpuProgram, LoihiSimProgram, Ncs2SimProgram):
        _count(program, total)
    run_daemon(reference_configuration(), "", folder / "state", folder / "run", metrics_address="")


def _count(program: Any, total: NDArray[np.int64]) -> None:
    run = program.__call__

    def counted(self: Any, images: Any, steps: int, margin: int = 0) -> Any:
        started = time.thread_time_ns()
        inference = run(self, images, steps, margin)
        total[0] += time.thread_time_ns() - started
        return inference

    program.__call__ = counted


async def _drive(address: str, requests: int, rate: float) -> float:
    """Send requests at a steady rate, or where that is 0 eight at a time; give the rate that came of it."""
    image = np.zeros((8, 8), np.uint8)
    tensor = pb.Tensor(dtype="uint8", shape=image.shape, data=image.tobytes())
    request = pb.ClassifyRequest(model="digits", tensor=tensor).SerializeToString()
    left = requests
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        call = channel.unary_unary(METHOD, request_serializer=None, response_deserializer=None)

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await call(request, timeout=5)

        async def send_at(moment: float) -> None:
            await asyncio.sleep(moment - time.perf_counter())
            await call(request, timeout=5)

        started = time.perf_counter()
        if rate:
            await asyncio.gather(*(send_at(started + index / rate) for index in range(requests)))
        else:
            await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
        return requests / (time.perf_counter() - started)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(rounds: int, requests: int) -> dict[str, dict[str, float]]:
    """Measure both servers in turn, eight requests at a time and at a steady rate.

    Gives medians over the rounds: seconds of CPU per request, and their ratio.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        addresses = {"echo": f"unix:{folder / 'echo.sock'}", "daemon": f"unix:{folder / 'run' / 'jouled.sock'}"}
        servers = {
            role: psutil.Popen([sys.executable, "-m", "tests.bench.overhead", "--role", role, "--folder", name],
                               stderr=subprocess.DEVNULL)
            for role in addresses
        }  # fmt: skip
        try:
            for address in addresses.values():
                _wait_for_socket(address)
                uvloop.run(_drive(address, requests, 0))
            return {
                "closed": _compare(servers, addresses, folder, rounds, requests, 0),
                "steady": _compare(servers, addresses, folder, rounds, requests, STEADY_RATE),
            }
        finally:
            for server in servers.values():
                server.terminate()
            for server in servers.values():
                server.wait(30)


def _compare(
    servers: dict[str, psutil.Popen], addresses: dict[str, str], folder: Path, rounds: int, requests: int, rate: float
) -> dict[str, float]:
    rows: dict[str, list[float]] = {"echo": [], "daemon": [], "program": [], "ratio": [], "rate": [], "echo_rate": []}
    for _ in range(rounds):
        for role, address in addresses.items():
            before, program = _cpu_seconds(servers[role]), _program_seconds(folder)
            reached = uvloop.run(_drive(address, requests, rate))
            own = _program_seconds(folder) - program
            rows[role].append((_cpu_seconds(servers[role]) - before - own) / requests)
            rows["rate" if role == "daemon" else "echo_rate"].append(reached)
            if role == "daemon":
                rows["program"].append(own / requests)
                rows["ratio"].append(rows["daemon"][-1] / rows["echo"][-1])
    return {key: statistics.median(values) for key, values in rows.items()}


def _wait_for_socket(address: str) -> None:
    path = Path(address.removeprefix("unix:"))
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _program_seconds(folder: Path) -> float:
    return int.from_bytes((folder / "program").read_bytes(), "little") * 1e-9


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU of a request against a bare echo server.")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--role", choices=["echo", "daemon"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role == "echo":
        uvloop.run(_echo(f"unix:{options.folder / 'echo.sock'}"))
    elif options.role == "daemon":
        _serve_counting(options.folder)
    else:
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
