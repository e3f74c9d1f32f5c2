"""Limits that take their time, of a daemon that has a hundredth of it, and the limit of calls under way."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from daemon.http2.limits import Limits
from protos import jouled_pb2 as pb
from protos.jouled_pb2_grpc import ClassifierStub
from tests.daemon.conftest import ROOMY
from tests.daemon.frames import PING, PREFACE, SETTINGS, call_of, frame
from tests.daemon.serving import CALL_SECONDS, Daemon, configuration, digit_request, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

CHIP = '[device.loihi-sim]\ndriver = "loihi-sim"\n'
ACKNOWLEDGED = 1
FRAME_HEADER_BYTES = 9
LIMITS = Limits(message_bytes=8 << 20)


@pytest.fixture(scope="module")
def hasty() -> Iterator[Daemon]:
    """Run a daemon that soon loses patience."""
    config = configuration(ROOMY, start="roomy", devices=CHIP)
    with running(config, program="tests.daemon.hasty") as daemon:
        yield daemon


def _listen(connection: socket.socket, answers: int) -> bytes:
    """Read until the connection ends, and answer so many pings."""
    said = unread = b""
    while read := connection.recv(65536):
        said += read
        unread += read
        while len(unread) >= FRAME_HEADER_BYTES + (size := int.from_bytes(unread[:3], "big")):
            kind, flags, payload = unread[3], unread[4], unread[FRAME_HEADER_BYTES : FRAME_HEADER_BYTES + size]
            unread = unread[FRAME_HEADER_BYTES + size :]
            if kind == PING and not flags and answers:
                answers -= 1
                connection.sendall(frame(PING, ACKNOWLEDGED, 0, payload))
    return said


def test_idle(hasty: Daemon, image: NDArray[np.uint8]) -> None:
    """A connection without a call under way is ended, which the client is told; a library connects anew by itself."""
    assert hasty.classify(image).labels[0].name == "0"
    with socket.create_connection(("127.0.0.1", hasty.places.port), CALL_SECONDS) as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        assert b"connection idle" in _listen(connection, answers=9)
    assert hasty.classify(image).labels[0].name == "0"


@pytest.mark.parametrize("answers", [0, 3])
def test_gone_without_a_word(hasty: Daemon, answers: int) -> None:
    """A peer with a call under way that answers no pings, or no more, is given up."""
    with socket.create_connection(("127.0.0.1", hasty.places.port), CALL_SECONDS) as connection:
        connection.sendall(call_of(b"/grpc.health.v1.Health/Watch") + frame(SETTINGS, ACKNOWLEDGED, 0, b""))
        said = _listen(connection, answers)
    assert b"ping_timeout" in said
    assert said.count(bytes([0, 0, 8, PING, 0])) >= answers


def test_silent_and_there(hasty: Daemon) -> None:
    """A peer that answers pings may be silent otherwise for as long as it likes, with its call under way."""
    stub = health_pb2_grpc.HealthStub(hasty.inference_channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=3.0)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        next(watch)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def _fill(address: str, image: NDArray[np.uint8], operator: Daemon) -> list[str]:
    """Begin as many calls as there may be at once; give how one more ends, and one after some have ended."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(LIMITS.calls // LIMITS.streams + 1)]
    calls = [ClassifierStub(channels[index // LIMITS.streams]).ClassifyStream() for index in range(LIMITS.calls)]
    for call in calls:
        await call.write(digit_request(image))
        assert (await call.read()).reply.labels[0].name == "0"
    ends = []
    for _ in range(2):
        try:
            await ClassifierStub(channels[-1]).Classify(digit_request(image), timeout=CALL_SECONDS)
            ends.append("OK")
        except grpc.aio.AioRpcError as error:
            ends.append(error.code().name)
            assert operator.control.Status(pb.StatusRequest(), timeout=CALL_SECONDS).policy == "roomy"
            for call in calls[: LIMITS.streams]:
                await call.done_writing()
                assert await call.read() is grpc.aio.EOF  # type: ignore[attr-defined]
    await asyncio.gather(*(channel.close(None) for channel in channels))
    return ends


def test_calls_beyond_the_limit(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Of 4,096 calls at once each is taken; one more is refused, not the operator's. Some end, and there is room."""
    assert asyncio.run(_fill(daemon.address, image, daemon)) == ["RESOURCE_EXHAUSTED", "OK"]
    assert daemon.classify(image).labels[0].name == "0"
