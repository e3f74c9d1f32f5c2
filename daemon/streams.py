"""Answer the requests of a stream, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Reply = TypeVar("Reply")

# How many requests of one stream are served at the same time; further ones wait in the transport.
CONCURRENCY = 64


async def answer_each(
    requests: AsyncIterator[Request],
    outcome: Callable[[Request], Awaitable[Reply]],
    write: Callable[[Reply], Awaitable[None]],
) -> None:
    """Write the outcome of each request as it becomes ready. A slow reader holds its requests' slots."""
    slots = asyncio.Semaphore(CONCURRENCY)
    writing = asyncio.Lock()

    async def serve(request: Request) -> None:
        reply = await outcome(request)
        # gRPC fails a call that is written to twice at a time.
        async with writing:
            await write(reply)
        slots.release()

    async with asyncio.TaskGroup() as group:
        async for request in requests:
            await slots.acquire()
            group.create_task(serve(request))
