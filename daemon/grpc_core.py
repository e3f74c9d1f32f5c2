"""A server of gRPC that a client cannot end.

grpc.aio decodes the path of a call to an unknown method outside of everything that handles errors, so that one call
with a path that is no UTF-8 ends the whole server (seen in 1.85.1). Here the known methods are registered with gRPC's
core by name, and all other calls are refused without a look at their paths.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server

# What reading from or writing to a call raises that is over for its client.
ClientGone = cygrpc.ExecuteBatchError


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """The part of the server that takes calls from the core and hands them to their methods."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: Sequence[Any], calls_limit: int) -> None:
        super().__init__(loop, None, (), (), options, calls_limit)
        self._event_loop = loop
        self._refusals: set[asyncio.Task[None]] = set()
        self.ended = asyncio.Event()
        self.failure: Exception | None = None

    async def _server_main_loop(self, started: asyncio.Future[bool]) -> None:
        """Take calls until the server is stopped; what ends that before is kept, and calls under way go on."""
        try:
            await super()._server_main_loop(started)
        except Exception as error:
            if not started.done():
                raise
            self.failure = error
        finally:
            self.ended.set()

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        """Give what will be the next call of a method; `None` stands for all methods that are not registered."""
        if method is not None:
            call: asyncio.Future[Any] = super()._make_request_call_future(method)
            return call
        # It never gives a call. The server cancels it when it ends, and ends with what it raises.
        return self._event_loop.create_task(self._refuse_unknown())

    async def _refuse_unknown(self) -> NoReturn:
        while True:
            try:
                call = await self._request_call()
            except cygrpc._RequestCallError:  # noqa: SLF001 (nothing public tells a failed wait apart)
                continue
            refusal = self._event_loop.create_task(self._refuse(call))
            self._refusals.add(refusal)
            refusal.add_done_callback(self._refusals.discard)

    async def _refuse(self, call: Any) -> None:
        context = cygrpc._ServicerContext(call, None, None, self._event_loop)  # noqa: SLF001 (as grpc.aio does)
        # It ends with an exception in any case: the call was refused, or its client is gone.
        with suppress(grpc.aio.AbortError, ClientGone):
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")


class HardyServer(_server.Server):
    """A server as `grpc.aio.server` makes it, for registered methods only."""

    def __init__(self, options: Sequence[tuple[str, int]], calls_limit: int) -> None:
        self._loop = cygrpc.get_working_loop()
        augmented = _server._augment_channel_arguments(options, None)  # noqa: SLF001 (as grpc.aio does)
        self._server = _Core(self._loop, augmented, calls_limit)

    async def wait_until_ended(self) -> Exception | None:
        """Wait until it takes no calls any more; give what ended it, None where it was stopped or cancelled."""
        await self._server.ended.wait()
        failure: Exception | None = self._server.failure
        return failure
