"""Drive a gRPC server with requests that are serialised already: in closed loop, in open loop, over a stream.

The same client for every server. In closed loop and over a stream it is one that costs next to nothing: beside a client
that takes half of the host, all servers look alike. What sends at a rate needs timers, and is gRPC's own on uvloop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import grpc
import numpy as np
import uvloop

from tests.bench.http2 import Connection

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
    """Keep so many requests under way. Raises `RuntimeError` where one is refused."""
    seconds: list[float] = []
    sent: dict[int, float] = {}
    answered: set[int] = set()
    with Connection(target.address, target.method) as connection:
        started = time.perf_counter()
        left = requests - concurrency
        for _ in range(min(concurrency, requests)):
            sent[connection.call(target.request)] = started
        while sent:
            for call, messages, ended in connection.events():
                if messages:
                    answered.add(call)
                if not ended:
                    continue
                now = time.perf_counter()
                if call not in answered:
                    raise RuntimeError(f"{target.address} refuses {target.method}")
                answered.remove(call)
                seconds.append(now - sent.pop(call))
                if left > 0:
                    left -= 1
                    sent[connection.call(target.request)] = now
        return Driven(requests, requests / (time.perf_counter() - started), seconds, 0)


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


def stream(target: Target, requests: int, concurrency: int, refused: Callable[[bytes], bool]) -> Driven:
    """Keep so many requests under way on one stream, which answers one as good as another.

    `refused` tells of an answer whether it is none; it is asked when all is over.
    """
    seconds: list[float] = []
    answers: list[bytes] = []
    with Connection(target.address, target.method) as connection:
        started = time.perf_counter()
        sent = deque([started] * min(concurrency, requests))
        left = requests - len(sent)
        call = connection.call(target.request, last=requests == 1)
        for number in range(2, len(sent) + 1):
            connection.send(call, target.request, last=number == requests)
        over = False
        while not over:
            for _, messages, ended in connection.events():
                over = ended
                now = time.perf_counter()
                for answer in messages:
                    answers.append(answer)
                    seconds.append(now - sent.popleft())
                    if left > 0:
                        left -= 1
                        sent.append(now)
                        connection.send(call, target.request, last=left == 0)
        rate = len(answers) / (time.perf_counter() - started)
    return Driven(requests, rate, seconds, requests - len(answers) + sum(map(refused, answers)))


@asynccontextmanager
async def _unary(target: Target) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Connect, and give what sends the request once."""
    async with grpc.aio.insecure_channel(target.address) as channel:
        await asyncio.wait_for(channel.channel_ready(), READY_SECONDS)
        method = channel.unary_unary(target.method, None, None)
        yield lambda: method(target.request, timeout=TIMEOUT_SECONDS)
