"""Check and decode what clients send, before anything else sees it."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from daemon.clock import NANO
from daemon.config import Server
from daemon.errors import InvalidRequest
from daemon.router import Constraints
from daemon.waiting import DEFAULT_PRIORITY
from hal.artifact import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("PNG", "JPEG")
# The marker of a scan in a JPEG, which occurs in no compressed data. Each scan of a progressive one goes over the whole
# picture: without a limit 30 KB of empty ones take seconds, and a full message half an hour. Encoders write about ten.
SCAN = b"\xff\xda"
SCANS_LIMIT = 64
JPEG = b"\xff\xd8"
# Pillow would only warn, and below its own limit; this one is looked at before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# gRPC rounds deadlines up to milliseconds: what arrives with one left has asked for less.
DEADLINE_RESOLUTION_SECONDS = 0.001
# Smaller images decode faster than a thread is reached.
INLINE_BYTES = 8192
ELEMENTS: dict[str, np.dtype[Any]] = {"uint8": np.dtype(np.uint8), "float32": np.dtype(np.float32)}


def check_constraints(
    now: int, remaining_seconds: float | None, server: Server, images: int, max_joules: float | None, accuracy: float,
    priority: int = DEFAULT_PRIORITY,
) -> Constraints:  # fmt: skip
    """Build the constraints of a request; a call without a deadline gets the configured one."""
    if max_joules is not None and not 0 <= max_joules <= 1e6:
        raise InvalidRequest("max_energy_joules", f"{max_joules} is outside 0 to 1e6")
    if not 0 <= accuracy <= 1:
        raise InvalidRequest("min_accuracy", f"{accuracy} is outside 0 to 1")
    seconds = server.default_deadline_seconds if remaining_seconds is None else min(remaining_seconds, 3600.0)
    if seconds <= DEADLINE_RESOLUTION_SECONDS:
        seconds = 0.0
    nanojoules = None if max_joules is None else round(max_joules * NANO)
    return Constraints(now + int(seconds * NANO), images, nanojoules, accuracy, priority)


def check_tensor(
    field: str, dtype: str, shape: Sequence[int], data: bytes, spec: TensorSpec, batch_limit: int
) -> NDArray[np.generic]:
    """View the bytes of a tensor as (N, *input shape) images. Raises `InvalidRequest` that names `field`."""
    if dtype != spec.dtype:
        raise InvalidRequest(f"{field}.dtype", f"is {dtype[:32]!r}, the model takes {spec.dtype!r}")
    # A slice lists a message's repeated field far faster than iterating does.
    given, wanted = tuple(shape[:]), spec.shape
    if given == wanted:
        given = (1, *given)
    if given[1:] != wanted or len(given) != len(wanted) + 1:
        raise InvalidRequest(f"{field}.shape", f"is {list(shape)[:8]}, the model takes {[-1, *wanted]}")
    if not 1 <= given[0] <= batch_limit:
        raise InvalidRequest(f"{field}.shape", f"a batch of {given[0]} is outside 1 to {batch_limit}")
    element = ELEMENTS[dtype]
    expected = math.prod(given) * element.itemsize
    if len(data) != expected:
        raise InvalidRequest(f"{field}.data", f"has {len(data)} bytes, its shape needs {expected}")
    images: NDArray[np.generic] = np.ndarray(given, element, data)
    if element.kind == "f" and not np.isfinite(images).all():
        raise InvalidRequest(f"{field}.data", "holds numbers that are not finite")
    return images


async def decode_image(field: str, data: bytes, spec: TensorSpec, pixels_limit: int) -> NDArray[np.generic]:
    """Decode a PNG or JPEG to (1, *input shape), resized where it differs. Raises `InvalidRequest`."""
    if not data:
        raise InvalidRequest(field, "is empty")
    if len(data) <= INLINE_BYTES:
        return _decode(field, data, spec, pixels_limit)
    return await asyncio.to_thread(_decode, field, data, spec, pixels_limit)


def _decode(field: str, data: bytes, spec: TensorSpec, pixels_limit: int) -> NDArray[np.generic]:
    channels = spec.shape[0] if len(spec.shape) == 3 else 1
    if channels not in (1, 3) or len(spec.shape) == 1:
        raise InvalidRequest(field, f"the model's input {list(spec.shape)} is not an image, send a tensor")
    height, width = spec.shape[-2:]
    scans = data.count(SCAN) if data.startswith(JPEG) else 0
    if scans > SCANS_LIMIT:
        raise InvalidRequest(field, f"{scans} scans exceed the limit of {SCANS_LIMIT}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > pixels_limit:
                size = f"{picture.width} x {picture.height} pixels"
                raise InvalidRequest(field, f"{size} exceed the limit of {pixels_limit}")
            if picture.mode.startswith("I"):
                # Pillow would clip them all to white.
                raise InvalidRequest(field, "has 16 bits per pixel, send 8")
            mode = picture.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise InvalidRequest(field, f"is not a readable {' or '.join(FORMATS)} image ({len(data)} bytes)") from None
    if mode.size != (width, height):
        mode = mode.resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(mode, np.uint8)
    if len(spec.shape) == 3:
        values = values[np.newaxis] if channels == 1 else values.transpose(2, 0, 1)
    if spec.dtype == "float32":
        return np.multiply(values, np.float32(1 / 255), dtype=np.float32)[np.newaxis]
    return np.ascontiguousarray(values[np.newaxis])
