"""Frames arrive as they were sent; what is no frame, or too large, is refused before room is made for it."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hal import wire
from hal.wire import MAGIC, PREFIX, Channel, Closed, TimedOut, WireError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = 30.0


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    """Give both ends of a socket pair."""
    one, other = (Channel(end) for end in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def _frame(header: Any, content: bytes = b"") -> bytes:
    encoded = json.dumps(header).encode()
    return PREFIX.pack(MAGIC, len(encoded)) + encoded + content


def _receive(raw: bytes, bytes_limit: int = 1 << 20) -> tuple[dict[str, Any], list[Any]]:
    """Receive what a socket gives that is closed behind it."""
    sender, receiver = socket.socketpair()
    with sender, receiver:
        sender.sendall(raw)
        sender.shutdown(socket.SHUT_WR)
        return Channel(receiver).receive(bytes_limit, time.monotonic() + SOON)


@pytest.mark.parametrize("name", sorted(wire.TYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4), (1, 1 << 17)])
def test_arrays_arrive(ends: tuple[Channel, Channel], name: str, shape: tuple[int, ...]) -> None:
    """Arrays of every type and shape arrive bit for bit, larger than all buffers too, and can be written to."""
    sender, receiver = ends
    sent = np.random.default_rng(3).integers(0, 100, shape).astype(name)
    thread = threading.Thread(target=sender.send, args=({"number": 7}, [sent, np.arange(3)], time.monotonic() + SOON))
    thread.start()
    header, (arrived, second) = receiver.receive(1 << 21, time.monotonic() + SOON)
    thread.join()
    assert header == {"number": 7}
    assert (arrived.dtype, arrived.shape) == (sent.dtype, sent.shape)
    assert np.array_equal(arrived, sent)
    assert np.array_equal(second, np.arange(3))
    arrived[...] = 0


def test_views_arrive(ends: tuple[Channel, Channel]) -> None:
    """An array that is not in C order arrives as the values that it shows."""
    sender, receiver = ends
    picture = np.arange(24, dtype=np.uint8).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]
    sender.send({}, [picture])
    _, (arrived,) = receiver.receive(24)
    assert np.array_equal(arrived, picture)


def test_many_arrays_and_frames(ends: tuple[Channel, Channel]) -> None:
    """As many arrays as a frame may hold arrive, and frame follows frame in both directions."""
    one, other = ends
    many = [np.full(100, number, np.int32) for number in range(wire.ARRAYS_LIMIT)]
    for sender, receiver in ((one, other), (other, one), (one, other)):
        thread = threading.Thread(target=sender.send, args=({}, many))
        thread.start()
        _, arrived = receiver.receive(400 * len(many))
        thread.join()
        assert [int(array[0]) for array in arrived] == list(range(len(many)))


REFUSED = {
    "greeting": (b"HTTP/1.1 400 Bad Request", r"it begins with b'HTTP'"),
    "long header": (PREFIX.pack(MAGIC, 1 << 31), r"a header of 2147483648 bytes exceeds the limit of 32768"),
    "broken header": (PREFIX.pack(MAGIC, 4) + b"{]}[", r"its header is not JSON"),
    "list": (PREFIX.pack(MAGIC, 2) + b"[]", r"its header is not an object"),
    "deep header": (PREFIX.pack(MAGIC, 30000) + b"[" * 30000, r"its header is not JSON"),
    "no list": (_frame({}), r"does not list between 0 and 1024 arrays"),
    "long list": (_frame({"arrays": [["uint8", [1]]] * 1025}), r"does not list between 0 and 1024 arrays"),
    "loose entry": (_frame({"arrays": ["uint8"]}), r"an array is not told by type and shape"),
    "objects": (_frame({"arrays": [["object", [1]]]}), r"an array is of the unknown type 'object'"),
    "type in a list": (_frame({"arrays": [[["uint8"], [1]]]}), r"an array is of the unknown type"),
    "negative": (_frame({"arrays": [["uint8", [-1]]]}), r"an array has the shape \[-1\]"),
    "truth": (_frame({"arrays": [["uint8", [True]]]}), r"an array has the shape \[True\]"),
    "nine dimensions": (_frame({"arrays": [["uint8", [1] * 9]]}), r"an array has the shape"),
    "a billion": (
        _frame({"arrays": [["float32", [1 << 20, 1 << 20]]]}),
        r"4398046511104 bytes of arrays exceed the limit",
    ),
    "one too many": (
        _frame({"arrays": [["uint8", [1 << 19]], ["uint8", [(1 << 19) + 1]]]}),
        r"1048577 bytes of arrays exceed",
    ),
    "leftover": (_frame({"arrays": [["uint8", [2]]]}, b"abc"), r"1 bytes follow it unasked"),
}


@pytest.mark.parametrize(("raw", "told"), REFUSED.values(), ids=REFUSED)
def test_refused(raw: bytes, told: str) -> None:
    """What is not a frame, or is larger than asked for, is refused with what is wrong with it."""
    with pytest.raises(WireError, match=told):
        _receive(raw)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_noise(noise: bytes, framed: bool) -> None:
    """Noise is refused or ends; nothing else is raised."""
    raw = PREFIX.pack(MAGIC, len(noise)) + noise if framed else noise
    with pytest.raises((WireError, Closed)):
        _receive(raw)


@pytest.mark.parametrize("kept", [0, 3, 8, 20, -1])
def test_cut_short(kept: int) -> None:
    """A frame that ends early is the end of the other one, wherever it is cut."""
    with pytest.raises(Closed, match="end of stream"):
        _receive(_frame({"arrays": [["uint8", [100_000]]]}, bytes(100_000))[:kept])


def test_header_too_long(ends: tuple[Channel, Channel]) -> None:
    """A header beyond the limit is not sent."""
    with pytest.raises(ValueError, match=r"a header of \d+ bytes exceeds the limit of 32768"):
        ends[0].send({"text": "x" * wire.HEADER_BYTES_LIMIT})


def test_deadlines(ends: tuple[Channel, Channel]) -> None:
    """Neither who waits for a silent end nor who sends to a deaf one waits beyond the deadline."""
    with pytest.raises(TimedOut):
        ends[0].receive(0, time.monotonic() + 0.01)
    with pytest.raises(TimedOut):
        ends[0].send({}, [np.zeros(1 << 24, np.uint8)], time.monotonic() + 0.01)
    with pytest.raises(TimedOut):
        ends[0].receive(0, time.monotonic() - 1.0)


def test_closed(ends: tuple[Channel, Channel]) -> None:
    """A closed end is told to who sends and who receives."""
    one, other = ends
    other.close()
    with pytest.raises(Closed):
        one.send({}, [np.zeros(1 << 20, np.uint8)])
    with pytest.raises(Closed):
        one.receive(0)
