"""A gRPC client that takes next to nothing of the host, so that a benchmark measures the server and not the client.

It speaks as much of HTTP/2 (RFC 9113, and RFC 7541 for headers) as that needs: one method of one server, no TLS,
messages that fit into a frame, and windows so large that no answer ever waits for room.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Types of frames.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
# Flags: ACK is that of SETTINGS and PING.
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
# What the peer takes before it says more, in bytes.
INITIAL_WINDOW, FRAME_LIMIT = 65_535, 16_384
INITIAL_WINDOW_SIZE = 4
LARGEST_WINDOW = 2**31 - 1
# Of a message of gRPC: one byte that says whether it is compressed, four with its length.
PREFIX = struct.Struct(">BI")
TIMEOUT_SECONDS = 30.0
RECEIVED_BYTES = 1 << 18


class Event(NamedTuple):
    """What came of a call: messages, and whether that was all. One that was refused ends without a message."""

    call: int
    messages: list[bytes]
    ended: bool


class Connection:
    """A connection that calls one method. What is to be sent goes out when the next answers are waited for."""

    def __init__(self, address: str, method: str) -> None:
        """Connect to HOST:PORT or unix:PATH. Raises `OSError`."""
        self._socket = _connect(address)
        self._method = method.encode()
        self._calls = 0
        self._out = bytearray(PREFACE)
        self._out += _frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, LARGEST_WINDOW))
        self._out += _frame(WINDOW_UPDATE, 0, 0, (LARGEST_WINDOW - INITIAL_WINDOW).to_bytes(4, "big"))
        # What the server takes on the connection and on each stream, and messages that wait for room.
        self._room = self._initial = INITIAL_WINDOW
        self._rooms: dict[int, int] = {}
        self._waiting: deque[tuple[int, bytes, bool]] = deque()
        self._received = b""
        self._parts: dict[int, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, message: bytes, *, last: bool = True) -> int:
        """Call the method with a message, the `last` one or the first; give the call's number."""
        number, self._calls = 2 * self._calls + 1, self._calls + 1
        self._out += _frame(HEADERS, END_HEADERS, number, _headers(self._method, first=number == 1))
        self._rooms[number] = self._initial
        self.send(number, message, last=last)
        return number

    def send(self, call: int, message: bytes, *, last: bool = False) -> None:
        """Send a message of a call. Raises `ValueError` for one that does not fit into a frame."""
        data = PREFIX.pack(0, len(message)) + message
        if len(data) > FRAME_LIMIT:
            raise ValueError(f"{len(data)} bytes exceed the {FRAME_LIMIT} of a frame")
        self._waiting.append((call, data, last))
        self._send_what_fits()

    def _send_what_fits(self) -> None:
        while self._waiting:
            call, data, last = self._waiting[0]
            if len(data) > min(self._room, self._rooms[call]):
                return
            self._waiting.popleft()
            self._room -= len(data)
            self._rooms[call] -= len(data)
            self._out += _frame(DATA, END_STREAM if last else 0, call, data)

    def events(self) -> Iterator[Event]:
        """Send what is to be sent, and wait for answers. Raises `ConnectionError` when the server ends it."""
        if self._out:
            self._socket.sendall(self._out)
            self._out.clear()
        arrived = self._socket.recv(RECEIVED_BYTES)
        if not arrived:
            raise ConnectionError("the server has closed the connection")
        data, at = self._received + arrived, 0
        while len(data) - at >= 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > len(data):
                break
            kind, flags, stream = data[at + 3], data[at + 4], int.from_bytes(data[at + 5 : at + 9], "big")
            payload = data[at + 9 : end]
            at = end
            if kind == DATA or (kind == HEADERS and flags & END_STREAM):
                messages = self._messages(stream, flags, payload) if kind == DATA else []
                if flags & END_STREAM:
                    self._forget(stream)
                yield Event(stream, messages, bool(flags & END_STREAM))
            elif kind == RST_STREAM:
                # What follows the last message may be cut short: "no error" ends a call that has its answer.
                if self._forget(stream):
                    yield Event(stream, [], ended=True)
            elif kind != HEADERS:
                self._control(kind, flags, stream, payload)
        self._received = data[at:]

    def _forget(self, stream: int) -> bool:
        return self._rooms.pop(stream, None) is not None

    def _messages(self, stream: int, flags: int, payload: bytes) -> list[bytes]:
        """Give the messages that are complete with this frame."""
        if flags & PADDED:
            raise ConnectionError("padded frames are not understood")
        data, messages, at = self._parts.pop(stream, b"") + payload, [], 0
        while len(data) - at >= PREFIX.size:
            end = at + PREFIX.size + PREFIX.unpack_from(data, at)[1]
            if end > len(data):
                break
            messages.append(data[at + PREFIX.size : end])
            at = end
        if at < len(data):
            self._parts[stream] = data[at:]
        return messages

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == GOAWAY:
            raise ConnectionError(f"the server ends the connection: {payload[8:].decode(errors='replace')}")
        if kind == SETTINGS and not flags & ACK:
            for identifier, value in struct.iter_unpack(">HI", payload):
                if identifier == INITIAL_WINDOW_SIZE:
                    self._rooms = {call: room + value - self._initial for call, room in self._rooms.items()}
                    self._initial = value
            self._out += _frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self._out += _frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self._room += more
            elif stream in self._rooms:
                self._rooms[stream] += more
        self._send_what_fits()


def _connect(address: str) -> socket.socket:
    if address.startswith("unix:"):
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        connected = socket.create_connection((host, int(port)))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.settimeout(TIMEOUT_SECONDS)
    return connected


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _headers(method: bytes, *, first: bool) -> bytes:
    """Give the headers of a call as stock clients do: the first one enters them in the table, others name the entries.

    The bytes are indices of the static table (:method POST is 3, :scheme http 6, names :path 4, :authority 1 and
    content-type 31), and from 62 on of the table of this connection, the latest entry first.
    """
    if not first:
        return b"\x83\x86\xc1\xc0\xbf\xbe"
    path, authority, content = _text(method), _text(b"localhost"), _text(b"application/grpc")
    return (
        b"\x83\x86\x44" + path + b"\x41" + authority + b"\x5f" + content + b"\x40" + _text(b"te") + _text(b"trailers")
    )


def _text(value: bytes) -> bytes:
    """Write a string shorter than 127 bytes, without Huffman coding."""
    return bytes((len(value),)) + value
