"""Drive a gRPC server with requests that are serialised already: in closed loop, in open loop, over a stream.

The same client for every server: what it costs, all pay alike. It runs on uvloop.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import grpc
import numpy as np
import uvloop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

# No request waits for longer; in open loop beyond capacity this bounds how many are under way.
TIMEOUT_SECONDS = 5.0
READY_SECONDS = 30.0


class Target(NamedTuple):
    """Where a server listens, the method to call and the serialised request."""

    address: str
    method: str
    request: bytes


class Driven(NamedTuple):
    """What a drive came to: answers per second, the latency of each, and how many requests had no answer."""

    requests: int
    requests_per_second: float
    seconds: list[float]
    failed: int

    def percentile_seconds(self, percent: float) -> float:
        """Give a percentile of the latencies."""
        return float(np.percentile(self.seconds, percent)) if self.seconds else float("nan")


def closed(target: Target, requests: int, concurrency: int) -> Driven:
    """Keep so many requests under way. Raises `grpc.RpcError` where one is refused."""

    async def drive() -> Driven:
        seconds: list[float] = []
        left = requests

        async def work(call: Callable[[], Awaitable[bytes]]) -> None:
            nonlocal left
            while left > 0:
                left -= 1
                sent = time.perf_counter()
                await call()
                seconds.append(time.perf_counter() - sent)

        async with _unary(target) as call:
            started = time.perf_counter()
            await asyncio.gather(*(work(call) for _ in range(concurrency)))
            return Driven(requests, requests / (time.perf_counter() - started), seconds, 0)

    return uvloop.run(drive())


def steady(target: Target, requests: int, rate: float) -> Driven:
    """Send at a rate, whatever comes back; a latency counts from when its request was to be sent."""

    async def drive() -> Driven:
        seconds: list[float] = []

        async def send(call: Callable[[], Awaitable[bytes]], due: float) -> None:
            try:
                await call()
            except grpc.RpcError:
                return
            seconds.append(time.perf_counter() - due)

        async with _unary(target) as call, asyncio.TaskGroup() as group:
            started = time.perf_counter()
            for index in range(requests):
                due = started + index / rate
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                group.create_task(send(call, due))
        return Driven(requests, len(seconds) / (time.perf_counter() - started), seconds, requests - len(seconds))

    return uvloop.run(drive())


def stream(target: Target, requests: int, concurrency: int) -> Driven:
    """Keep so many requests under way on one stream, which answers one as good as another."""

    async def drive() -> Driven:
        sent: asyncio.Queue[float] = asyncio.Queue()
        slots = asyncio.Semaphore(concurrency)
        seconds: list[float] = []
        async with grpc.aio.insecure_channel(target.address) as channel:
            await asyncio.wait_for(channel.channel_ready(), READY_SECONDS)
            call = channel.stream_stream(target.method, None, None)()  # type: ignore[call-arg]

            async def read() -> None:
                for _ in range(requests):
                    assert isinstance(await call.read(), bytes)
                    seconds.append(time.perf_counter() - sent.get_nowait())
                    slots.release()

            started = time.perf_counter()
            reading = asyncio.create_task(read())
            for _ in range(requests):
                await slots.acquire()
                sent.put_nowait(time.perf_counter())
                await call.write(target.request)
            await reading
            rate = requests / (time.perf_counter() - started)
            await call.done_writing()
        return Driven(requests, rate, seconds, 0)

    return uvloop.run(drive())


@asynccontextmanager
async def _unary(target: Target) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Connect, and give what sends the request once."""
    async with grpc.aio.insecure_channel(target.address) as channel:
        await asyncio.wait_for(channel.channel_ready(), READY_SECONDS)
        method = channel.unary_unary(target.method, None, None)
        yield lambda: method(target.request, timeout=TIMEOUT_SECONDS)
