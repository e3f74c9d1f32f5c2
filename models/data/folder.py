"""Find the images of a data set's folder in any of the formats that are read.

- IDX: `train-images-idx3-ubyte[.gz]` and `train-labels-idx1-ubyte[.gz]`; the test files begin with `test` or `t10k`.
- CIFAR-10 for Python: `data_batch_1` to `data_batch_5` and `test_batch`.
- Packed JPEG: `train.npz`, `test*.npz`.
- Pictures: a folder `train` or `test*` with a folder for each class, named after it, with PNG or JPEG files in it.
  Without such a split the folder itself may hold the classes; then all of them are `train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from models.data import cifar, idx, packed
from models.data.images import Images, checked, decode, fit
from models.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.images import Shape

Split = Literal["train", "test"]
PICTURES = {".png", ".jpg", ".jpeg"}
# MNIST's own name for its test set, which comes second.
TEN_THOUSAND = "t10k"


def load(folder: Path, split: Split = "train", shape: Shape | None = None) -> Images:
    """Read a split of the data set in `folder`.

    Pictures are converted and resized to `shape` (C, H, W) where it is given. Raises `DataError` when there are no
    such images or they are damaged.
    """
    if not folder.is_dir():
        raise DataError(str(folder), "is not a folder")
    for prefix in (split,) if split == "train" else (split, TEN_THOUSAND):
        images = _load(folder, prefix, shape)
        if images is not None:
            return images
    if split == "train" and _pictures(folder):
        return read_pictures(folder, shape)
    known = "IDX files, CIFAR-10 batches, a .npz or a folder of pictures by class"
    raise DataError(str(folder), f"holds no {split} images: {known} were looked for")


def _load(folder: Path, prefix: str, shape: Shape | None) -> Images | None:
    pair = idx.find(folder, prefix)
    if pair:
        return _fitted(idx.read(*pair), shape)
    batches = cifar.find(folder, prefix)
    if batches:
        return _fitted(cifar.read(batches), shape)
    file = packed.find(folder, prefix)
    if file:
        return packed.read(file, shape)
    inner = sorted(path for path in folder.glob(f"{prefix}*") if path.is_dir() and _pictures(path))
    if len(inner) > 1:
        raise DataError(str(folder), f"{inner[0].name} and {inner[1].name} both look like the images of {prefix}")
    return read_pictures(inner[0], shape) if inner else None


def read_pictures(folder: Path, shape: Shape | None = None) -> Images:
    """Read a folder that holds a folder of PNG or JPEG files for each class, in the order of their names."""
    paths = _pictures(folder)
    names = tuple(sorted({path.parent.name for path in paths}))
    labels = np.array([names.index(path.parent.name) for path in paths], np.int64)
    decoded = [decode(str(path.relative_to(folder)), path.read_bytes(), shape) for path in paths]
    for path, pixels in zip(paths, decoded, strict=True):
        if pixels.shape != decoded[0].shape:
            sizes = f"{list(pixels.shape)}, {paths[0].relative_to(folder)} is {list(decoded[0].shape)}"
            raise DataError(str(path.relative_to(folder)), f"is {sizes}: give a shape to resize to")
    return checked(str(folder), np.stack(decoded), labels, names)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.suffix.lower() in PICTURES)


def _fitted(images: Images, shape: Shape | None) -> Images:
    return Images(fit(images.pixels, shape), images.labels, images.names, images.signer)
