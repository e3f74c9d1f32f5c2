"""The images that a network is calibrated on, and those that are held out to measure it."""

from __future__ import annotations

import dataclasses
import math
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.data import folder as folders
from models.data.images import Images, checked
from models.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.data.images import Shape

# Where a data set has no test images of its own, every fifth image is held out, or every fifth person where it says
# who is in the picture: a network that has seen a person knows that person's other pictures.
HELD_OUT_EVERY = 5
BRIGHTEST = 255


@dataclass(frozen=True)
class Calibration:
    """Images to calibrate on and images to measure on, none of them in both.

    `data` and `held_out_note` say for the manifest what they are.
    """

    training: Images
    held_out: Images
    data: str
    held_out_note: str


def load(path: Path, shape: Shape) -> Calibration:
    """Read a data set's folder, or an `.npz` with `images` and `labels`, for a network that takes (C, H, W).

    Pictures of another size or of other colours are converted as the daemon does; arrays of an `.npz` must fit. Raises
    `DataError`.
    """
    # A network of flat values says nothing of the pictures that they come from.
    wanted = shape if shape[0] in (1, 3) and shape[1:] != (1, 1) else None
    images = _read_npz(path) if path.is_file() else folders.load(path, "train", wanted)
    held_out = None if path.is_file() else _test_images(path, wanted)
    if held_out is None:
        numbers, what = (np.arange(len(images)), "index") if images.signer is None else (images.signer, "signer")
        chosen = numbers % HELD_OUT_EVERY == 0
        if chosen.all() or not chosen.any():
            raise DataError(str(path), f"{len(images)} images are too few to hold some out")
        note = f"{chosen.sum()} of {len(images)} images, those whose {what} divides by {HELD_OUT_EVERY}"
        images, held_out = images.take(~chosen), images.take(chosen)
    else:
        note = f"the {len(held_out)} images of the data set's test split"
        # Where labels are only numbered, a class may be missing from the test images.
        if held_out.names != images.names[: len(held_out.names)]:
            raise DataError(str(path), f"test images of classes {held_out.names}, training images of {images.names}")
        held_out = dataclasses.replace(held_out, names=images.names)
    return Calibration(
        _shaped(images, shape, str(path)), _shaped(held_out, shape, str(path)),
        f"{path.resolve().name}, {len(images)} training images", note,
    )  # fmt: skip


def _test_images(path: Path, shape: Shape | None) -> Images | None:
    try:
        return folders.load(path, "test", shape)
    except DataError as error:
        if "holds no test images" in error.reason:
            return None
        raise


def _shaped(images: Images, shape: Shape, subject: str) -> Images:
    """Give the images if they are of `shape`; a flat network takes pictures of as many values."""
    flat = shape[1:] == (1, 1) and math.prod(images.shape) == shape[0]
    if images.shape != shape and not flat:
        raise DataError(subject, f"images of {_shown(images.shape)}, the network takes {_shown(shape)}")
    return images


def _shown(shape: Shape) -> str:
    return " x ".join(str(extent) for extent in shape)


def _read_npz(path: Path) -> Images:
    """Read `images`, (N, H, W) or (N, C, H, W) or (N, values), uint8 or floats in [0, 1], and `labels` (N,)."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = {"images", "labels"} - set(archive.files)
            if missing:
                raise DataError(path.name, f"holds no array {' and '.join(sorted(missing))}")
            images, labels = archive["images"], archive["labels"]
            names = tuple(str(name) for name in archive["names"]) if "names" in archive.files else None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(path.name, f"is no .npz file: {error}") from None
    if not 2 <= images.ndim <= 4:
        raise DataError(path.name, f"images of shape {images.shape}, (N, H, W) or (N, C, H, W) is needed")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(path.name, f"labels {labels.dtype} of shape {labels.shape}, whole numbers (N,) are needed")
    if images.ndim < 4:
        images = images[:, None] if images.ndim == 3 else images[:, :, None, None]
    classes = int(labels.max(initial=0)) + 1
    return checked(path.name, _grey_levels(images, path.name), labels, names or tuple(map(str, range(classes))))


def _grey_levels(images: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return images.astype(np.uint8)
    # The comparison is false for NaN, too.
    if images.dtype.kind != "f" or not (images.min(initial=0) >= 0 and images.max(initial=0) <= 1):
        raise DataError(name, f"images {images.dtype}: uint8, or floats from 0 to 1, are needed")
    return np.rint(images.astype(np.float64) * BRIGHTEST).astype(np.uint8)
