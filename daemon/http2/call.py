"""One call of a client, as its method sees it: messages come in, replies and a status go out (gRPC over HTTP/2)."""

from __future__ import annotations

import asyncio
from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Any, NoReturn, Self

import grpc
import structlog

from daemon.http2 import frames, headers
from daemon.http2.compression import decompress
from daemon.http2.frames import END_HEADERS, END_STREAM, HEADER, INITIAL_WINDOW
from daemon.http2.method import Method
from daemon.http2.refused import Refused

if TYPE_CHECKING:
    from daemon.http2.connection import Connection

# Of a message: one byte that says whether it is compressed, four with its length.
PREFIX = Struct(">BI")
# Messages that are taken out of what has come before they are asked for.
WAITING_LIMIT = 64
pack_header = HEADER.pack
# What begins the headers before a reply's one message, and those after it.
FIRST, LAST = len(headers.RESPONSE) << 8 | frames.HEADERS, len(headers.OK) << 8 | frames.HEADERS

log = structlog.get_logger()


class ClientGone(Exception):
    """Nobody reads what is written to this call any more."""


class Call:
    """A call under way. Its requests are iterated over where there may be many of them."""

    __slots__ = (
        "_connection", "_deadline", "_encoding", "_ended", "_held", "_kept", "_messages", "_method", "_outbox", "_owed",
        "_partial", "_reader", "_receive_window", "_refused", "_running", "_started", "_task", "_timer", "_trailer",
        "_trailing", "_writer", "over", "send_window", "stream",
    )  # fmt: skip

    def __init__(
        self, connection: Connection, stream: int, method: Method, head: headers.Head, send_window: int
    ) -> None:
        self.stream = stream
        # Bytes that may be sent to the client, and those that it may send.
        self.send_window = send_window
        self._receive_window = INITIAL_WINDOW
        self.over = False
        connection.server.call_begins()
        self._connection = connection
        self._method = method
        self._encoding = head.encoding
        # Messages that wait, each with whether it is compressed; the beginning of the next one.
        self._messages: deque[tuple[bytes, int]] = deque()
        self._partial = bytearray()
        # Bytes of the client's window that are in use, and those that it may use again and was not told of.
        self._held = self._owed = self._kept = 0
        # Whether the client has ended its requests, whether the reply has begun.
        self._ended = self._started = False
        # Whether its method runs, and what it ends with when the method is done.
        self._running = False
        self._refused: Refused | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        # What waits for room, and the trailer that follows it.
        self._outbox = bytearray()
        self._trailer: bytes | None = None
        self._trailing: headers.Metadata = ()
        self._task: asyncio.Task[None] | None = None
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if head.timeout_seconds is not None:
            self._deadline = connection.loop.time() + head.timeout_seconds
            self._timer = connection.loop.call_at(self._deadline, self._expire)
        if method.many_requests:
            self._start()

    # What methods use, named as in `grpc.aio.ServicerContext`.

    def time_remaining(self) -> float | None:
        """Give the seconds until the client's deadline, `None` where it has none."""
        return None if self._deadline is None else max(0.0, self._deadline - self._connection.loop.time())

    def set_trailing_metadata(self, metadata: headers.Metadata) -> None:
        """Send metadata when the call ends well."""
        self._trailing = metadata

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: headers.Metadata = ()
    ) -> NoReturn:
        """End the call with a status. Raises `Refused`."""
        raise Refused(code, details, trailing_metadata)

    async def write(self, reply: Any) -> None:
        """Send a reply once the client has room for it. Raises `ClientGone`."""
        while (self._outbox or self._connection.sender.paused) and not self.over:
            if self._writer is None:
                self._writer = self._connection.loop.create_future()
            await asyncio.shield(self._writer)
        if self.over:
            raise ClientGone
        self._send(self._method.serialise(reply))

    def __aiter__(self) -> Self:
        """Iterate over the requests."""
        return self

    async def __anext__(self) -> Any:
        """Give the next request; one that is refused is the last, and ends the call when the others are answered."""
        while not self._messages:
            if self._ended:
                if self._partial:
                    self._refused = _cut_short()
                raise StopAsyncIteration
            self._reader = self._connection.loop.create_future()
            await self._reader
        message, flag = self._messages.popleft()
        self._keep(-min(self._kept, PREFIX.size + len(message)))
        if self._partial:
            self._assemble()
        self._give_back(min(self._held, PREFIX.size + len(message)) if self._messages else self._held)
        try:
            return await self._parsed(message, flag)
        except Refused as refused:
            self._refused = refused
            raise StopAsyncIteration from None

    # What the connection tells.

    def take(self, data: bytes, size: int, *, ended: bool) -> None:
        """Take the data of a frame that was `size` bytes long with its padding."""
        if self._trailer is not None:
            # The call is to end, and nobody reads it.
            self._ended |= ended
            self._connection.give_back(size)
            return
        self._receive_window -= size
        self._held += size
        if self._ended or self._receive_window < 0:
            self._connection.reset(self.stream, frames.STREAM_CLOSED if self._ended else frames.FLOW_CONTROL_ERROR)
            self.cut()
            return
        self._ended = ended
        if data and not self._take_message(data):
            self._partial += data
            self._keep(len(data))
            self._assemble()
        if len(self._messages) > 1 and not self._method.many_requests:
            self.refuse(grpc.StatusCode.UNIMPLEMENTED, "the method takes one message, more were sent")
        if not self.over and self._trailer is None:
            self._go_on()

    def _go_on(self) -> None:
        """Let the method have what has come, and the client send more."""
        many = self._method.many_requests
        if not many or not self._messages:
            self._give_back(self._held)
        if not many:
            if self._ended:
                self._start()
        elif self._reader and not self._reader.done() and (self._messages or self._ended):
            self._reader.set_result(None)

    def take_trailer(self, *, ended: bool) -> None:
        """Take headers after the first ones: they are the last thing of a call, and say nothing else."""
        if ended:
            self.take(b"", 0, ended=True)
        else:
            self._connection.reset(self.stream, frames.PROTOCOL_ERROR)
            self.cut()

    def grow(self, more: int) -> None:
        """Send on: the client takes so many bytes more. Raises `ConnectionFault`."""
        self.send_window += more
        if self.send_window > frames.WINDOW_LIMIT:
            raise frames.ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window beyond its limit")
        self.pump()

    def pump(self) -> None:
        """Send what there is room for."""
        connection = self._connection
        while self._outbox and not connection.sender.paused:
            size = min(len(self._outbox), self.send_window, connection.send_window, frames.FRAME_LIMIT)
            if size <= 0:
                return
            connection.send(pack_header(size << 8 | frames.DATA, 0, self.stream) + self._outbox[:size])
            del self._outbox[:size]
            self.send_window -= size
            connection.send_window -= size
        if self._outbox:
            return
        if self._trailer is not None:
            self._close(self._trailer)
        self.wake()

    def wake(self) -> None:
        """Let those go on who wait to write."""
        if self._writer and not self._writer.done():
            self._writer.set_result(None)
        self._writer = None

    def cut(self) -> None:
        """End the call without a word: its client has, or is gone."""
        self._leave()
        self.wake()
        if self._task:
            self._task.cancel()

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with a status, whatever its method does."""
        self.end(code, details)
        if self._task:
            self._task.cancel()

    def end(self, code: grpc.StatusCode, details: str, metadata: headers.Metadata = ()) -> None:
        """End the call with a status, once what was written is sent."""
        self._conclude(headers.trailer(code, details, metadata))

    def _start(self) -> None:
        self._task = self._connection.loop.create_task(self._serve())

    async def _serve(self) -> None:
        self._running = True
        method = self._method
        try:
            reply = await method.answer(self if method.many_requests else await self._only(), self)
            if self._refused:
                raise self._refused
            if reply is None:
                self._conclude(headers.trailer(grpc.StatusCode.OK, "", self._trailing))
            else:
                self._reply(method.serialise(reply))
        except Refused as refused:
            self.end(refused.code, refused.details, refused.metadata)
        except asyncio.CancelledError:
            self.end(grpc.StatusCode.UNAVAILABLE, "the daemon has ended the call")
        except Exception:
            log.exception("a method failed")
            self.end(grpc.StatusCode.INTERNAL, "the daemon has failed; its log tells why")
        finally:
            self._running = False
            if self.over:
                self._connection.server.call_ends()

    async def _only(self) -> Any:
        """Give the one request of a call that has ended its requests."""
        if self._partial:
            raise _cut_short()
        if not self._messages:
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, "the method takes one message, none was sent")
        return await self._parsed(*self._messages.pop())

    async def _parsed(self, message: bytes, flag: int) -> Any:
        if flag:
            message = await decompress(message, flag, self._encoding, self._connection.limits.message_bytes)
        return self._method.parse(message)

    def _take_message(self, data: bytes) -> bool:
        """Take what is just one message, as most calls are; tell whether it is."""
        if self._partial or len(data) < PREFIX.size or self._messages:
            return False
        flag, length = PREFIX.unpack_from(data)
        if length != len(data) - PREFIX.size or length > self._connection.limits.message_bytes:
            return False
        self._messages.append((data[PREFIX.size :], flag))
        return True

    def _assemble(self) -> None:
        """Take messages out of what came in pieces, as long as not too many wait."""
        partial, at, limit = self._partial, 0, self._connection.limits.message_bytes
        while len(partial) - at >= PREFIX.size and len(self._messages) < WAITING_LIMIT:
            flag, length = PREFIX.unpack_from(partial, at)
            if length > limit:
                self.refuse(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message of {length} bytes exceeds the limit of {limit}"
                )
                return
            end = at + PREFIX.size + length
            if end > len(partial):
                break
            self._messages.append((bytes(partial[at + PREFIX.size : end]), flag))
            at = end
        del partial[:at]

    def _keep(self, size: int) -> None:
        """Count what is kept of messages in pieces. Of all calls together, long ones may have so much and no more."""
        server, limits = self._connection.server, self._connection.limits
        self._kept += size
        server.kept += size
        if size > 0 and self._kept > INITIAL_WINDOW and server.kept > max(limits.kept_bytes, limits.message_bytes):
            self.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many long messages are on their way at once")

    def _give_back(self, size: int) -> None:
        """Let the client send as much again."""
        self._held -= size
        self._connection.give_back(size)
        self._owed += size
        if self._owed > INITIAL_WINDOW // 2 and not self._ended:
            self._connection.sender.send(
                frames.frame(frames.WINDOW_UPDATE, 0, self.stream, frames.NUMBER.pack(self._owed))
            )
            self._receive_window += self._owed
            self._owed = 0

    def _reply(self, message: bytes) -> None:
        """Send the one reply, and that the call ended well."""
        size, connection = PREFIX.size + len(message), self._connection
        if self.over or self._trailer is not None:
            return
        window = min(self.send_window, connection.send_window, frames.FRAME_LIMIT)
        if self._trailing or not self._ended or connection.sender.paused or connection.shrunk or size > window:
            self._send(message)
            self._conclude(headers.trailer(grpc.StatusCode.OK, "", self._trailing))
            return
        connection.send_window -= size
        connection.send(b"".join((
            pack_header(FIRST, END_HEADERS, self.stream), headers.RESPONSE,
            pack_header(size << 8 | frames.DATA, 0, self.stream), PREFIX.pack(0, len(message)), message,
            pack_header(LAST, END_HEADERS | END_STREAM, self.stream), headers.OK,
        )))  # fmt: skip
        self._leave()

    def _send(self, message: bytes) -> None:
        if not self._started:
            self._started = True
            self._connection.send_headers(self.stream, headers.RESPONSE)
        self._outbox += PREFIX.pack(0, len(message)) + message
        self.pump()

    def _conclude(self, trailer: bytes) -> None:
        """End the call with a trailer, once what was written is sent."""
        if self.over or self._trailer is not None:
            return
        self._trailer = trailer if self._started else headers.RESPONSE + trailer
        if not self._outbox:
            self._close(self._trailer)

    def _close(self, block: bytes) -> None:
        self._connection.send_headers(self.stream, block, END_STREAM)
        if not self._ended:
            # What it still sends is of no use.
            self._connection.reset(self.stream, frames.NO_ERROR)
        self._leave()

    def _leave(self) -> None:
        if self.over:
            return
        self.over = self._ended = True
        self._outbox.clear()
        self._messages.clear()
        if self._timer:
            self._timer.cancel()
        self._keep(-self._kept)
        held, self._held = self._held, 0
        self._connection.forget(self, held)
        if not self._running:
            self._connection.server.call_ends()

    def _expire(self) -> None:
        """The client waits no longer."""
        self.refuse(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        # Whoever reads nothing does not hold the call either.
        if not self.over:
            self._connection.reset(self.stream, frames.CANCEL)
            self.cut()


def _cut_short() -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, "the requests end within a message")
