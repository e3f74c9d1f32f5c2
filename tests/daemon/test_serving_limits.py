"""Each limit of a connection, as a client of no library meets it: real bytes on a real socket."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import grpc
import pytest

from daemon.http2.limits import Limits
from tests.daemon.frames import GOAWAY, PING, PREFACE, SETTINGS, converse, frame
from tests.daemon.refusals import INSIDE
from tests.daemon.serving import CALL_SECONDS, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

LIMITS = Limits(message_bytes=8 << 20)
MAX_CONCURRENT_STREAMS = 3


@pytest.fixture(autouse=True)
def _serves_on(daemon: Daemon, image: NDArray[np.uint8]) -> Iterator[None]:
    """A good client's connection is as before."""
    yield
    assert daemon.classify(image).labels[0].name == "0"


def test_streams_of_a_connection(daemon: Daemon) -> None:
    """The daemon says how many streams a connection may have at a time."""
    setting = struct.pack(">HI", MAX_CONCURRENT_STREAMS, LIMITS.streams)
    said = converse(daemon.places.port, PREFACE + frame(SETTINGS, 0, 0, b""), setting, CALL_SECONDS)
    assert setting in said


def test_flood_of_pings(daemon: Daemon) -> None:
    """Who keeps pinging is told to be calm, and disconnected."""
    pings = frame(PING, 0, 0, bytes(8)) * 100
    content = PREFACE + frame(SETTINGS, 0, 0, b"") + pings
    said = b""
    with socket.create_connection(("127.0.0.1", daemon.places.port), CALL_SECONDS) as connection:
        connection.sendall(content)
        try:
            while read := connection.recv(65536):
                said += read
        except ConnectionResetError:
            pass
    assert b"too_many_pings" in said
    assert bytes([GOAWAY, 0, 0, 0, 0, 0]) in said


def test_long_metadata(daemon: Daemon) -> None:
    """Metadata beyond the limit are refused before any method is called."""
    live = daemon.inference_channel.unary_unary("/inference.GRPCInferenceService/ServerLive", bytes, bytes)
    with pytest.raises(grpc.RpcError) as caught:
        live(b"", timeout=CALL_SECONDS, metadata=(("a", "x" * LIMITS.metadata_bytes),))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not INSIDE.search(caught.value.details() or "")
    assert live(b"", timeout=CALL_SECONDS, metadata=(("a", "x" * (LIMITS.metadata_bytes // 2)),))


def test_compressed_beyond_the_limit(daemon: Daemon) -> None:
    """A message that is small on the wire and unpacks to more than the limit is refused as it unpacks."""
    infer = daemon.inference_channel.unary_unary("/jouled.v1.Classifier/Classify", bytes, bytes)
    with pytest.raises(grpc.RpcError) as caught:
        infer(bytes(64 << 20), timeout=CALL_SECONDS, compression=grpc.Compression.Gzip)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == f"a message unpacks to more than {LIMITS.message_bytes} bytes, the limit"


def test_connections_beyond_the_limit(daemon: Daemon) -> None:
    """A connection too many is closed at once, and there is room again when others end."""
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", daemon.places.port)
        silent = [
            stack.enter_context(socket.create_connection(address, CALL_SECONDS)) for _ in range(LIMITS.connections + 8)
        ]
        assert silent[-1].recv(1) == b""
