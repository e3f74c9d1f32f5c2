"""Frames between the daemon and a worker, over a socket pair: a small JSON header, then the raw bytes of arrays.

A frame is `MAGIC`, the length of the header, the header, and the arrays that the header lists under `arrays` by type
and shape, in C order. Both ends run on the same host, so bytes are in its order. Whoever receives says how many bytes
of arrays it expects at most: nothing larger is allocated. Every method takes a deadline, in the seconds of
`time.monotonic()`, and raises `TimedOut` when it passes.

Shared memory was measured beside the socket (`python -m tests.bench.worker`, two cores, both in one run): a picture of
28 x 28 bytes takes 36 microseconds there and back over the socket and 30 through memory, one of 3 x 224 x 224 floats
113 and 50. The socket does without a second resource to clean up and stays well below what is asked of a round trip,
80 and 400 microseconds.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Changes with whatever either end must know of the other.
VERSION = 1
MAGIC = b"jld1"
PREFIX = struct.Struct("<4sI")
HEADER_BYTES_LIMIT = 1 << 15
ARRAYS_LIMIT = 1 << 10
DIMENSIONS_LIMIT = 8
# A small frame comes whole with the first read.
BUFFER_BYTES = 1 << 16
# The kernel takes 1,024 buffers at a time; artifacts have more parts.
BUFFERS_AT_ONCE = 512
TYPES = {
    name: np.dtype(name)
    for name in (
        "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
        "float16", "float32", "float64",
    )
}  # fmt: skip

TimedOut = socket.timeout
encode = json.JSONEncoder(separators=(",", ":")).encode


class WireError(Exception):
    """What arrived is not a frame, or is more than was asked for."""


class Closed(Exception):
    """The other end has closed the socket, or died."""


class Channel:
    """One end of the socket pair, used by one thread at a time."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(None)
        self._socket = end
        self._timeout: Optional[float] = None
        self._buffer = bytearray(BUFFER_BYTES)

    def send(
        self, header: dict[str, Any], arrays: Sequence[NDArray[Any]] = (), deadline: Optional[float] = None
    ) -> None:
        """Send a frame. Raises `Closed`, `TimedOut`."""
        contiguous = [np.asarray(array, order="C") for array in arrays]
        header["arrays"] = [(array.dtype.name, array.shape) for array in contiguous]
        encoded = encode(header).encode()
        if len(encoded) > HEADER_BYTES_LIMIT:
            raise ValueError(f"a header of {len(encoded)} bytes exceeds the limit of {HEADER_BYTES_LIMIT}")
        left: list[Any] = [PREFIX.pack(MAGIC, len(encoded)) + encoded, *contiguous]
        size = len(left[0]) + sum(array.nbytes for array in contiguous)
        sent = self._send(left, deadline)
        if sent == size:
            return
        left = [memoryview(left[0]), *(_flat(array) for array in contiguous if array.size)]
        while size := size - sent:
            while sent >= len(left[0]):
                sent -= len(left.pop(0))
            left[0] = left[0][sent:]
            sent = self._send(left, deadline)

    def receive(self, bytes_limit: int, deadline: Optional[float] = None) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """Receive a frame whose arrays have `bytes_limit` bytes at most. Raises `WireError`, `Closed`, `TimedOut`."""
        buffer = memoryview(self._buffer)
        filled = self._fill(buffer, 0, PREFIX.size, deadline)
        magic, length = PREFIX.unpack_from(self._buffer)
        if magic != MAGIC:
            raise WireError(f"it begins with {magic!r}")
        if length > HEADER_BYTES_LIMIT:
            raise WireError(f"a header of {length} bytes exceeds the limit of {HEADER_BYTES_LIMIT}")
        begin = PREFIX.size + length
        filled = self._fill(buffer, filled, begin, deadline)
        header = _parse(self._buffer[PREFIX.size : begin])
        arrays = []
        for dtype, shape, size in _wanted(header.pop("arrays", None), bytes_limit):
            if size <= filled - begin:
                array = np.frombuffer(self._buffer[begin : begin + size], dtype).reshape(shape)
                begin += size
            else:
                array = np.empty(shape, dtype)
                content = _flat(array)
                content[: filled - begin] = buffer[begin:filled]
                self._fill(content, filled - begin, size, deadline)
                begin = filled
            arrays.append(array)
        if begin != filled:
            raise WireError(f"{filled - begin} bytes follow it unasked")
        return header, arrays

    def close(self) -> None:
        """Close this end; the other one notices."""
        self._socket.close()

    def _send(self, buffers: list[Any], deadline: Optional[float]) -> int:
        """Send some of the buffers; tell how many bytes the kernel took."""
        self._wait_until(deadline)
        try:
            return self._socket.sendmsg(buffers[:BUFFERS_AT_ONCE])
        except TimedOut:
            raise
        except OSError as error:
            raise Closed(str(error)) from None

    def _fill(self, target: memoryview, filled: int, least: int, deadline: Optional[float]) -> int:
        """Read into `target` until it holds `least` bytes; tell how many it holds."""
        while filled < least:
            self._wait_until(deadline)
            try:
                count = self._socket.recv_into(target[filled:])
            except TimedOut:
                raise
            except OSError as error:
                raise Closed(str(error)) from None
            if count == 0:
                raise Closed("end of stream")
            filled += count
        return filled

    def _wait_until(self, deadline: Optional[float]) -> None:
        """Let the next operation on the socket time out at the deadline."""
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimedOut("timed out")
        if left != self._timeout:
            self._socket.settimeout(left)
            self._timeout = left


def _flat(array: NDArray[Any]) -> memoryview:
    """View the bytes of an array in C order that has some."""
    return array.reshape(-1).view(np.uint8).data


def _parse(encoded: bytearray) -> dict[str, Any]:
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise WireError(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise WireError("its header is not an object")
    return header


def _wanted(listed: Any, bytes_limit: int) -> list[tuple[np.dtype[Any], list[int], int]]:
    """Give type, shape and bytes of each array that a header lists, once they are found to be within the limits."""
    if not isinstance(listed, list) or len(listed) > ARRAYS_LIMIT:
        raise WireError(f"its header does not list between 0 and {ARRAYS_LIMIT} arrays")
    total, wanted = 0, []
    for entry in listed:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], list)):
            raise WireError("an array is not told by type and shape")
        name, shape = entry
        dtype = TYPES.get(name) if isinstance(name, str) else None
        if dtype is None:
            raise WireError(f"an array is of the unknown type {str(name)[:16]!r}")
        if len(shape) > DIMENSIONS_LIMIT or not all(type(extent) is int and extent >= 0 for extent in shape):
            raise WireError(f"an array has the shape {str(shape)[:64]}")
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        total += size
        wanted.append((dtype, shape, size))
    if total > bytes_limit:
        raise WireError(f"{total} bytes of arrays exceed the limit of {bytes_limit}")
    return wanted
