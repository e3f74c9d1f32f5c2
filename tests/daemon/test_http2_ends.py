"""How connections end, and what a server takes of all its clients together."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil

from daemon.http2 import frames
from daemon.http2.connection import ENDING
from daemon.http2.frames import END_STREAM, frame
from daemon.http2.headers import literal
from daemon.http2.limits import Limits
from tests.daemon.certificates import SERVER, Authority, write_server
from tests.daemon.http2_rig import (
    MESSAGE_BYTES,
    SECONDS,
    START,
    Client,
    Frame,
    begin,
    data,
    message,
    serving,
    settings,
    whole,
    window,
)

if TYPE_CHECKING:
    from pathlib import Path

ROOM = frames.INITIAL_WINDOW
# A window that is never in the way.
WIDE = START + settings((frames.INITIAL_WINDOW_SIZE, frames.WINDOW_LIMIT)) + window(frames.WINDOW_LIMIT - ROOM)
RESET = frames.NUMBER.pack(frames.CANCEL)
MEBIBYTE = 1 << 20


def test_calls_beyond_the_limits() -> None:
    """A call more than a connection may have is one to try again, one more than the server has a use for is refused."""
    limits = Limits(message_bytes=MESSAGE_BYTES, streams=2, calls=3)
    with serving(limits) as rig, Client(rig) as client, Client(rig) as other:
        announced = dict(frames.SETTING.iter_unpack(_first(client).payload))
        assert announced[frames.MAX_CONCURRENT_STREAMS] == 2
        client.send(whole("/t/Wait"), whole("/t/Wait", stream=3), whole("/t/Echo", stream=5))
        assert client.answer(5).reset == frames.REFUSED_STREAM
        assert not client.answers[5].blocks
        other.send(whole("/t/Wait"), whole("/t/Echo", stream=3))
        answer = other.answer(3)
        assert (answer.status, answer.details) == ("RESOURCE_EXHAUSTED", b"3 calls are under way, the limit")
        # It counts until its method has ended.
        client.send(frame(frames.RST_STREAM, 0, 1, RESET))
        assert rig.cancelled.acquire(timeout=SECONDS)
        client.send(whole("/t/Echo", b"x", stream=7))
        assert client.answer(7).outcome == ("OK", [b"x"])


def test_method_that_goes_on() -> None:
    """A call counts while its method runs, whether its client has given it up or is gone altogether."""
    with serving(Limits(message_bytes=MESSAGE_BYTES, calls=2)) as rig, Client(rig) as other:
        with Client(rig) as client:
            client.send(whole("/t/Linger"), whole("/t/Linger", stream=3))
            assert all(rig.waiting.acquire(timeout=SECONDS) for _ in range(2))
            client.send(frame(frames.RST_STREAM, 0, 1, RESET))
            assert rig.cancelled.acquire(timeout=SECONDS)
        assert rig.cancelled.acquire(timeout=SECONDS)
        other.send(whole("/t/Echo", b"x"))
        assert other.answer().details == b"2 calls are under way, the limit"
        rig.do(rig.released.set)
        other.heard()
        other.send(whole("/t/Echo", b"x", stream=3))
        assert other.answer(3).outcome == ("OK", [b"x"])


def _first(client: Client) -> Frame:
    client.until(lambda: client.frames)
    return client.frames[0]


def test_connections_beyond_the_limit() -> None:
    """A client that there is no place for is let go at once, and may come when another has left."""
    with serving(Limits(message_bytes=MESSAGE_BYTES, connections=1)) as rig:
        with Client(rig) as first:
            first.send(whole("/t/Echo", b"x"))
            assert first.answer().outcome == ("OK", [b"x"])
            with Client(rig) as second:
                second.until(lambda: False)
                assert second.frames == []
        rig.left()
        with Client(rig) as third:
            third.send(whole("/t/Echo", b"x"))
            assert third.answer().outcome == ("OK", [b"x"])


def test_end() -> None:
    """At the end clients are told so, then again with the last call that is answered; what comes later is not."""
    with serving() as rig, Client(rig) as client:
        client.send(begin("/t/Echo"), begin("/t/EchoEach", stream=3))
        client.heard()
        stopping = rig.stop()
        client.until(lambda: client.goodbyes)
        client.send(whole("/t/Echo", b"in time", stream=5))
        assert client.answer(5).outcome == ("OK", [b"in time"])
        farewell = next(came for came in client.frames if came.kind == frames.PING and not came.flags)
        client.send(frame(frames.PING, frames.ACK, 0, farewell.payload))
        client.until(lambda: len(client.goodbyes) == 2)
        client.send(whole("/t/Echo", b"late", stream=7), data(message(b"one"), ended=True))
        client.send(data(message(b"two"), stream=3), frame(frames.HEADERS, END_STREAM | 4, 3, b""))
        client.until(lambda: False)
        told = [(frames.STREAM_LIMIT, frames.NO_ERROR), (5, frames.NO_ERROR)]
        assert [goodbye[:2] for goodbye in client.goodbyes] == told
        assert client.goodbyes[0][2] == ENDING.encode()
        assert client.answers[1].outcome == ("OK", [b"one"])
        assert client.answers[3].outcome == ("OK", [b"two"])
        assert not client.answers[7].blocks
        stopping.result(SECONDS)


def test_end_with_calls_that_do_not() -> None:
    """What is still under way when the end has waited long enough is cut off."""
    with serving() as rig, Client(rig) as client:
        client.send(whole("/t/Wait"))
        client.heard()
        rig.stop(0.01).result(SECONDS)
        client.until(lambda: False)
        assert client.answers[1].blocks == []
        assert rig.cancelled.acquire(timeout=SECONDS)


QUICK = Limits(
    message_bytes=MESSAGE_BYTES, handshake_seconds=0.3, idle_seconds=0.05, keepalive_seconds=0.05,
    ping_timeout_seconds=0.05,
)  # fmt: skip


def test_impatience() -> None:
    """Whoever says nothing, does nothing, or does not answer with a call under way, is let go."""
    with serving(QUICK) as rig:
        with Client(rig, START[:9]) as client:
            client.until(lambda: False)
            assert client.goodbyes == []
        with Client(rig) as client:
            assert client.fault() == frames.NO_ERROR
            assert client.goodbyes[-1][2] == b"connection idle"
        with Client(rig, START + whole("/t/Wait")) as client:
            assert client.fault() == frames.NO_ERROR
            assert client.goodbyes[-1][2] == b"ping_timeout"
        with Client(rig, START + whole("/t/Wait")) as client:
            for count in range(1, 4):
                asked = [came for came in _read_pings(client, count) if not came.flags]
                client.send(frame(frames.PING, frames.ACK, 0, asked[-1].payload))
            assert client.goodbyes == []


def test_idle_twice_told() -> None:
    """A connection that is idle ends in two steps: what the client begins before it knows of the end is answered."""
    with serving(QUICK) as rig, Client(rig) as client:
        client.until(lambda: client.goodbyes)
        client.send(whole("/t/Echo", b"in time"))
        assert client.answer().outcome == ("OK", [b"in time"])
        farewell = _pings(client)[0].payload
        client.send(frame(frames.PING, frames.ACK, 0, farewell), whole("/t/Echo", b"late", stream=3))
        client.until(lambda: False)
        told = [(frames.STREAM_LIMIT, frames.NO_ERROR), (1, frames.NO_ERROR)]
        assert [goodbye[:2] for goodbye in client.goodbyes] == told
        assert client.goodbyes[0][2] == b"connection idle"
        assert not client.answers[3].blocks


def test_gone_after_the_goodbye() -> None:
    """Whoever begins a call between the two steps, and is gone without a word, is found out as anybody else."""
    with serving(QUICK) as rig, Client(rig) as client:
        client.until(lambda: client.goodbyes)
        client.send(whole("/t/Wait"))
        client.until(lambda: False)
        assert client.goodbyes[-1][2] == b"ping_timeout"


def test_any_byte_is_an_answer() -> None:
    """Whoever is asked whether it is there, and sends anything at all, is there: even a part of a frame."""
    limits = replace(QUICK, ping_timeout_seconds=SECONDS / 2)
    with serving(limits) as rig, Client(rig, START + whole("/t/Wait")) as client:
        for count, byte in enumerate(frame(0x77, 0, 0, b"x")[:5], 1):
            assert len(_read_pings(client, count)) == count
            client.send(bytes([byte]))
        assert client.goodbyes == []


def _pings(client: Client) -> list[Frame]:
    return [came for came in client.frames if came.kind == frames.PING and not came.flags]


def _read_pings(client: Client, count: int) -> list[Frame]:
    def pings() -> list[Frame]:
        return [came for came in client.frames if came.kind == frames.PING]

    client.until(lambda: len(pings()) >= count)
    return pings()


def test_too_many_pings() -> None:
    """Who asks over and over whether the server is there is let go; not while it is sent something in between."""
    with serving(Limits(message_bytes=MESSAGE_BYTES)) as rig, Client(rig) as client:
        ping = frame(frames.PING, 0, 0, bytes(8))
        for stream in range(1, 21, 2):
            client.send(ping, ping, whole("/t/Echo", stream=stream))
            assert client.answer(stream).status == "OK"
        client.send(ping * 4)
        assert client.fault() == frames.ENHANCE_YOUR_CALM
        assert client.goodbyes[-1][2] == b"too_many_pings"


def test_who_reads_nothing() -> None:
    """Replies wait for a client that has granted room and reads nothing; others are served, and memory stays small."""
    with serving() as rig, Client(rig, b"", receive_bytes=4096) as deaf, Client(rig) as client:
        before = psutil.Process().memory_info().rss
        calls = b"".join(whole("/t/Count", b"1000000 100000", stream=stream) for stream in range(1, 41, 2))
        deaf.send(WIDE, calls)
        for stream in range(1, 201, 2):
            client.send(whole("/t/Echo", b"x", stream=stream))
            assert client.answer(stream).outcome == ("OK", [b"x"])
        assert rig.do(lambda: rig.written) * 100_000 < 32 * MEBIBYTE
        assert psutil.Process().memory_info().rss - before < 64 * MEBIBYTE
        deaf.send(frame(frames.SETTINGS, 0, 0) * 400_000)
        client.send(whole("/t/Echo", b"x", stream=999))
        assert client.answer(999).outcome == ("OK", [b"x"])
        assert psutil.Process().memory_info().rss - before < 64 * MEBIBYTE


def test_who_catches_up() -> None:
    """A client that reads late gets all of it, and the method goes on as it reads."""
    replies = 100
    with serving() as rig, Client(rig, WIDE, receive_bytes=4096) as late, Client(rig) as client:
        late.send(whole("/t/Count", b"%d 80000" % replies))
        for stream in range(1, 41, 2):
            client.send(whole("/t/Echo", b"x", stream=stream))
            assert client.answer(stream).outcome == ("OK", [b"x"])
        assert rig.do(lambda: rig.written) < replies
        assert late.answer().outcome == ("OK", [bytes(80_000)] * replies)


def test_long_messages_at_once() -> None:
    """What is kept of long messages has a limit for all calls together; short ones go on, and long ones later."""
    limits = Limits(message_bytes=MEBIBYTE, kept_bytes=5 * MEBIBYTE // 2, ping_strikes=1000)
    with serving(limits) as rig, Client(rig) as client:
        almost = message(bytes(MEBIBYTE))[:-1]
        for stream in (1, 3, 5):
            client.send(begin("/t/Echo", stream=stream))
            for at in range(0, len(almost), ROOM // 4):
                client.send(data(almost[at : at + ROOM // 4], stream=stream))
                client.heard()
        answer = client.answer(5)
        assert (answer.status, answer.details) == (
            "RESOURCE_EXHAUSTED", b"too many long messages are on their way at once")  # fmt: skip
        short = message(bytes(30_000))
        client.send(begin("/t/Echo", stream=7), data(short, stream=7, ended=True))
        assert client.answer(7).outcome == ("OK", [bytes(30_000)])
        assert rig.server.kept == 2 * len(almost)
        client.send(data(b"\0", ended=True), window(MEBIBYTE), window(MEBIBYTE, 1))
        assert client.answer(1).outcome == ("OK", [bytes(MEBIBYTE)])
        client.send(frame(frames.RST_STREAM, 0, 3, RESET), whole("/t/Echo", stream=9))
        assert client.answer(9).status == "OK"
        assert rig.server.kept == 0


def test_long_headers_give_way() -> None:
    """Headers that take long to read are taken one at a time, with everybody's turn in between."""
    with serving() as rig, Client(rig) as client:
        client.heard()
        connection = next(rig.server.clients)
        fields = literal(b"x", b"y") * 800
        flood = b"".join(frame(frames.HEADERS, 5, stream, fields) for stream in range(1, 9, 2))

        def take() -> int:
            connection.data_received(flood)
            return connection._latest

        assert rig.do(take) == 1
        assert client.answer(7).blocks == [{b":status": b"415"}]


def test_no_handshake(tmp_path: Path) -> None:
    """Whoever speaks no TLS, or goes away in the midst of it, leaves nothing behind."""
    authority = Authority("authority")
    write_server(tmp_path, authority, authority, {})
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    with serving(QUICK, tls) as rig:
        for said in (b"", bytes(100), b"\x16\x03\x01\x02\x00\x01"):
            with socket.create_connection(("127.0.0.1", rig.port), SECONDS) as connection:
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                assert b"HTTP" not in connection.recv(100)
        # Its patience began later, and ends later than that with those before it.
        trusting = ssl.create_default_context(cadata=authority.certificate.decode())
        with (
            socket.create_connection(("127.0.0.1", rig.port), SECONDS) as connection,
            trusting.wrap_socket(connection, server_hostname=SERVER) as silent,
            contextlib.suppress(ConnectionError),
        ):
            while silent.recv(1 << 16):
                pass
        assert rig.left() == (0, 0, [])
