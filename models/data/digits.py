"""The UCI handwritten digits that scikit-learn ships: 1,797 images of 8 x 8 pixels. Every fifth one is held out.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.datasets import load_digits

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATA = "UCI Optical Recognition of Handwritten Digits as scikit-learn ships it, grey levels round(x * 255 / 16)"
HELD_OUT_EVERY = 5
HELD_OUT = "360 of 1797 images, those whose index divides by 5: neither trained on nor used to choose a setting"
BRIGHTEST = 16


@dataclass(frozen=True)
class Part:
    """Some of the images: `images` (N, 8, 8) uint8 from 0 to 255, `labels` (N,) from 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def pictures(self) -> NDArray[np.float64]:
        """Give the images as (N, 8, 8) numbers from 0 to 1."""
        return self.images / 255.0


def load() -> tuple[Part, Part]:
    """Give the 1,437 training images and the 360 held-out ones."""
    data = load_digits()
    images = np.round(data.images * 255 / BRIGHTEST).astype(np.uint8)
    labels = data.target.astype(np.int64)
    held_out = np.arange(len(images)) % HELD_OUT_EVERY == 0
    return Part(images[~held_out], labels[~held_out]), Part(images[held_out], labels[held_out])
