"""Frames by chance, and conversations that chance has changed, while another client is served all the while."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from daemon.http2 import frames
from daemon.http2.frames import END_HEADERS, PADDED, PRIORITY_FLAG, frame
from daemon.http2.headers import literal
from daemon.http2.limits import Limits
from tests.daemon.http2_rig import (
    MESSAGE_BYTES,
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

# Streams that chance meets again.
STREAMS = st.sampled_from([0, 1, 1, 2, 3, 3, 5, 7, 1 << 30, frames.STREAM_LIMIT])
PATHS = ("/t/Echo", "/t/EchoEach", "/t/Sum", "/t/Count", "/t/Wait", "/t/Deaf", "/t/Refuse", "/t/None")
NUMBERS = st.sampled_from([0, 1, 2, 9, 100, 16_384, 65_535, 1 << 20, frames.WINDOW_LIMIT, (1 << 32) - 1])
CONTENTS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [message(b""), message(b"3 70000"), message(b"x" * 300) * 3, message(b"x", 1), b"\0" + b"\xff" * 4]
    ),
)
BLOCKS = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(PATHS).map(block_of),
    st.sampled_from(PATHS).map(lambda path: block_of(path, (b"grpc-timeout", b"1m"))),
    st.just(bytes(range(0x82, 0xBE))),
    # An entry of the table, and names of entries that may be there.
    st.just(b"\x40" + literal(b"x", b"y")[1:] + b"\xbe\xbf"),
)
# A frame of any kind with any flags on any stream, whose content may mean something.
FRAMES = st.one_of(
    st.builds(frame, st.integers(0, 11), st.integers(0, 255), STREAMS, st.binary(max_size=20)),
    st.builds(frame, st.just(frames.DATA), st.sampled_from([0, 1, PADDED, 9]), STREAMS, CONTENTS),
    st.builds(
        frame, st.just(frames.HEADERS), st.sampled_from([4, 4, 5, 0, 1, 12, 4 | PRIORITY_FLAG]), STREAMS, BLOCKS
    ),
    st.builds(frame, st.just(frames.CONTINUATION), st.sampled_from([0, END_HEADERS]), STREAMS, BLOCKS),
    st.builds(lambda *given: settings(given), st.integers(0, 7), NUMBERS),
    st.builds(window, NUMBERS, STREAMS),
    st.builds(lambda stream: frame(frames.RST_STREAM, 0, stream, bytes(4)), STREAMS),
    st.builds(whole, st.sampled_from(PATHS), CONTENTS, stream=STREAMS),
    st.just(frame(frames.PING, 0, 0, bytes(8))),
)  # fmt: skip
CONVERSATION = b"".join((
    START, settings((frames.INITIAL_WINDOW_SIZE, 100), (frames.HEADER_TABLE_SIZE, 0)),
    whole("/t/Echo", b"x" * 300), begin("/t/EchoEach", stream=3), data(message(b"one") + message(b"two"), stream=3),
    frame(frames.DATA, PADDED, 3, b"\x02" + message(b"three") + bytes(2)), whole("/t/Count", b"9 30000", stream=5),
    window(1 << 20), window(70_000, 5), whole("/t/Wait", b"", (b"grpc-timeout", b"5m"), stream=7),
    frame(frames.HEADERS, 0, 9, block_of("/t/Sum")[:80]), frame(frames.CONTINUATION, 4, 9, block_of("/t/Sum")[80:]),
    data(message(b"1") * 3, stream=9, ended=True), frame(frames.RST_STREAM, 0, 7, bytes(4)),
    begin("/t/Deaf", stream=11), data(message(bytes(999)), stream=11),
    data(b"", stream=3, ended=True), frame(frames.PRIORITY, 0, 1, bytes(5)),
))  # fmt: skip
CHANGES = st.lists(st.tuples(st.integers(0, len(CONVERSATION) - 1), st.integers(0, 255)), min_size=1, max_size=6)
# Who sends half a preface or half a frame is not waited for, since it hangs up.
LIMITS = Limits(message_bytes=MESSAGE_BYTES, streams=4)


class Fuzzed:
    """A server with a good client, who is served after all that chance has sent."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._good = Client(rig, START + window(1 << 30))
        self._stream = 1

    def suffer(self, said: bytes) -> None:
        """Say something on a connection of its own and hang up, once a good client was served meanwhile and again."""
        with Client(self._rig, b"") as client:
            client.send(said)
            self._serve()
        self._serve()

    def left(self) -> tuple[int, int, list[str]]:
        """Let the good client go as well; give what stays of all."""
        with self._good:
            pass
        return self._rig.left()

    def _serve(self) -> None:
        self._good.send(whole("/t/Echo", b"good", stream=self._stream))
        assert self._good.answer(self._stream).outcome == ("OK", [b"good"])
        self._stream += 2


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    """Run a server for the tests of this module; in the end, no call, connection or fault of it may be left."""
    with serving(LIMITS) as rig:
        shared = Fuzzed(rig)
        yield shared
        assert shared.left() == (0, 0, [])


@given(said=st.lists(FRAMES, max_size=30))
@hypothesis(max_examples=150, deadline=None)
def test_frames_by_chance(fuzzed: Fuzzed, said: list[bytes]) -> None:
    """Frames of any kind, in any order, harm nobody else."""
    fuzzed.suffer(START + b"".join(said))
    assert fuzzed._rig.faults == []


@given(changes=CHANGES, cut=st.integers(0, len(CONVERSATION)))
@hypothesis(max_examples=150, deadline=None)
def test_changed_conversation(fuzzed: Fuzzed, changes: list[tuple[int, int]], cut: int) -> None:
    """A sensible conversation with some bytes changed, of which some may be missing, harms nobody else."""
    said = bytearray(CONVERSATION)
    for at, byte in changes:
        said[at] = byte
    fuzzed.suffer(bytes(said[:cut] if cut % 2 else said))
    assert fuzzed._rig.faults == []
