"""Compressed messages of clients."""

from __future__ import annotations

import asyncio
import zlib

import grpc

from daemon.http2.refused import Refused

# What tells zlib how a message is compressed.
ENCODINGS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
COMPRESSED = 1


async def decompress(message: bytes, flag: int, encoding: bytes, limit: int) -> bytes:
    """Decompress a message beside the loop, and no further than the limit in bytes. Raises `Refused`."""
    if flag != COMPRESSED:
        raise Refused(grpc.StatusCode.INTERNAL, f"a message is marked as {flag}, neither plain nor compressed")
    window_bits = ENCODINGS.get(encoding)
    if window_bits is None:
        raise Refused(grpc.StatusCode.INTERNAL, "a message is compressed, and no grpc-encoding tells how")
    decompressor = zlib.decompressobj(window_bits)
    try:
        decompressed = await asyncio.to_thread(decompressor.decompress, message, limit + 1)
    except zlib.error:
        decompressed = b""
    if len(decompressed) > limit:
        raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message unpacks to more than {limit} bytes, the limit")
    if not decompressor.eof or decompressor.unused_data:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "a compressed message cannot be unpacked")
    return decompressed
