"""Labelled images as arrays, whatever file they come from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from models.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# (C, H, W): of what an image is decoded to.
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Images:
    """Some images of a data set: `pixels` (N, C, H, W) uint8, `labels` (N,) int64, the `names` of the classes.

    `signer` (N,) says who is in the picture, where the data set knows it.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    signer: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> Shape:
        """Give (C, H, W) of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def pictures(self) -> NDArray[np.float64]:
        """Give the images as (N, C, H, W) numbers from 0 to 1."""
        return self.pixels / 255.0

    def take(self, chosen: NDArray[np.integer] | NDArray[np.bool_]) -> Images:
        """Give the chosen images, by index or by mask."""
        signer = None if self.signer is None else self.signer[chosen]
        return Images(self.pixels[chosen], self.labels[chosen], self.names, signer)


def checked(subject: str, pixels: NDArray[np.uint8], labels: NDArray[np.integer], names: tuple[str, ...]) -> Images:
    """Build `Images` of a file called `subject`. Raises `DataError` where labels and pictures do not fit together."""
    if len(pixels) != len(labels):
        raise DataError(subject, f"{len(labels)} labels for {len(pixels)} images")
    if not len(labels):
        raise DataError(subject, "has no images")
    if labels.min() < 0 or labels.max() >= len(names):
        raise DataError(subject, f"labels from {labels.min()} to {labels.max()}, there are {len(names)} classes")
    return Images(pixels, labels.astype(np.int64), names)


def decode(subject: str, content: bytes, shape: Shape | None = None) -> NDArray[np.uint8]:
    """Decode a picture to (C, H, W) as the daemon does, converted and resized to `shape` where it is given."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            grey = picture.mode in {"1", "L", "LA"} if shape is None else shape[0] == 1
            converted = picture.convert("L" if grey else "RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise DataError(subject, "is not a readable picture") from None
    return _to_array(converted, shape)


def fit(pixels: NDArray[np.uint8], shape: Shape | None) -> NDArray[np.uint8]:
    """Convert and resize (N, C, H, W) pictures to `shape`, as the daemon does; unchanged where it is None or equal."""
    if shape is None or pixels.shape[1:] == shape:
        return pixels
    mode = "L" if shape[0] == 1 else "RGB"
    pictures = (
        Image.fromarray(pixel[0] if len(pixel) == 1 else np.ascontiguousarray(pixel.transpose(1, 2, 0)))
        for pixel in pixels
    )
    return np.stack([_to_array(picture.convert(mode), shape) for picture in pictures])


def _to_array(picture: Image.Image, shape: Shape | None) -> NDArray[np.uint8]:
    if shape is not None and picture.size != (shape[2], shape[1]):
        picture = picture.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
    values = np.asarray(picture, np.uint8)
    return values[np.newaxis] if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))
