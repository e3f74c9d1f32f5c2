"""What calls may do and what ends them: messages, windows, deadlines and limits, byte by byte."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import pytest

from daemon.http2 import frames
from daemon.http2.call import PREFIX, WAITING_LIMIT
from daemon.http2.connection import WINDOW
from daemon.http2.frames import END_HEADERS, END_STREAM, frame
from daemon.http2.headers import literal
from tests.daemon.http2_rig import (
    MESSAGE_BYTES,
    SECONDS,
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

ROOM = frames.INITIAL_WINDOW
# A window that is never in the way.
WIDE = START + settings((frames.INITIAL_WINDOW_SIZE, frames.WINDOW_LIMIT)) + window(frames.WINDOW_LIMIT - ROOM)
RESET = frames.NUMBER.pack(frames.CANCEL)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """Run a server for the tests of this module."""
    with serving() as shared:
        yield shared


def _room(client: Client, sent: int, stream: int = 0) -> int:
    """Tell how many bytes more a client may send, on all calls or on one."""
    given = (came for came in client.frames if came.kind == frames.WINDOW_UPDATE and came.stream == stream)
    return ROOM + sum(frames.number(came.payload) for came in given) - sent


def _send_as_told(client: Client, content: bytes, stream: int = 1) -> None:
    """Send data and its end as the windows allow."""
    at = 0
    while at < len(content) and client.open:
        size = min(_room(client, at), _room(client, at, stream), frames.FRAME_LIMIT, len(content) - at)
        if size:
            at += size
            client.send(data(content[at - size : at], stream=stream, ended=at == len(content)))
        else:
            heard = len(client.frames)
            client.until(lambda: len(client.frames) > heard or client.answers[stream].ended)  # noqa: B023
            if client.answers[stream].ended:
                return


@pytest.mark.parametrize("path", ["/t/Echo", "/t/EchoEach"])
def test_longest_message(rig: Rig, path: str) -> None:
    """A message that is longer than all windows comes and goes whole when it is as long as may be."""
    content = bytes(range(256)) * (MESSAGE_BYTES // 256)
    with Client(rig, WIDE) as client:
        client.send(begin(path))
        _send_as_told(client, message(content))
        assert client.answer().outcome == ("OK", [content])


@pytest.mark.parametrize("path", ["/t/Echo", "/t/EchoEach"])
def test_message_beyond_the_limit(rig: Rig, path: str) -> None:
    """One byte more is refused by the length alone, with what came before it answered; no window grows by it."""
    before = message(b"before") if path == "/t/EchoEach" else b""
    beyond = PREFIX.pack(0, MESSAGE_BYTES + 1) + bytes(10_000)
    with Client(rig) as client:
        for stream in range(1, 200, 2):
            client.send(begin(path, stream=stream), data(before + beyond, stream=stream))
            answer = client.answer(stream)
            assert (answer.status, answer.details) == (
                "RESOURCE_EXHAUSTED", b"a message of 1048577 bytes exceeds the limit of 1048576")  # fmt: skip
            client.send(data(bytes(frames.FRAME_LIMIT), stream=stream))
        client.heard()
        sent = 100 * (len(before + beyond) + frames.FRAME_LIMIT)
        assert WINDOW // 2 <= _room(client, sent) <= WINDOW


@pytest.mark.parametrize(
    ("sent", "status", "details"),
    [
        (b"", "UNIMPLEMENTED", b"the method takes one message, none was sent"),
        (message(b"x") * 2, "UNIMPLEMENTED", b"the method takes one message, more were sent"),
        (message(b"x") + b"\0", "INVALID_ARGUMENT", b"the requests end within a message"),
        (message(b"x")[:-1], "INVALID_ARGUMENT", b"the requests end within a message"),
    ],
)
def test_not_one_message(rig: Rig, sent: bytes, status: str, details: bytes) -> None:
    """A method that takes one message is not called with none, two or a part of one."""
    with Client(rig) as client:
        client.send(begin("/t/Echo"), data(sent, ended=True))
        answer = client.answer()
    assert (answer.status, answer.details, answer.data) == (status, details, b"")


def test_no_message_of_many(rig: Rig) -> None:
    """A method that takes many messages may get none, and its call may end with its headers."""
    with Client(rig) as client:
        client.send(begin("/t/Sum", flags=END_HEADERS | END_STREAM))
        assert client.answer().outcome == ("OK", [b"0"])


def test_second_message(rig: Rig) -> None:
    """A second message ends the call as it comes, so that a client cannot send them for ever."""
    with Client(rig) as client:
        client.send(begin("/t/Echo"), data(message(b"x") * 2))
        assert client.answer().status == "UNIMPLEMENTED"
        client.until(lambda: client.answers[1].reset is not None)
        assert client.answers[1].reset == frames.NO_ERROR


def test_stream_that_ends_within_a_message(rig: Rig) -> None:
    """What came whole is answered, and the status tells of the rest."""
    with Client(rig) as client:
        client.send(begin("/t/EchoEach"), data(message(b"one") + message(b"two")[:-1], ended=True))
        assert client.answer().outcome == ("INVALID_ARGUMENT", [b"one"])


ZIPPED = gzip.compress(b"zipped" * 999)
COMPRESSED = {
    "gzip": (b"gzip", message(ZIPPED, 1), ("OK", [b"zipped" * 999])),
    "deflate": (b"deflate", message(zlib.compress(b"flat"), 1), ("OK", [b"flat"])),
    "not this one": (b"gzip", message(b"plain"), ("OK", [b"plain"])),
    "at the limit": (b"gzip", message(gzip.compress(bytes(MESSAGE_BYTES)), 1), ("OK", [bytes(MESSAGE_BYTES)])),
    "beyond the limit": (b"gzip", message(gzip.compress(bytes(MESSAGE_BYTES + 1)), 1), ("RESOURCE_EXHAUSTED", [])),
    "of another kind": (b"deflate", message(ZIPPED, 1), ("INVALID_ARGUMENT", [])),
    "cut": (b"gzip", message(ZIPPED[:-1], 1), ("INVALID_ARGUMENT", [])),
    "and more": (b"gzip", message(ZIPPED + ZIPPED, 1), ("INVALID_ARGUMENT", [])),
    "identity": (b"identity", message(ZIPPED, 1), ("INTERNAL", [])),
    "no known mark": (b"gzip", message(ZIPPED, 2), ("INTERNAL", [])),
}


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("path", ["/t/Echo", "/t/EchoEach"])
def test_compressed(rig: Rig, path: str, name: str) -> None:
    """What is compressed is unpacked as far as the limit; what says that it is and is not is refused."""
    encoding, sent, outcome = COMPRESSED[name]
    with Client(rig, WIDE) as client:
        client.send(begin(path, (b"grpc-encoding", encoding)), data(sent, ended=True))
        assert client.answer().outcome == outcome


def test_unknown_encoding(rig: Rig) -> None:
    """Who compresses in another way is told the ways that there are."""
    with Client(rig) as client:
        client.send(whole("/t/Echo", b"x", (b"grpc-encoding", b"snappy")))
        answer = client.answer()
    assert answer.status == "UNIMPLEMENTED"
    assert answer.blocks[0][b"grpc-accept-encoding"] == b"identity,gzip,deflate"


@pytest.mark.parametrize("kind", [b"application/json", b"", b"text/html"])
def test_no_grpc(rig: Rig, kind: bytes) -> None:
    """What is no gRPC gets 415 of HTTP."""
    with Client(rig) as client:
        client.send(whole("/t/Echo", b"x", (b"content-type", kind)))
        assert client.answer().blocks == [{b":status": b"415"}]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ((b"content-type", b"application/grpc+proto"), "OK"),
        ((b"grpc-timeout", b"99999999H"), "OK"),
        ((b"grpc-timeout", b"100000000S"), "INVALID_ARGUMENT"),
        ((b"grpc-timeout", b"-1S"), "INVALID_ARGUMENT"),
        ((b"grpc-timeout", b"1s"), "INVALID_ARGUMENT"),
        ((b"grpc-timeout", b"S"), "INVALID_ARGUMENT"),
        ((b"grpc-timeout", b""), "INVALID_ARGUMENT"),
        ((b":method", b"GET"), "INVALID_ARGUMENT"),
        ((b":path", b"/t/None"), "UNIMPLEMENTED"),
        ((b":path", b"t/Echo"), "UNIMPLEMENTED"),
        ((b"long", bytes(16_384)), "RESOURCE_EXHAUSTED"),
    ],
)
def test_headers(rig: Rig, more: tuple[bytes, bytes], status: str) -> None:
    """A call whose headers say what is not served is refused with an answer that has no more than headers."""
    with Client(rig) as client:
        block = begin("/t/Echo", more)[9:]
        client.send(
            frame(frames.HEADERS, 0, 1, block[:90]),
            frame(frames.CONTINUATION, END_HEADERS, 1, block[90:]) if len(block) < frames.FRAME_LIMIT
            else frame(frames.CONTINUATION, 0, 1, block[90:9000])
            + frame(frames.CONTINUATION, END_HEADERS, 1, block[9000:]),
            data(message(b"x"), ended=True),
        )  # fmt: skip
        answer = client.answer()
        assert (answer.status, len(answer.blocks)) == (status, 2 if status == "OK" else 1)


def test_no_method(rig: Rig) -> None:
    """Headers without a method are none of a call."""
    with Client(rig) as client:
        block = block_of("/t/Echo").replace(literal(b":method", b"POST"), b"")
        client.send(frame(frames.HEADERS, END_HEADERS | END_STREAM, 1, block))
        assert client.answer().outcome == ("INVALID_ARGUMENT", [])


@pytest.mark.parametrize("path", ["/t/Wait", "/t/Deaf"])
def test_deadline(rig: Rig, path: str) -> None:
    """A call whose client waits no longer is ended by the server, and so is its method."""
    with Client(rig) as client:
        client.send(whole(path, b"", (b"grpc-timeout", b"10m")))
        assert client.answer().outcome == ("DEADLINE_EXCEEDED", [])
        assert rig.cancelled.acquire(timeout=SECONDS)


def test_deadline_of_one_who_sends_nothing(rig: Rig) -> None:
    """A call whose message never comes ends as well."""
    with Client(rig) as client:
        client.send(begin("/t/Echo", (b"grpc-timeout", b"10000u")))
        assert client.answer().outcome == ("DEADLINE_EXCEEDED", [])


def test_deadline_of_one_who_reads_nothing(rig: Rig) -> None:
    """What cannot be sent by the deadline is thrown away, which the client is told."""
    with Client(rig, START + settings((frames.INITIAL_WINDOW_SIZE, 9))) as client:
        client.send(whole("/t/Echo", bytes(100), (b"grpc-timeout", b"50m")))
        answer = client.answer()
        assert (len(answer.data), answer.ended, answer.reset) == (9, False, frames.CANCEL)


def test_cancelled(rig: Rig) -> None:
    """A client that cancels, or hangs up, ends what is done for it."""
    with Client(rig) as client:
        client.send(whole("/t/Wait"), whole("/t/Deaf", stream=3), begin("/t/Deaf", stream=5))
        assert all(rig.waiting.acquire(timeout=SECONDS) for _ in range(3))
        client.send(frame(frames.RST_STREAM, 0, 1, RESET))
        assert rig.cancelled.acquire(timeout=SECONDS)
        client.heard()
        assert rig.do(lambda: rig.server.calls) == 2
        client.send(whole("/t/Echo", b"x", stream=7))
        assert client.answer(7).outcome == ("OK", [b"x"])
        assert not client.answers[1].blocks
    assert all(rig.cancelled.acquire(timeout=SECONDS) for _ in range(2))


def test_method_that_fails(rig: Rig) -> None:
    """A defect of a method ends its call and no other."""
    with Client(rig) as client:
        client.send(whole("/t/Fail"), whole("/t/Echo", b"x", stream=3))
        assert client.answer().outcome == ("INTERNAL", [])
        assert client.answer(3).outcome == ("OK", [b"x"])


def test_who_is_not_read_must_wait(rig: Rig) -> None:
    """A method that reads nothing holds its client back at the window; who sends more loses the call, or all."""
    with Client(rig) as client:
        for stream in range(1, 33, 2):
            client.send(begin("/t/Deaf", stream=stream), data(message(b"") + message(bytes(ROOM - 10)), stream=stream))
        client.heard()
        assert [came for came in client.frames if came.kind == frames.WINDOW_UPDATE and came.stream] == []
        assert _room(client, 16 * ROOM) == WINDOW - 16 * ROOM
        client.send(data(b"x", stream=1))
        assert client.answer(1).reset == frames.FLOW_CONTROL_ERROR
        client.heard()
        assert _room(client, 16 * ROOM + 1) == WINDOW - 15 * ROOM
        client.send(begin("/t/Deaf", stream=33), data(bytes(ROOM), stream=33), data(b"x", stream=3))
        assert client.answer(3).reset == frames.FLOW_CONTROL_ERROR
        client.send(b"".join(begin("/t/Deaf", stream=s) + data(bytes(ROOM), stream=s) for s in range(35, 65, 2)))
        assert client.fault() == frames.FLOW_CONTROL_ERROR


def test_what_ended_calls_held_is_given_back(rig: Rig) -> None:
    """Calls that were cut off, by their client or for too much data, keep nothing of the connection's window."""
    with Client(rig) as client:
        sent = 0
        for stream in range(1, 81, 2):
            excess = stream % 4 == 1
            client.send(begin("/t/Deaf", stream=stream), data(bytes(ROOM), stream=stream))
            client.send(data(b"x", stream=stream) if excess else frame(frames.RST_STREAM, 0, stream, RESET))
            client.send(data(b"late", stream=stream))
            sent += ROOM + excess + 4
            client.heard()
            assert WINDOW // 2 <= _room(client, sent) <= WINDOW
        client.send(whole("/t/Echo", b"x", stream=99))
        assert client.answer(99).outcome == ("OK", [b"x"])


def test_more_after_the_end(rig: Rig) -> None:
    """Whoever has ended its requests sends no more, neither data nor headers; headers in their midst end them."""
    with Client(rig) as client:
        client.send(whole("/t/Wait"), data(b"x"))
        assert client.answer(1).reset == frames.STREAM_CLOSED
        client.send(whole("/t/Wait", stream=3), begin("/t/Wait", stream=3, flags=5))
        assert client.answer(3).reset == frames.STREAM_CLOSED
        client.send(begin("/t/Deaf", stream=5), begin("/t/Deaf", stream=5))
        assert client.answer(5).reset == frames.PROTOCOL_ERROR
        client.send(whole("/t/Echo", b"x", stream=7))
        assert client.answer(7).outcome == ("OK", [b"x"])


def test_windows_that_open_late(rig: Rig) -> None:
    """What a client has no room for waits: for its settings, and for both windows, a byte at a time if need be."""
    with Client(rig, START + settings((frames.INITIAL_WINDOW_SIZE, 0))) as client:
        client.send(whole("/t/Echo", b"12345678"), whole("/t/Count", b"3 70000", stream=3), whole("/t/Fail", stream=5))
        assert client.answer(5).status == "INTERNAL"
        client.heard()
        assert (client.answers[1].data, client.answers[3].data) == (b"", b"")
        client.send(*[window(1, 1)] * 10)
        client.heard()
        assert client.answers[1].data == message(b"12345678")[:10]
        client.send(settings((frames.INITIAL_WINDOW_SIZE, 9)), settings((frames.INITIAL_WINDOW_SIZE, 2)))
        assert client.answer(1).outcome == ("OK", [b"12345678"])
        client.send(settings((frames.INITIAL_WINDOW_SIZE, 1 << 20)))
        client.heard()
        left = ROOM - len(client.answers[1].data)
        assert len(client.answers[3].data) == left
        client.send(window(3 * 70_005 - left))
        assert client.answer(3).outcome == ("OK", [bytes(70_000)] * 3)


def test_many_small_messages(rig: Rig) -> None:
    """Of messages that nobody has asked for few are taken apart; all are answered in the end."""
    many = 13_000
    assert ROOM // 2 < many * len(message(b"")) <= ROOM
    rig.do(rig.released.clear)
    with Client(rig) as client:
        client.send(begin("/t/EchoLater"), data(message(b"") * many))
        client.send(begin("/t/EchoLater", stream=3), data(message(b"") * 100 + b"\0", stream=3, ended=True))
        client.heard()
        (connection,) = rig.server.clients
        assert [len(call._messages) for call in connection._calls.values()] == [WAITING_LIMIT, WAITING_LIMIT]
        assert rig.do(lambda: rig.server.kept) == (many + 100) * len(message(b"")) + 1
        rig.do(rig.released.set)
        client.send(data(message(b"last"), ended=True), window(ROOM), window(ROOM, 1))
        assert client.answer(1).outcome == ("OK", [b""] * many + [b"last"])
        assert client.answer(3).outcome == ("INVALID_ARGUMENT", [b""] * 100)
        assert rig.do(lambda: rig.server.kept) == 0


def test_table_without_room(rig: Rig) -> None:
    """Who takes the table's room away is told once that it is not used."""
    with Client(rig, START + settings((frames.HEADER_TABLE_SIZE, 0))) as client:
        client.send(whole("/t/Echo", b"x"), whole("/t/Echo", b"y", stream=3))
        assert client.answer(1).outcome == ("OK", [b"x"])
        assert client.answer(3).outcome == ("OK", [b"y"])
        blocks = [came.payload for came in client.frames if came.kind == frames.HEADERS]
    assert [block[0] == 0x20 for block in blocks] == [True, False, False, False]
