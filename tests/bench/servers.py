"""The servers that benchmarks compare, each in a process of its own, and what a server takes of the host.

python -m tests.bench.servers echo ADDRESS
python -m tests.bench.servers daemon CONFIG FOLDER ADDRESS
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import uvloop

from daemon.cli.serve import run_daemon
from hal.cpu import CpuProgram
from hal.loihi_sim import LoihiSimProgram
from hal.ncs2_sim import Ncs2SimProgram

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from tests.bench.drive import Target

START_SECONDS = 60.0
STOP_SECONDS = 30.0
# The file in a daemon's folder where it adds up the CPU of its programs.
PROGRAM = "program"


def echo_command(address: str) -> list[str]:
    """Give the command of the barest server there is: any method, bytes in, the same bytes out."""
    return [sys.executable, "-m", "tests.bench.servers", "echo", address]


def daemon_command(config: Path, folder: Path, address: str) -> list[str]:
    """Give the command of a daemon that counts the CPU of its programs; without an address it has no TCP."""
    return [sys.executable, "-m", "tests.bench.servers", "daemon", str(config), str(folder), address]


@contextlib.contextmanager
def started(command: Sequence[str]) -> Iterator[psutil.Process]:
    """Run a server until the end of the block."""
    # As many threads as the network needs: the same for every server.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        try:
            yield process
        finally:
            tree = [process, *process.children(recursive=True)]
            process.terminate()
            _, alive = psutil.wait_procs(tree, STOP_SECONDS)
            for each in alive:
                each.kill()


def wait_until_it_answers(process: psutil.Process, target: Target) -> None:
    """Wait for a server's first answer. Raises `RuntimeError` where it ends, or does not answer in time."""
    deadline = time.monotonic() + START_SECONDS
    with grpc.insecure_channel(target.address, [("grpc.max_reconnect_backoff_ms", 100)]) as channel:
        call = channel.unary_unary(target.method, None, None)
        while True:
            try:
                call(target.request, timeout=1.0)
                return
            except grpc.RpcError as error:
                if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
                    raise RuntimeError(f"{target.address} does not answer: {error}") from error
            time.sleep(0.02)


def cpu_seconds(process: psutil.Process) -> float:
    """Give the processor time of a server and of all that it started."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        times = each.cpu_times()
        total += times.user + times.system
    return total


def rss_bytes(process: psutil.Process) -> int:
    """Give the memory of a server and of all that it started; pages that they share count each time."""
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def program_seconds(folder: Path) -> float:
    """Give the processor time that the programs of the daemon in this folder have taken."""
    return int.from_bytes((folder / PROGRAM).read_bytes(), "little") * 1e-9


async def _echo(address: str) -> None:
    async def unary(request: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    class AnyMethod(grpc.GenericRpcHandler):  # type: ignore[type-arg]
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            return handler

    handler = grpc.unary_unary_rpc_method_handler(unary)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((AnyMethod(),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


def _daemon(config: Path, folder: Path, address: str) -> None:
    counter = folder / PROGRAM
    counter.write_bytes(bytes(8))
    with counter.open("r+b") as file:
        total = np.frombuffer(mmap.mmap(file.fileno(), 8), np.int64)
    for program in (CpuProgram, LoihiSimProgram, Ncs2SimProgram):
        _count(program, total)
    run_daemon(config, address, folder / "state", folder / "run", metrics_address="")


def _count(program: Any, total: NDArray[np.int64]) -> None:
    run = program.__call__

    def counted(self: Any, images: Any, steps: int, margin: int = 0) -> Any:
        before = time.thread_time_ns()
        inference = run(self, images, steps, margin)
        total[0] += time.thread_time_ns() - before
        return inference

    program.__call__ = counted


def main(role: str, *arguments: str) -> None:
    """Serve until told to stop."""
    if role == "echo":
        with contextlib.suppress(asyncio.CancelledError):
            uvloop.run(_echo(*arguments))
    else:
        config, folder, address = arguments
        _daemon(Path(config), Path(folder), address)


if __name__ == "__main__":
    main(*sys.argv[1:])
