"""IDX files, the format of MNIST: four bytes of type and rank, the extents, then the numbers.

Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", section "File formats".
"""

from __future__ import annotations

import gzip
import math
import zlib
from typing import TYPE_CHECKING

import numpy as np

from models.data.images import Images, checked
from models.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

UNSIGNED_BYTES = 0x08
IMAGES, LABELS = "-images", "-labels"
BYTES_LIMIT = 1 << 31


def find(folder: Path, split: str) -> tuple[Path, Path] | None:
    """Find the files of images and of labels whose names begin with `split`, or None.

    Raises `DataError` where there are images without labels, or more than one pair.
    """
    names = sorted(
        path for path in folder.glob(f"{split}*{IMAGES}[-.]idx3-ubyte*") if path.suffix in {".gz", ".idx3-ubyte", ""}
    )
    if not names:
        return None
    if len(names) > 1:
        raise DataError(str(folder), f"{names[0].name} and {names[1].name} both look like the images of {split}")
    labels = folder / names[0].name.replace(IMAGES, LABELS).replace("idx3", "idx1")
    if not labels.is_file():
        raise DataError(str(folder), f"{names[0].name} is there, {labels.name} is not")
    return names[0], labels


def read(images: Path, labels: Path) -> Images:
    """Read a pair of files, compressed or not. Raises `DataError` that names the file and what is wrong with it."""
    pixels, classes = read_array(images), read_array(labels)
    if pixels.ndim != 3:
        raise DataError(images.name, f"has {pixels.ndim} extents, images have 3")
    if classes.ndim != 1:
        raise DataError(labels.name, f"has {classes.ndim} extents, labels have 1")
    names = tuple(str(index) for index in range(int(classes.max(initial=0)) + 1))
    return checked(labels.name, pixels[:, np.newaxis], classes, names)


def read_array(path: Path) -> NDArray[np.uint8]:
    """Read one file of unsigned bytes."""
    content = _content(path)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(path.name, "is not an IDX file: it does not begin with two zero bytes")
    kind, rank = content[2], content[3]
    if kind != UNSIGNED_BYTES:
        raise DataError(path.name, f"has numbers of type 0x{kind:02x}, only unsigned bytes (0x08) are read")
    start = 4 + 4 * rank
    if rank == 0 or len(content) < start:
        raise DataError(path.name, f"ends within its {rank} extents")
    extents = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis]) for axis in range(rank)]
    if len(content) - start != math.prod(extents):
        raise DataError(
            path.name, f"has {len(content) - start} numbers, its extents {extents} need {math.prod(extents)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(extents)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            content = file.read(BYTES_LIMIT + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise DataError(path.name, "is damaged or not compressed by gzip") from None
    if len(content) > BYTES_LIMIT:
        raise DataError(path.name, f"unpacks to more than {BYTES_LIMIT} bytes")
    return content
