"""A server of `daemon.http2` with a few small methods, on an event loop of its own, and a client that speaks frames."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import grpc
import hpack
import uvloop

from daemon.http2 import frames
from daemon.http2.call import PREFIX
from daemon.http2.frames import END_HEADERS, END_STREAM, HEADER, PREFACE, frame
from daemon.http2.headers import literal
from daemon.http2.limits import Limits
from daemon.http2.method import Method
from daemon.http2.server import Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.http2.call import Call

Result = TypeVar("Result")

SECONDS = 20.0
MESSAGE_BYTES = 1 << 20
# Clients ask whether they were heard.
LIMITS = Limits(message_bytes=MESSAGE_BYTES, ping_strikes=1000)
FIELDS = (
    (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"localhost"),
    (b"content-type", b"application/grpc"), (b"te", b"trailers"),
)  # fmt: skip
START = PREFACE + frame(frames.SETTINGS, 0, 0)
METADATA = (("plain", "text"), ("raw-bin", b"\0\xff\x7f"))


class Rig:
    """A server that runs. What its event loop could not handle is in `faults`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.faults: list[str] = []
        # One for each call whose method waits, and for each whose method was cancelled.
        self.waiting = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        # Replies that `Count` has written.
        self.written = 0
        # What `Linger` and `EchoLater` wait for.
        self.released = asyncio.Event()
        self.port: int = server._places[0].listening.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, fault: self.faults.append(repr(fault)))
        for name, answer, many in (
            ("Echo", self._echo, False), ("EchoEach", self._echo_each, True), ("Sum", self._sum, True),
            ("Count", self._count, False), ("Wait", self._wait, False), ("Deaf", self._wait, True),
            ("Fail", self._fail, False), ("Refuse", self._refuse, False),
            ("Explain", self._explain, False), ("Linger", self._linger, False), ("EchoLater", self._echo_later, True),
        ):  # fmt: skip
            server.methods[f"/t/{name}".encode()] = Method(answer, bytes, bytes, many)

    def do(self, action: Callable[[], Result]) -> Result:
        """Do something on the server's loop."""
        done: Future[Result] = Future()

        def act() -> None:
            try:
                done.set_result(action())
            except Exception as error:  # noqa: BLE001 (it is raised where the result is waited for)
                done.set_exception(error)

        self._loop.call_soon_threadsafe(act)
        return done.result(SECONDS)

    def stop(self, grace_seconds: float = SECONDS) -> Future[None]:
        """Let the server end."""
        return asyncio.run_coroutine_threadsafe(self.server.stop(grace_seconds), self._loop)

    def left(self) -> tuple[int, int, list[str]]:
        """Wait until no client is left; give the calls and connections that are kept nevertheless, and the faults."""
        asyncio.run_coroutine_threadsafe(self.server._empty.wait(), self._loop).result(SECONDS)
        return self.do(lambda: (self.server.calls, len(list(self.server.clients)), self.faults))

    async def _echo(self, request: bytes, _: Call) -> bytes:
        return request

    async def _echo_each(self, requests: Call, call: Call) -> None:
        async for request in requests:
            await call.write(request)

    async def _sum(self, requests: Call, call: Call) -> bytes:
        call.set_trailing_metadata(METADATA)
        return b"%d" % sum([len(request) async for request in requests])

    async def _count(self, request: bytes, call: Call) -> None:
        replies, size = map(int, request.split())
        for _ in range(replies):
            await call.write(bytes(size))
            self.written += 1

    async def _wait(self, _: Any, call: Call) -> None:
        self.waiting.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.release()

    async def _linger(self, request: bytes, call: Call) -> None:
        try:
            await self._wait(request, call)
        finally:
            await self.released.wait()

    async def _echo_later(self, requests: Call, call: Call) -> None:
        await self.released.wait()
        await self._echo_each(requests, call)

    async def _fail(self, request: bytes, _: Call) -> bytes:
        raise ValueError(request)

    async def _refuse(self, request: bytes, call: Call) -> None:
        await call.abort(grpc.StatusCode.NOT_FOUND, request.decode(), METADATA)

    async def _explain(self, request: bytes, call: Call) -> None:
        await call.abort(grpc.StatusCode.NOT_FOUND, "", [("details-bin", request)])


@contextlib.contextmanager
def serving(
    limits: Limits = LIMITS,
    tls: ssl.SSLContext | None = None,
    *,
    unix: Path | None = None,
    make: Callable[[Limits], Server] = Server,
) -> Iterator[Rig]:
    """Run a server until the end of the block, and make sure that nothing is left of its clients by then."""
    begun: Future[Rig] = Future()
    end: Future[None] = Future()

    async def serve() -> None:
        server = make(limits)
        server.bind("127.0.0.1:0", tls)
        if unix:
            server.bind_unix(unix)
        server.start()
        begun.set_result(Rig(server))
        await asyncio.wrap_future(end)
        await server.stop(SECONDS)

    thread = threading.Thread(target=uvloop.run, args=(serve(),))
    thread.start()
    try:
        yield begun.result(SECONDS)
        assert begun.result().left() == (0, 0, [])
    finally:
        end.set_result(None)
        thread.join()


class Frame(NamedTuple):
    """A frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass
class Answer:
    """What came of one call."""

    blocks: list[dict[bytes, bytes]] = field(default_factory=list)
    data: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def messages(self) -> list[bytes]:
        """The messages, none of which may be compressed."""
        found, at = [], 0
        while at < len(self.data):
            packed, size = PREFIX.unpack_from(self.data, at)
            assert not packed
            at += PREFIX.size + size
            assert at <= len(self.data)
            found.append(self.data[at - size : at])
        return found

    @property
    def status(self) -> str:
        """The name of the status."""
        code = int(self.blocks[-1][b"grpc-status"])
        return next(status.name for status in grpc.StatusCode if status.value[0] == code)

    @property
    def details(self) -> bytes:
        """The message with the status, as it was sent."""
        return self.blocks[-1].get(b"grpc-message", b"")

    @property
    def outcome(self) -> tuple[str, list[bytes]]:
        """The status and the messages."""
        return self.status, self.messages


class Client:
    """A client that sends what it is told, byte by byte, and acknowledges nothing by itself.

    It connects, or uses a connection that is given.
    """

    def __init__(
        self, rig: Rig, start: bytes = START, *, receive_bytes: int = 0, connection: socket.socket | None = None
    ) -> None:
        self.answers: dict[int, Answer] = defaultdict(Answer)
        self.frames: list[Frame] = []
        # Of each goodbye: the last stream, the error, and the reason.
        self.goodbyes: list[tuple[int, int, bytes]] = []
        self.open = True
        self._decoder = hpack.Decoder()
        self._unread = self._block = b""
        self._socket = connection or _connect(rig.port, receive_bytes)
        self.send(start)

    def __enter__(self) -> Self:
        """Use it for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self._socket.close()

    def send(self, *parts: bytes) -> None:
        """Send bytes; of no use where the server has hung up."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(b"".join(parts))

    def send_apart(self, *parts: bytes) -> None:
        """Send each part in a packet of its own."""
        for part in parts:
            self.send(part)

    def until(self, come: Callable[[], object]) -> None:
        """Read until something has come, or the server hangs up."""
        while self.open and not come():
            self._read()

    def answer(self, stream: int = 1) -> Answer:
        """Give the answer to a call, once it is complete."""
        answer = self.answers[stream]
        self.until(lambda: (answer.ended and not self._block) or answer.reset is not None)
        return answer

    def fault(self) -> int:
        """Give the error that the server hangs up with."""
        self.until(lambda: False)
        return self.goodbyes[-1][1]

    def heard(self) -> None:
        """Read until the server has taken all that was sent."""
        mark = b"%8d" % len(self.frames)
        self.send(frame(frames.PING, 0, 0, mark))
        self.until(lambda: self.frames and self.frames[-1].payload == mark)

    def _read(self) -> None:
        while len(self._unread) < HEADER.size or len(self._unread) < HEADER.size + int.from_bytes(self._unread[:3]):
            try:
                read = self._socket.recv(1 << 16)
            except ConnectionError:
                read = b""
            if not read:
                self.open = False
                return
            self._unread += read
        word, flags, stream = HEADER.unpack_from(self._unread)
        end = HEADER.size + (word >> 8)
        self._note(Frame(word & 0xFF, flags, stream, self._unread[HEADER.size : end]))
        self._unread = self._unread[end:]

    def _note(self, came: Frame) -> None:
        self.frames.append(came)
        answer = self.answers[came.stream]
        if came.kind in {frames.HEADERS, frames.CONTINUATION}:
            self._block += came.payload
            assert len(came.payload) <= frames.FRAME_LIMIT
            if came.flags & END_HEADERS:
                answer.blocks.append(dict(self._decoder.decode(self._block, raw=True)))
                self._block = b""
        elif came.kind == frames.DATA:
            answer.data += came.payload
        elif came.kind == frames.RST_STREAM:
            answer.reset = int.from_bytes(came.payload)
        elif came.kind == frames.GOAWAY:
            self.goodbyes.append(
                (*frames.GOAWAY_HEAD.unpack_from(came.payload), came.payload[frames.GOAWAY_HEAD.size :])
            )
        if came.kind in {frames.HEADERS, frames.DATA} and came.flags & END_STREAM:
            answer.ended = True


def _connect(port: int, receive_bytes: int) -> socket.socket:
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(SECONDS)
    connection.connect(("127.0.0.1", port))
    return connection


def message(content: bytes, packed: int = 0) -> bytes:
    """Write a message of gRPC."""
    return PREFIX.pack(packed, len(content)) + content


def begin(path: str, *more: tuple[bytes, bytes], stream: int = 1, flags: int = END_HEADERS) -> bytes:
    """Begin a call; further headers come after the usual ones."""
    return frame(frames.HEADERS, flags, stream, block_of(path, *more))


def block_of(path: str, *more: tuple[bytes, bytes]) -> bytes:
    """Write the headers of a call; those of the same name stand in for the usual ones."""
    fields = dict(((b":path", path.encode()), *FIELDS, *more))
    return b"".join(literal(name, value) for name, value in fields.items())


def data(content: bytes, *, stream: int = 1, ended: bool = False) -> bytes:
    """Write frames of data as long as may be."""
    parts = [content[at : at + frames.FRAME_LIMIT] for at in range(0, len(content), frames.FRAME_LIMIT)] or [b""]
    last = len(parts) - 1
    return b"".join(
        frame(frames.DATA, END_STREAM if ended and index == last else 0, stream, part)
        for index, part in enumerate(parts)
    )


def whole(path: str, content: bytes = b"", *more: tuple[bytes, bytes], stream: int = 1) -> bytes:
    """Write a call with one message."""
    return begin(path, *more, stream=stream) + data(message(content), stream=stream, ended=True)


def window(more: int, stream: int = 0) -> bytes:
    """Let the server send so many bytes more."""
    return frame(frames.WINDOW_UPDATE, 0, stream, frames.NUMBER.pack(more))


def settings(*given: tuple[int, int]) -> bytes:
    """Write settings."""
    return frame(frames.SETTINGS, 0, 0, b"".join(frames.SETTING.pack(*setting) for setting in given))
