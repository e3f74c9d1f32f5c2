"""Train `asl-digits`: `python -m models.train.asl_digits --data DIR --out asl-digits.onnx`.

Photographs of one signer look alike, and a network that has seen some of them knows the others. So whole signers are
held out. Published figures are of photographs held out at random: `--split random` is for comparison with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.data import folder
from models.errors import DataError
from models.train import augment, job
from models.train.rates import Conv
from models.train.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from models.data.images import Images

# Every fifth signer, by number, is held out.
HELD_OUT_EVERY = 5
SPLIT_SEED = 0


def distort(pixels: torch.Tensor) -> torch.Tensor:
    """Turn, move, mirror and light each hand a little differently."""
    return augment.distort(pixels, degrees=15, scale=0.15, shift=0.1, brightness=0.2, mirror=True)


JOB = job.Job(
    name="asl-digits",
    shape=(1, 64, 64),
    convolutions=(Conv(16, 5, 2, 2), Conv(32, 3, 2, 1), Conv(64, 3, 2, 1), Conv(128, 3, 2, 1), Conv(128, 3, 1, 1)),
    levels=8,
    recipe=Recipe(epochs=150, steps=16, learning_rate=0.05, weight_decay=1e-3, augment=distort, batch=64),
)


def split(data: Path) -> tuple[Images, Images]:
    """Give the photographs of the training signers and those of the held-out signers."""
    images = folder.load(data, "train", JOB.shape)
    if images.signer is None:
        raise DataError(str(data), "says nothing of who signs; without that, use --split random")
    held_out = images.signer % HELD_OUT_EVERY == 0
    return images.take(~held_out), images.take(held_out)


def split_at_random(data: Path) -> tuple[Images, Images]:
    """Give the photographs with every fifth held out, in an order that the seed gives."""
    images = folder.load(data, "train", JOB.shape)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    count = len(images) // HELD_OUT_EVERY
    return images.take(order[count:]), images.take(order[:count])


if __name__ == "__main__":
    job.main(JOB, {"signer": split, "random": split_at_random})
