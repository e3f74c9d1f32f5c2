"""CIFAR-10's Python version: pickled dictionaries of 10,000 images each.

Format: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout / Python". A pickle can run any
program, so these are read with the few names that such a file needs.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from models.data.images import Images, checked
from models.errors import DataError

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
ARRAYS = {"numpy", "numpy.core.multiarray", "numpy._core.multiarray"}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module in ARRAYS and name in {"_reconstruct", "ndarray", "dtype"}) or (module, name) == (
            "_codecs", "encode",
        ):  # fmt: skip
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def find(folder: Path, split: str) -> list[Path]:
    """Find the batches of a split (`train` or `test`), in the folder or in `cifar-10-batches-py` inside it."""
    pattern = {"train": "data_batch_[1-9]", "test": "test_batch"}.get(split)
    if pattern is None:
        return []
    inner = folder / "cifar-10-batches-py"
    return sorted((inner if inner.is_dir() else folder).glob(pattern))


def read(batches: list[Path]) -> Images:
    """Read the batches into one. Raises `DataError` that names the file and what is wrong with it."""
    parts = [_read_batch(path) for path in batches]
    return Images(
        np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]), NAMES
    )


def _read_batch(path: Path) -> Images:
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
        pixels, labels = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise DataError(path.name, f"is not a batch of CIFAR-10: {error}") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != np.prod(SHAPE):
        raise DataError(
            path.name, f"has data {pixels.dtype} {list(pixels.shape)}, uint8 [N, {np.prod(SHAPE)}] is needed"
        )
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(path.name, "its labels are not a list of whole numbers")
    return checked(path.name, pixels.reshape(-1, *SHAPE), labels, NAMES)
