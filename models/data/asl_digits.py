"""The Sign Language Digits Dataset: photographs of hands that sign 0 to 9, about eight of each signer.

Source: https://github.com/ardamavi/Sign-Language-Digits-Dataset (Apache-2.0); A. Mavi, "A New Dataset and Proposed
Convolutional Neural Network Architecture for Classification of American Sign Language Digits", arXiv 2011.08927, 2020.

Photographs of one signer look alike, and a network that has seen some of them knows the others. So whole signers are
held out. Published figures are of photographs held out at random, a second split for comparison with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.data import folder
from models.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from models.data.images import Images

SHAPE = (1, 64, 64)
HELD_OUT_EVERY = 5
SPLIT_SEED = 0


def by_signer(data: Path) -> tuple[Images, Images]:
    """Give the photographs of the training signers and those of every fifth signer, by number."""
    images = folder.load(data, "train", SHAPE)
    if images.signer is None:
        raise DataError(str(data), "says nothing of who signs, by which the photographs are split")
    held_out = images.signer % HELD_OUT_EVERY == 0
    return images.take(~held_out), images.take(held_out)


def at_random(data: Path) -> tuple[Images, Images]:
    """Give four fifths of the photographs and the rest, in an order that the seed gives."""
    images = folder.load(data, "train", SHAPE)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    count = len(images) // HELD_OUT_EVERY
    return images.take(order[count:]), images.take(order[:count])
