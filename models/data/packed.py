"""Images packed into one `.npz`: `jpeg` (all files joined), `offsets` (N + 1), `labels` (N,), perhaps `signer` (N,)."""

from __future__ import annotations

import dataclasses
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.data.images import Images, checked, decode
from models.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.data.images import Shape


def find(folder: Path, split: str) -> Path | None:
    """Find the file whose name begins with `split`, or None. Raises `DataError` where there are several."""
    paths = sorted(folder.glob(f"{split}*.npz"))
    if len(paths) > 1:
        raise DataError(str(folder), f"{paths[0].name} and {paths[1].name} both look like the images of {split}")
    return paths[0] if paths else None


def read(path: Path, shape: Shape | None = None) -> Images:
    """Read the file and decode its images. Raises `DataError` that names the file and what is wrong with it."""
    arrays = _arrays(path)
    jpeg, offsets, labels = (arrays[name] for name in ("jpeg", "offsets", "labels"))
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1:
        raise DataError(path.name, f"jpeg is {jpeg.dtype} of {jpeg.ndim} extents, uint8 of one is needed")
    for name in ("offsets", "labels"):
        if arrays[name].dtype.kind not in "iu" or arrays[name].ndim != 1:
            raise DataError(path.name, f"{name} is not a list of whole numbers")
    bounds = offsets.astype(np.int64)
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(jpeg) or (np.diff(bounds) < 1).any():
        raise DataError(path.name, f"offsets do not lead from 0 to {len(jpeg)}, the end of jpeg")
    content = jpeg.tobytes()
    pictures = [
        decode(f"{path.name}, image {index}", content[start:end], shape)
        for index, (start, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
    ]
    odd = next((index for index, picture in enumerate(pictures) if picture.shape != pictures[0].shape), None)
    if odd is not None:
        sizes = f"{list(pictures[odd].shape)}, the first is {list(pictures[0].shape)}"
        raise DataError(f"{path.name}, image {odd}", f"is {sizes}: give a shape to resize to")
    names = tuple(str(index) for index in range(int(labels.max(initial=0)) + 1))
    images = checked(path.name, np.stack(pictures), labels, names)
    if "signer" not in arrays:
        return images
    if arrays["signer"].shape != labels.shape:
        raise DataError(path.name, f"signer has {arrays['signer'].size} entries for {len(labels)} images")
    return dataclasses.replace(images, signer=arrays["signer"].astype(np.int64))


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("jpeg", "offsets", "labels", "signer") if name in file}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError):
        raise DataError(path.name, "is damaged or no .npz file") from None
    missing = [name for name in ("jpeg", "offsets", "labels") if name not in arrays]
    if missing:
        raise DataError(path.name, f"{', '.join(missing)} is missing")
    return arrays
