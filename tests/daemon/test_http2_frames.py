"""What the server makes of frames, byte by byte: RFC 9113, and gRPC over HTTP/2."""

from __future__ import annotations

import base64
import contextlib
import itertools
import socket
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from daemon.http2 import frames
from daemon.http2.frames import END_HEADERS, END_STREAM, PADDED, PREFACE, PRIORITY_FLAG, frame
from daemon.http2.headers import literal
from tests.daemon.http2_rig import (
    METADATA,
    START,
    Client,
    Rig,
    begin,
    block_of,
    data,
    message,
    serving,
    settings,
    whole,
    window,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOW = frames.INITIAL_WINDOW
PRIORITY_FIELDS = bytes(5)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """Run a server for the tests of this module."""
    with serving() as shared:
        yield shared


def _padded(content: bytes, padding: int) -> bytes:
    return bytes([padding]) + content + bytes(padding)


# A conversation with much in it, and what comes of it.
CONVERSATION = b"".join((
    START,
    frame(frames.PRIORITY, 0, 1, PRIORITY_FIELDS),
    whole("/t/Echo", b"one"),
    frame(0x77, 0xFF, 5, b"of a kind that nobody knows"),
    begin("/t/EchoEach", stream=3),
    data(message(b"two") + message(b"")[:3], stream=3),
    frame(frames.DATA, PADDED, 3, _padded(message(b"")[3:], 9)),
    frame(frames.HEADERS, PADDED | PRIORITY_FLAG, 5, _padded(PRIORITY_FIELDS + block_of("/t/Sum")[:70], 200)),
    frame(frames.CONTINUATION, END_HEADERS, 5, block_of("/t/Sum")[70:]),
    frame(frames.DATA, PADDED, 5, _padded(b"", 255)),
    data(message(b"three") + message(b"four"), stream=5),
    frame(frames.DATA, END_STREAM, 5),
    data(message(b"five"), stream=3),
    frame(frames.HEADERS, END_HEADERS | END_STREAM, 3, b"\0\x07trailer\x01x"),
    frame(frames.GOAWAY, 0, 0, bytes(8)),
))  # fmt: skip
COMES = {1: ("OK", [b"one"]), 3: ("OK", [b"two", b"", b"five"]), 5: ("OK", [b"9"])}


@given(cuts=st.sets(st.integers(1, len(CONVERSATION) - 1), max_size=12))
@hypothesis(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_split_anywhere(rig: Rig, cuts: set[int]) -> None:
    """Padding, priorities, continuations, trailers: the answers are the same however the bytes are cut into packets."""
    places = [0, *sorted(cuts), len(CONVERSATION)]
    with Client(rig, b"") as client:
        client.send_apart(*(CONVERSATION[a:b] for a, b in itertools.pairwise(places)))
        assert {stream: client.answer(stream).outcome for stream in COMES} == COMES


def test_byte_by_byte(rig: Rig) -> None:
    """Each byte may come by itself."""
    with Client(rig, b"") as client:
        client.send_apart(*(CONVERSATION[at : at + 1] for at in range(len(CONVERSATION))))
        assert {stream: client.answer(stream).outcome for stream in COMES} == COMES


def test_metadata_after_the_answer(rig: Rig) -> None:
    """Metadata of text goes as it is, that of bytes in Base64 without its padding, with status and answer before it."""
    with Client(rig) as client:
        client.send(whole("/t/Sum", b"1234"))
        answer = client.answer()
    assert answer.outcome == ("OK", [b"4"])
    assert answer.blocks == [
        {b":status": b"200", b"content-type": b"application/grpc"},
        {b"grpc-status": b"0", b"plain": b"text", b"raw-bin": b"AP9/"},
    ]
    assert dict(METADATA)["raw-bin"] == b"\0\xff\x7f"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("100 %", b"100 %25"),
        ("two\nlines\r", b"two%0Alines%0D"),
        ("Übergröße 🙂", b"%C3%9Cbergr%C3%B6%C3%9Fe %F0%9F%99%82"),
        ("~ \x7f", b"~ %7F"),
        (" x ", b"%20x%20"),
        ("", b""),
    ],
)
def test_message_of_a_status(rig: Rig, text: str, sent: bytes) -> None:
    """What is no printable ASCII, a percent sign, and blanks at the ends are given in hexadecimal, in UTF-8."""
    with Client(rig) as client:
        client.send(whole("/t/Refuse", text.encode()))
        answer = client.answer()
    assert (answer.status, answer.details, answer.data) == ("NOT_FOUND", sent, b"")
    assert len(answer.blocks) == 1
    assert answer.blocks[0][b":status"] == b"200"
    assert answer.blocks[0][b"raw-bin"] == b"AP9/"


def test_long_message_of_a_status(rig: Rig) -> None:
    """What no client would take of a message is left out, and the status comes through."""
    with Client(rig) as client:
        client.send(whole("/t/Refuse", "€".encode() * 5000))
        answer = client.answer()
        assert (answer.status, answer.details) == ("NOT_FOUND", b"%E2%82%AC" * 1000)


def test_long_metadata(rig: Rig) -> None:
    """What is too long for a frame goes on in others."""
    with Client(rig) as client:
        client.send(whole("/t/Explain", bytes(30_000)))
        assert client.answer().blocks[-1][b"details-bin"] == base64.b64encode(bytes(30_000)).rstrip(b"=")
        kinds = [came.kind for came in client.frames if came.stream == 1]
        assert kinds == [frames.HEADERS, frames.CONTINUATION, frames.CONTINUATION]
        client.send(whole("/t/Echo", b"more", stream=3))
        assert client.answer(3).outcome == ("OK", [b"more"])


# Who breaks a rule of a connection, and the error that it ends with.
FAULTS = {
    "no preface": (b"GET / HTTP/1.1\r\n\r\n", frames.PROTOCOL_ERROR),
    "no settings": (PREFACE + whole("/t/Echo"), frames.PROTOCOL_ERROR),
    "acknowledgement for settings": (PREFACE + frame(frames.SETTINGS, frames.ACK, 0), frames.PROTOCOL_ERROR),
    "frame too long": (START + frame(frames.DATA, 0, 1, bytes(16_385)), frames.FRAME_SIZE_ERROR),
    "unknown frame too long": (START + frame(0x77, 0, 1, bytes(16_385)), frames.FRAME_SIZE_ERROR),
    "data, idle": (START + data(message(b""), stream=7), frames.PROTOCOL_ERROR),
    "data, connection": (START + data(message(b""), stream=0), frames.PROTOCOL_ERROR),
    "data, of the server": (START + begin("/t/Wait", stream=9) + data(b"", stream=2), frames.PROTOCOL_ERROR),
    "headers, of the server": (START + begin("/t/Echo", stream=2), frames.PROTOCOL_ERROR),
    "headers, connection": (START + begin("/t/Echo", stream=0), frames.PROTOCOL_ERROR),
    "headers, no field": (START + frame(frames.HEADERS, END_HEADERS, 1, b"\x80"), frames.COMPRESSION_ERROR),
    "headers, cut": (START + frame(frames.HEADERS, END_HEADERS, 1, b"\0\x7f\xff"), frames.COMPRESSION_ERROR),
    "headers, no priority": (START + begin("/t/Echo", flags=END_HEADERS | PRIORITY_FLAG)[:9].replace(
        begin("/t/Echo")[:3], b"\0\0\x04") + bytes(4), frames.FRAME_SIZE_ERROR),
    "padding": (START + begin("/t/Wait") + frame(frames.DATA, PADDED, 1, b"\x05abcd"), frames.PROTOCOL_ERROR),
    "padding of nothing": (START + begin("/t/Wait") + frame(frames.DATA, PADDED, 1), frames.FRAME_SIZE_ERROR),
    "continuation of nothing": (START + frame(frames.CONTINUATION, END_HEADERS, 1), frames.PROTOCOL_ERROR),
    "continuation of another": (
        START + begin("/t/Echo", flags=0) + frame(frames.CONTINUATION, END_HEADERS, 3), frames.PROTOCOL_ERROR),
    "no continuation": (START + begin("/t/Echo", flags=0) + settings(), frames.PROTOCOL_ERROR),
    "unknown in a continuation": (START + begin("/t/Echo", flags=0) + frame(0x77, 0, 1), frames.PROTOCOL_ERROR),
    "endless headers": (
        START + begin("/t/Echo", flags=0) + frame(frames.CONTINUATION, 0, 1, bytes(16_384)) * 4,
        frames.ENHANCE_YOUR_CALM),
    "headers that unpack to much": (
        START + frame(frames.HEADERS, END_HEADERS, 1, b"\x40" + literal(b"x", bytes(3900))[1:] + b"\xbe" * 20),
        frames.ENHANCE_YOUR_CALM),
    "headers drop by drop": (
        START + begin("/t/Echo", flags=0) + frame(frames.CONTINUATION, 0, 1, b"") * 2000, frames.ENHANCE_YOUR_CALM),
    "priority, length": (START + frame(frames.PRIORITY, 0, 1, bytes(4)), frames.FRAME_SIZE_ERROR),
    "priority, connection": (START + frame(frames.PRIORITY, 0, 0, bytes(5)), frames.PROTOCOL_ERROR),
    "reset, idle": (START + frame(frames.RST_STREAM, 0, 1, bytes(4)), frames.PROTOCOL_ERROR),
    "reset, connection": (START + frame(frames.RST_STREAM, 0, 0, bytes(4)), frames.PROTOCOL_ERROR),
    "reset, of the server": (
        START + begin("/t/Wait", stream=9) + frame(frames.RST_STREAM, 0, 2, bytes(4)), frames.PROTOCOL_ERROR),
    "reset, length": (START + begin("/t/Wait") + frame(frames.RST_STREAM, 0, 1, bytes(5)), frames.FRAME_SIZE_ERROR),
    "settings, length": (START + frame(frames.SETTINGS, 0, 0, bytes(7)), frames.FRAME_SIZE_ERROR),
    "settings, stream": (START + frame(frames.SETTINGS, 0, 1), frames.PROTOCOL_ERROR),
    "settings acknowledged": (START + frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), frames.FRAME_SIZE_ERROR),
    "push": (START + settings((2, 2)), frames.PROTOCOL_ERROR),
    "first window too large": (START + settings((4, 1 << 31), (4, 1)), frames.FLOW_CONTROL_ERROR),
    "frames too short": (START + settings((5, 16_383)), frames.PROTOCOL_ERROR),
    "frames too long": (START + settings((5, 1 << 24)), frames.PROTOCOL_ERROR),
    "too many settings": (START + settings(*[(0x77, 0)] * 33), frames.ENHANCE_YOUR_CALM),
    "pushed": (START + frame(frames.PUSH_PROMISE, END_HEADERS, 1, bytes(8)), frames.PROTOCOL_ERROR),
    "ping, length": (START + frame(frames.PING, 0, 0, bytes(7)), frames.FRAME_SIZE_ERROR),
    "ping, stream": (START + frame(frames.PING, 0, 1, bytes(8)), frames.PROTOCOL_ERROR),
    "goodbye, length": (START + frame(frames.GOAWAY, 0, 0, bytes(7)), frames.FRAME_SIZE_ERROR),
    "goodbye, stream": (START + frame(frames.GOAWAY, 0, 1, bytes(8)), frames.PROTOCOL_ERROR),
    "window, length": (START + frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), frames.FRAME_SIZE_ERROR),
    "window, idle": (START + window(1, 1), frames.PROTOCOL_ERROR),
    "window, nothing": (START + window(0), frames.PROTOCOL_ERROR),
    "window, too large": (START + window(frames.WINDOW_LIMIT), frames.FLOW_CONTROL_ERROR),
    "window of a call, too large": (
        START + begin("/t/Wait") + window(frames.WINDOW_LIMIT, 1), frames.FLOW_CONTROL_ERROR),
    "window of a call, by settings": (
        START + begin("/t/Wait") + window(frames.WINDOW_LIMIT - WINDOW, 1) + settings((4, WINDOW + 1)),
        frames.FLOW_CONTROL_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault(rig: Rig, name: str) -> None:
    """Whoever breaks a rule of the connection is told which, and it ends, with the calls on it."""
    said, error = FAULTS[name]
    with Client(rig, said) as client:
        assert client.fault() == error
        assert client.goodbyes[-1][2]


def test_many_settings(rig: Rig) -> None:
    """As many settings as are taken in one frame are, and the last one of each counts."""
    with Client(rig) as client:
        client.send(settings(*[(0x77, 0)] * 30, (frames.INITIAL_WINDOW_SIZE, 0), (frames.INITIAL_WINDOW_SIZE, 7)))
        client.send(whole("/t/Echo", b"12345678"))
        client.until(lambda: client.answers[1].data)
        assert client.answers[1].data == message(b"12345678")[:7]


def test_cut_off_at_once(rig: Rig) -> None:
    """Clients that reset the connection while it is let in take no place of others."""
    for _ in range(2 * rig.server.limits.connections):
        with contextlib.closing(socket.socket()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.connect(("127.0.0.1", rig.port))
    with Client(rig) as client:
        client.send(whole("/t/Echo", b"x"))
        assert client.answer().outcome == ("OK", [b"x"])
    assert rig.left() == (0, 0, [])
