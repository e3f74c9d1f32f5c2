"""Frames of HTTP/2: their layout, types, flags, settings and errors (RFC 9113)."""

from __future__ import annotations

from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Types.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
HEADER_KINDS = frozenset((HEADERS, CONTINUATION))
# Flags: ACK is that of SETTINGS and PING.
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 0x1, 0x1, 0x4, 0x8, 0x20
# Settings.
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 5, 6
# Errors.
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0, 1, 2, 3, 5, 6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 8, 9, 11
# What a peer may send before it is told more, in bytes, and the most that a window may ever be.
INITIAL_WINDOW, WINDOW_LIMIT = 65_535, (1 << 31) - 1
# The longest payload of a frame where nothing else was agreed upon, and the longest that can be.
FRAME_LIMIT, LONGEST_FRAME = 16_384, (1 << 24) - 1
HEADER_TABLE_BYTES = 4096
STREAM_LIMIT = (1 << 31) - 1

# Length in 24 bits and type in 8, flags, number of the stream.
HEADER = Struct(">IBI")
SETTING = Struct(">HI")
NUMBER = Struct(">I")
GOAWAY_HEAD = Struct(">II")
PRIORITY_BYTES, PING_BYTES = 5, 8
# The least and the greatest value of settings that have them, and the error of one beyond.
BOUNDS = {
    ENABLE_PUSH: (0, 1, PROTOCOL_ERROR),
    INITIAL_WINDOW_SIZE: (0, WINDOW_LIMIT, FLOW_CONTROL_ERROR),
    MAX_FRAME_SIZE: (FRAME_LIMIT, LONGEST_FRAME, PROTOCOL_ERROR),
}
# There are six settings; what is more is meant to cost time.
SETTINGS_LIMIT = 32
UNBOUNDED = (0, (1 << 32) - 1, NO_ERROR)


class ConnectionFault(Exception):
    """The peer broke the protocol or a limit, and the connection ends: the code of an error, and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Write a frame."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def header_frames(flags: int, stream: int, block: bytes) -> bytes:
    """Write a block of headers, in several frames where it is too long for one."""
    if len(block) <= FRAME_LIMIT:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    written = frame(HEADERS, flags, stream, block[:FRAME_LIMIT])
    for at in range(FRAME_LIMIT, len(block), FRAME_LIMIT):
        last = at + FRAME_LIMIT >= len(block)
        written += frame(CONTINUATION, END_HEADERS if last else 0, stream, block[at : at + FRAME_LIMIT])
    return written


def preface_length(data: bytes) -> int:
    """Tell how long the preface is that a client begins with, 0 while it is not all there. Raises `ConnectionFault`."""
    end = len(PREFACE)
    if not data.startswith(PREFACE[: len(data)]):
        raise ConnectionFault(PROTOCOL_ERROR, "this is no HTTP/2")
    if len(data) < end + HEADER.size:
        return 0
    word, flags, _ = HEADER.unpack_from(data, end)
    if word & 0xFF != SETTINGS or flags & ACK:
        raise ConnectionFault(PROTOCOL_ERROR, "this does not begin with settings")
    return end


def unpadded(flags: int, payload: bytes) -> bytes:
    """Give what a frame of data or headers holds without its padding. Raises `ConnectionFault`."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(FRAME_SIZE_ERROR, "no padding where there must be some")
    if payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def number(payload: bytes) -> int:
    """Read the one number of 31 or 32 bits that is all of a frame. Raises `ConnectionFault`."""
    if len(payload) != NUMBER.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, f"{len(payload)} bytes where there must be {NUMBER.size}")
    value: int = NUMBER.unpack(payload)[0]
    return value


def expect(stream: int, size: int, expected: int, *, connection: bool) -> None:
    """Make sure that a frame is so long, and one of the connection or of a stream. Raises `ConnectionFault`."""
    if (not stream) is not connection:
        raise ConnectionFault(PROTOCOL_ERROR, f"a frame on stream {stream}, where it means nothing")
    if size != expected:
        raise ConnectionFault(FRAME_SIZE_ERROR, f"{size} bytes where there must be {expected}")


def settings(payload: bytes) -> dict[int, int]:
    """Read settings: of each the last value. Raises `ConnectionFault`."""
    if len(payload) > SETTINGS_LIMIT * SETTING.size:
        raise ConnectionFault(ENHANCE_YOUR_CALM, f"{len(payload) // SETTING.size} settings in a frame")
    given: dict[int, int] = {}
    for identifier, value in SETTING.iter_unpack(payload):
        least, greatest, error = BOUNDS.get(identifier, UNBOUNDED)
        if not least <= value <= greatest:
            raise ConnectionFault(error, f"setting {identifier} is {value}, not within {least} and {greatest}")
        given[identifier] = value
    return given
