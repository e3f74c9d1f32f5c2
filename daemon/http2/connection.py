"""A connection of a client: HTTP/2 as far as gRPC needs it, within limits (RFC 9113)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import structlog

from daemon.http2 import frames, headers
from daemon.http2.call import Call
from daemon.http2.frames import END_HEADERS, END_STREAM, HEADER, ConnectionFault
from daemon.http2.patience import Patience
from daemon.http2.peers import identities, peer
from daemon.http2.sender import Sender

if TYPE_CHECKING:
    from daemon.http2.server import Server

# Frames of one connection that are taken in one turn of the loop, so that others have theirs. So many bytes of headers,
# which may take a microsecond each, count for one more.
FRAMES_A_TURN = 250
COSTLY_BYTES = 8
# What comes beyond waits for so long: else whoever floods the daemon has its loop to himself.
PAUSE_SECONDS = 0.001
# What a client may send on all of its calls before some of it is read.
WINDOW = 1 << 20
# A block of headers is given up when it is longer; a frame of it counts for at least so much.
BLOCK_BYTES_LIMIT, LEAST_BLOCK_BYTES = 1 << 16, 64
# How long a client has to say that it knows of the end.
FAREWELL_SECONDS = 1.0
# What clients are told when the daemon ends.
ENDING = "the daemon is about to end"
# What they must agree to in TLS.
PROTOCOL = "h2"
FAREWELL = b"farewell"

log = structlog.get_logger()


class Connection(asyncio.Protocol):
    """A connection and its calls."""

    def __init__(self, server: Server) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = server.limits
        # Whether it has come about, and whether the client has said that it speaks HTTP/2.
        self.connected = self.preface_seen = False
        self.peer = ""
        # The names in the client's certificate, and whether there is TLS at all.
        self.identities: list[str] = []
        self.secure = False
        # Bytes that the client takes on all calls.
        self.send_window = frames.INITIAL_WINDOW
        # What the next block of headers begins with: before the first one, that no table is used.
        self.shrunk = headers.NO_TABLE
        self.server = server
        self._calls: dict[int, Call] = {}
        self._latest = 0
        self._head_reader = headers.HeadReader()
        self._unread = b""
        self._lagging = False
        # What the client takes of each call.
        self._initial_send_window = frames.INITIAL_WINDOW
        # Its window, and what of it is to be given back.
        self._receive_window, self._owed = WINDOW, 0
        # A block of headers that goes on in further frames: stream, flags and what there is of it.
        self._block: tuple[int, int, bytes] | None = None
        # It takes no more calls; and those that it took are the last.
        self._leaving = self._left = False
        self._take = (
            self._take_data, self._take_headers, self._take_priority, self._take_reset, self._take_settings,
            self._take_push, self._take_ping, self._take_go_away, self._take_window, self._take_continuation,
        )  # fmt: skip

    # What the event loop tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what the client may do."""
        self._transport = cast("asyncio.Transport", transport)
        self.sender = Sender(self._transport, self.loop)
        self.connected = True
        self.secure = transport.get_extra_info("ssl_object") is not None
        self._patience = Patience(self, self.limits, self.loop)
        if self.secure and transport.get_extra_info("ssl_object").selected_alpn_protocol() != PROTOCOL:
            self.cut()
            return
        self.peer, self.identities = peer(self._transport), identities(self._transport)
        payload = frames.SETTING.pack(frames.MAX_CONCURRENT_STREAMS, self.limits.streams)
        payload += frames.SETTING.pack(frames.MAX_HEADER_LIST_SIZE, self.limits.metadata_bytes)
        more = frames.NUMBER.pack(WINDOW - frames.INITIAL_WINDOW)
        self._transport.write(
            frames.frame(frames.SETTINGS, 0, 0, payload) + frames.frame(frames.WINDOW_UPDATE, 0, 0, more)
        )
        if self.server.stopping:
            self.leave(ENDING)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._patience.heard = self.loop.time()
        self._unread = self._unread + data if self._unread else data
        if not self._lagging:
            self._go_on()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.sender.paused = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.sender.paused = False
        for call in list(self._calls.values()):
            call.pump()

    def connection_lost(self, _: Exception | None) -> None:
        """End its calls."""
        self._left = True
        for call in list(self._calls.values()):
            call.cut()
        self._patience.end()
        self.server.lost(self)

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return bool(self._calls)

    # What calls use.

    def send(self, data: bytes | bytearray) -> None:
        """Send what a client gets for its calls; it may ask again whether we are there."""
        self._patience.strikes = 0
        self.sender.send(data)

    def send_headers(self, stream: int, block: bytes, flags: int = 0) -> None:
        """Send a block of headers."""
        self.send(frames.header_frames(flags, stream, self.shrunk + block))
        self.shrunk = b""

    def reset(self, stream: int, code: int) -> None:
        """End a stream."""
        self.sender.send(frames.frame(frames.RST_STREAM, 0, stream, frames.NUMBER.pack(code)))

    def give_back(self, size: int) -> None:
        """Let the client send as much again."""
        self._owed += size
        # Calls that are not read may hold much of the window: the others need the rest of it.
        if self._owed > self._receive_window:
            self.sender.send(frames.frame(frames.WINDOW_UPDATE, 0, 0, frames.NUMBER.pack(self._owed)))
            self._receive_window += self._owed
            self._owed = 0

    def forget(self, call: Call, held: int) -> None:
        """Let go of a call that is over, and of what it held of the window."""
        self.give_back(held)
        self._calls.pop(call.stream, None)
        if not self._calls:
            self._patience.idle = self.loop.time()
            if self._left and not self._transport.is_closing():
                self._close(self.limits.ping_timeout_seconds)

    # What the server tells.

    def leave(self, reason: str) -> None:
        """Answer what the client has sent until it knows that it must go elsewhere."""
        if self._leaving or not self.connected:
            return
        self._leaving = True
        self._go_away(frames.STREAM_LIMIT, frames.NO_ERROR, reason)
        self.sender.send(frames.frame(frames.PING, 0, 0, FAREWELL))
        self.loop.call_later(FAREWELL_SECONDS, self._leave_now, reason)

    def cut(self) -> None:
        """End it, whatever is under way."""
        if self.connected:
            self._transport.abort()

    def _leave_now(self, reason: str) -> None:
        """Take no further call; close when the last one is answered."""
        if self._left:
            return
        self._left = True
        self._go_away(self._latest, frames.NO_ERROR, reason)
        if not self._calls:
            self._close(self.limits.ping_timeout_seconds)

    def fail(self, code: int, reason: str) -> None:
        """End it at once, and say why."""
        self._left = True
        self._go_away(self._latest, code, reason)
        self._close(FAREWELL_SECONDS)
        for call in list(self._calls.values()):
            call.cut()

    def _close(self, seconds: float) -> None:
        """Close when the client has read what was sent, or after so long."""
        self.sender.flush()
        self._transport.close()
        self.loop.call_later(seconds, self._transport.abort)

    def _go_away(self, latest: int, code: int, reason: str) -> None:
        self.sender.send(frames.frame(frames.GOAWAY, 0, 0, frames.GOAWAY_HEAD.pack(latest, code) + reason.encode()))

    # Frames.

    def _go_on(self) -> None:
        """Take the frames that have come, so many in this turn of the loop."""
        lagged, self._lagging = self._lagging, False
        if self._transport.is_closing():
            self._unread = b""
            return
        try:
            self._unread = self._take_frames(self._unread)
        except ConnectionFault as fault:
            self.fail(fault.code, str(fault))
            return
        except Exception:
            log.exception("a connection failed")
            self.fail(frames.INTERNAL_ERROR, "")
            return
        if self._lagging and not lagged:
            self._transport.pause_reading()
        elif lagged and not self._lagging:
            self._transport.resume_reading()

    def _take_frames(self, data: bytes) -> bytes:
        """Take frames; give what is left."""
        at, size = 0, len(data)
        if not self.preface_seen:
            at = frames.preface_length(data)
            if not at:
                return data
            self.preface_seen = True
        left = FRAMES_A_TURN
        while left > 0:
            if size - at < HEADER.size:
                return data[at:]
            word, flags, stream = HEADER.unpack_from(data, at)
            kind, start = word & 0xFF, at + HEADER.size
            end = start + (word >> 8)
            if word >> 8 > frames.FRAME_LIMIT:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, f"a frame of {word >> 8} bytes")
            if end > size:
                return data[at:]
            if self._block and kind != frames.CONTINUATION:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "headers are not continued")
            if kind < len(self._take):
                self._take[kind](flags, stream & frames.STREAM_LIMIT, data[start:end])
            at = end
            left -= 1 + (word >> 8) // COSTLY_BYTES if kind in frames.HEADER_KINDS else 1
        self._lagging = True
        self.loop.call_later(PAUSE_SECONDS, self._go_on)
        return data[at:]

    def _take_priority(self, _: int, stream: int, payload: bytes) -> None:
        """Nothing is to be done before other things."""
        frames.expect(stream, len(payload), frames.PRIORITY_BYTES, connection=False)

    def _take_go_away(self, _: int, stream: int, payload: bytes) -> None:
        """A client that makes no further call hangs up by itself."""
        frames.expect(stream, min(len(payload), frames.GOAWAY_HEAD.size), frames.GOAWAY_HEAD.size, connection=True)

    def _check_begun(self, stream: int) -> None:
        if not stream & 1 or (stream > self._latest and not self._left):
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"a frame of stream {stream}, which never began")

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window of the connection")
        payload = frames.unpadded(flags, payload)
        call = self._calls.get(stream)
        if call:
            call.take(payload, size, ended=bool(flags & END_STREAM))
        else:
            self._check_begun(stream)
            self.give_back(size)

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        block = frames.unpadded(flags, payload)
        if flags & frames.PRIORITY_FLAG:
            frames.expect(stream, len(block[: frames.PRIORITY_BYTES]), frames.PRIORITY_BYTES, connection=False)
            block = block[frames.PRIORITY_BYTES :]
        if flags & END_HEADERS:
            self._begin(stream, block, ended=bool(flags & END_STREAM))
        else:
            self._block = (stream, flags, block)

    def _take_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if not self._block or self._block[0] != stream:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "there are no headers to continue")
        _, first, block = self._block
        block += payload
        if len(block) > BLOCK_BYTES_LIMIT or (len(payload) < LEAST_BLOCK_BYTES and not flags & END_HEADERS):
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "headers that do not end")
        self._block = None if flags & END_HEADERS else (stream, first, block)
        if flags & END_HEADERS:
            self._begin(stream, block, ended=bool(first & END_STREAM))

    def _begin(self, stream: int, block: bytes, *, ended: bool) -> None:
        """Begin a call, or end the requests of one."""
        head = self._head_reader.read(block)
        if not stream & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"a client's stream has the number {stream}")
        if stream <= self._latest:
            call = self._calls.get(stream)
            if call:
                call.take_trailer(ended=ended)
            return
        if self._left:
            return
        self._latest = stream
        if len(self._calls) >= self.limits.streams:
            self.reset(stream, frames.REFUSED_STREAM)
            return
        method = self.server.methods.get(head.path)
        refusal = self.server.refusal(head, self)
        if method is None or refusal:
            self._refuse(stream, refusal or headers.UNKNOWN, ended=ended)
            return
        call = self._calls[stream] = Call(self, stream, method, head, self._initial_send_window)
        if ended:
            call.take(b"", 0, ended=True)

    def _refuse(self, stream: int, block: bytes, *, ended: bool) -> None:
        self.send_headers(stream, block, END_STREAM)
        if not ended:
            self.reset(stream, frames.NO_ERROR)

    def _take_reset(self, _: int, stream: int, payload: bytes) -> None:
        frames.number(payload)
        self._check_begun(stream)
        call = self._calls.get(stream)
        if call:
            call.cut()

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        acknowledged = flags & frames.ACK
        frames.expect(stream, len(payload) if acknowledged else len(payload) % frames.SETTING.size, 0, connection=True)
        if acknowledged:
            return
        given = frames.settings(payload)
        # Before all that keeps to them: until then, clients may judge by what was.
        self.sender.send(frames.frame(frames.SETTINGS, frames.ACK, 0))
        initial_send_window = given.get(frames.INITIAL_WINDOW_SIZE, self._initial_send_window)
        more, self._initial_send_window = initial_send_window - self._initial_send_window, initial_send_window
        if more:
            for call in list(self._calls.values()):
                call.grow(more)

    def _take_push(self, _flags: int, _stream: int, _payload: bytes) -> None:
        raise ConnectionFault(frames.PROTOCOL_ERROR, "clients push nothing")

    def _take_ping(self, flags: int, stream: int, payload: bytes) -> None:
        frames.expect(stream, len(payload), frames.PING_BYTES, connection=True)
        if flags & frames.ACK:
            if payload == FAREWELL and self._leaving:
                self._leave_now("")
            return
        self._patience.pinged()
        self.sender.send(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _take_window(self, _: int, stream: int, payload: bytes) -> None:
        more = frames.number(payload) & frames.WINDOW_LIMIT
        if not more:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a window that grows by nothing")
        if stream:
            call = self._calls.get(stream)
            if call:
                call.grow(more)
            else:
                self._check_begun(stream)
            return
        full = self.send_window <= 0
        self.send_window += more
        if self.send_window > frames.WINDOW_LIMIT:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window beyond its limit")
        if full:
            for call in list(self._calls.values()):
                call.pump()
