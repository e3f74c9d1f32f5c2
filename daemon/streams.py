"""Answer the requests of streams, many at a time, until the daemon drains."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from daemon.errors import Draining
from daemon.http2.call import ClientGone

Request = TypeVar("Request")
Reply = TypeVar("Reply")

# How many requests of one stream are served at the same time; further ones wait in the transport.
CONCURRENCY = 64


class Call(Protocol):
    """What is needed of a stream's call."""

    async def write(self, reply: Any) -> None:
        """Send a reply, in one piece. Raises `ClientGone`."""


class Streams:
    """All streams that are open. A client may keep one for ever, which must not hold up the end of the daemon."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Task[None]] = set()
        self._draining = False

    def drain(self) -> None:
        """Read no more requests: each stream ends when those under way are answered, an idle one at once."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def answer_each(
        self, requests: AsyncIterator[Request], outcome: Callable[[Request], Awaitable[Reply]], call: Call
    ) -> None:
        """Write the outcome of each request as it becomes ready. A slow reader holds its requests' slots.

        A stream that the drain ends has the status UNAVAILABLE: what it was sent since is for another server.
        """
        slots = asyncio.Semaphore(CONCURRENCY)

        async def serve(request: Request) -> None:
            reply = await outcome(request)
            # A call whose client is gone is cancelled soon.
            with suppress(ClientGone):
                await call.write(reply)
            slots.release()

        async def read() -> None:
            async for request in requests:
                await slots.acquire()
                group.create_task(serve(request))

        if self._draining:
            raise Draining
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(read())
            self._readers.add(reader)
            reader.add_done_callback(self._readers.discard)
        if reader.cancelled():
            raise Draining
