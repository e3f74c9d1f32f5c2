"""Frames of HTTP/2 by hand, for what no client library would send (RFC 9113, RFC 7541)."""

from __future__ import annotations

import socket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
EMPTY_MESSAGE = bytes(5)
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Write a frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Write a header as it is; names and values of up to 126 bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call_of(path: bytes, *headers: tuple[bytes, bytes]) -> bytes:
    """Write the beginning of a connection with one call, which sends an empty message."""
    fields = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), *headers,
    ]  # fmt: skip
    block = b"".join(literal(name, value) for name, value in fields)
    call = frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, EMPTY_MESSAGE)
    return PREFACE + frame(SETTINGS, 0, 0, b"") + call


def converse(port: int, content: bytes, until: bytes, seconds: float) -> bytes:
    """Send bytes and read until the answer holds `until` or the connection ends."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.sendall(content)
        while until not in answer and (read := connection.recv(65536)):
            answer += read
    return answer
