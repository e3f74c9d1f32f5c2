"""Streams end with the daemon: idle ones at once, others when what is under way is answered."""

from __future__ import annotations

import asyncio
import queue
from typing import TYPE_CHECKING

import grpc
import pytest

from daemon.errors import Draining
from daemon.http2.call import ClientGone
from daemon.streams import CONCURRENCY, Streams
from tests.daemon.conftest import ROOMY
from tests.daemon.serving import configuration, digit_request
from tests.daemon.test_serving_open_inference import digit_infer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon


class _Call:
    """The server's end of a call: what was written, and the status it was aborted with."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.gone = False

    async def write(self, reply: int) -> None:
        """Take a reply, as long as there is a client."""
        if self.gone:
            raise ClientGone
        self.written.append(reply)


class _Client:
    """The client's end: it sends what it is told and keeps the stream open."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[int] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[int]:
        """Give what was sent, for ever."""
        while True:
            yield await self.sent.get()


def test_a_client_that_is_gone_is_no_defect() -> None:
    """What was under way ends, nothing is raised that would be logged, and gRPC's cancellation ends the stream."""

    async def scenario() -> None:
        call, client = _Call(), _Client()

        async def outcome(request: int) -> int:
            return -request

        serving = asyncio.create_task(Streams().answer_each(aiter(client), outcome, call))
        client.sent.put_nowait(1)
        for _ in range(10):
            await asyncio.sleep(0)
        call.gone = True
        for number in range(2 * CONCURRENCY):
            client.sent.put_nowait(number)
        for _ in range(10 * CONCURRENCY):
            await asyncio.sleep(0)
        assert (serving.done(), call.written, client.sent.qsize()) == (False, [-1], 0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(scenario())


def test_what_is_under_way_is_answered_and_nothing_after_it() -> None:
    """The drain lets a stream end when its last answer is written; later requests are not read."""

    async def scenario() -> None:
        streams, call, client, ready = Streams(), _Call(), _Client(), asyncio.Event()

        async def outcome(request: int) -> int:
            await ready.wait()
            return -request

        serving = asyncio.create_task(streams.answer_each(aiter(client), outcome, call))
        for number in (1, 2):
            client.sent.put_nowait(number)
        for _ in range(10):
            await asyncio.sleep(0)
        streams.drain()
        client.sent.put_nowait(3)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not serving.done()
        ready.set()
        with pytest.raises(Draining):
            await serving
        assert sorted(call.written) == [-2, -1]
        with pytest.raises(Draining):
            await streams.answer_each(aiter(client), outcome, call)

    asyncio.run(scenario())


def test_a_stream_takes_no_more_than_it_can_serve() -> None:
    """Requests beyond the limit stay with the transport until an answer is written; all are answered in the end."""

    async def scenario() -> None:
        streams, call, running, most = Streams(), _Call(), 0, 0

        async def outcome(request: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            for _ in range(5):
                await asyncio.sleep(0)
            running -= 1
            return request

        async def requests() -> AsyncIterator[int]:
            for number in range(3 * CONCURRENCY):
                yield number

        await streams.answer_each(requests(), outcome, call)
        assert sorted(call.written) == list(range(3 * CONCURRENCY))
        assert most == CONCURRENCY

    asyncio.run(scenario())


def test_idle_streams_do_not_hold_up_the_end(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """Clients that keep their streams open are told that the daemon ends, before its patience does."""
    daemon = start_daemon(configuration(ROOMY, start="roomy"))
    sent: list[queue.SimpleQueue[object]] = [queue.SimpleQueue(), queue.SimpleQueue()]
    streams = [daemon.classifier.ClassifyStream, daemon.inference.ModelStreamInfer]
    calls = [stream(iter(requests.get, None)) for stream, requests in zip(streams, sent, strict=True)]
    for requests, request in zip(sent, [digit_request(image), digit_infer(image[None])], strict=True):
        requests.put(request)
    assert next(calls[0]).reply.labels[0].name == "0"
    assert next(calls[1]).error_message == ""
    daemon.stop()
    for call, requests in zip(calls, sent, strict=True):
        with pytest.raises(grpc.RpcError):
            next(call)
        # A stream that the end of the drain's patience cuts off is CANCELLED or loses its connection.
        assert (call.code(), "about to end" in call.details()) == (grpc.StatusCode.UNAVAILABLE, True)
        requests.put(None)
