"""Header blocks of calls: what a client asks for, and what it is answered (RFC 7541, gRPC over HTTP/2).

Stock clients enter the headers of their first call in the connection's table, and then name the entries: the same few
bytes at each call. Those are read once. Nothing that is sent uses the table.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NamedTuple

import grpc
from hpack import Decoder, HPACKError, OversizedHeaderListError

from daemon.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault

# gRPC over HTTP/2: a number of at most eight digits and its unit.
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
TIMEOUT_DIGITS = 8
CONTENT_TYPE = b"application/grpc"
# Each field of a list counts for so much more than its name and value (RFC 9113).
FIELD_BYTES = 32
# A block all of whose bytes are these names entries of the tables by number, and changes nothing in them.
INDICES = bytes(range(0x80, 0xFF))
# Blocks that are remembered; a client that calls a dozen methods has as many.
KNOWN_LIMIT = 64
# Beyond this, what a block unpacks to is not looked at.
UNPACKED_BYTES_LIMIT = 1 << 15
SHORT = 0x7F
# The table of what is sent has no room.
NO_TABLE = b"\x20"
IDENTITY = b"identity"
# Bytes of a message that stand for themselves; others are given in hexadecimal.
PLAIN = frozenset(range(0x20, 0x7F)) - {ord("%")}
BLANK = ord(" ")
# What is beyond is left out: stock clients give up a call with more than 8 kB of metadata.
MESSAGE_CHARACTERS = 1000

Metadata = Iterable[tuple[str, str | bytes]]


class Head(NamedTuple):
    """What the headers of a call ask for."""

    path: bytes
    content_type: bytes
    encoding: bytes
    timeout_seconds: float | None
    sound: bool
    bytes: int


class HeadReader:
    """Reads the header blocks of one connection, all of them and in their order, as its table asks for."""

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=UNPACKED_BYTES_LIMIT)
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Give what a block says. Raises `ConnectionFault` where its bytes are none."""
        known = self._known.get(block)
        return known or self._read(block)

    def _read(self, block: bytes) -> Head:
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "headers that unpack to too much") from None
        except HPACKError:
            raise ConnectionFault(COMPRESSION_ERROR, "headers cannot be read") from None
        head = _head(fields)
        if block.translate(None, INDICES):
            # It may have moved the entries of the table.
            self._known.clear()
        elif len(self._known) < KNOWN_LIMIT:
            self._known[block] = head
        return head


def _head(fields: Iterable[tuple[bytes, bytes]]) -> Head:
    path = method = content_type = b""
    encoding, timeout, sound, size = IDENTITY, None, True, 0
    for name, value in fields:
        size += len(name) + len(value) + FIELD_BYTES
        if name == b":path":
            path = value
        elif name == b":method":
            method = value
        elif name == b"content-type":
            content_type = value
        elif name == b"grpc-encoding":
            encoding = value
        elif name == b"grpc-timeout":
            timeout = _seconds(value)
            sound = timeout is not None
    return Head(path, content_type, encoding, timeout, sound and method == b"POST", size)


def _seconds(value: bytes) -> float | None:
    digits, unit = value[:-1], UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(digits) > TIMEOUT_DIGITS:
        return None
    return int(digits) * unit


def literal(name: bytes, value: bytes) -> bytes:
    """Write a header that enters no table."""
    return b"\0" + _string(name) + _string(value)


def _string(value: bytes) -> bytes:
    """Write a string as it is: its length in seven bits, or what is beyond them in groups of seven, and its bytes."""
    rest = len(value) - SHORT
    if rest < 0:
        return bytes((len(value),)) + value
    length = bytearray((SHORT,))
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    length.append(rest)
    return bytes(length) + value


def refusal(code: grpc.StatusCode, message: str, metadata: Metadata = ()) -> bytes:
    """Write the answer to a call that is not even begun."""
    return RESPONSE + trailer(code, message, metadata)


def trailer(code: grpc.StatusCode, message: str, metadata: Metadata = ()) -> bytes:
    """Write how a call ended, and metadata about it."""
    block = literal(b"grpc-status", b"%d" % code.value[0])
    if message:
        block += literal(b"grpc-message", _percent_encoded(message))
    for key, value in metadata:
        name, raw = key.encode(), value if isinstance(value, bytes) else value.encode()
        block += literal(name, base64.b64encode(raw).rstrip(b"=") if name.endswith(b"-bin") else raw)
    return block


def _percent_encoded(message: str) -> bytes:
    """Write a message of a status; a header neither begins nor ends with a blank (RFC 9113)."""
    raw = message[:MESSAGE_CHARACTERS].encode(errors="replace")
    last = len(raw) - 1
    return b"".join(
        b"%c" % byte if byte in PLAIN and (byte != BLANK or 0 < at < last) else b"%%%02X" % byte
        for at, byte in enumerate(raw)
    )


# ":status" with the value 200 is the eighth entry of the static table.
RESPONSE = b"\x88" + literal(b"content-type", CONTENT_TYPE)
NOT_GRPC = literal(b":status", b"415")
OK = trailer(grpc.StatusCode.OK, "")
UNKNOWN = refusal(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")
UNSUPPORTED_ENCODING = refusal(
    grpc.StatusCode.UNIMPLEMENTED,
    "messages may be compressed by gzip or deflate",
    [("grpc-accept-encoding", "identity,gzip,deflate")],
)
