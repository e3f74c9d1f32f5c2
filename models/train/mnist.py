"""Train `mnist`: `python -m models.train.mnist --data DIR --out mnist.onnx`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.data import folder
from models.train import augment, job
from models.train.rates import Conv
from models.train.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from models.data.images import Images


def distort(pixels: torch.Tensor) -> torch.Tensor:
    """Write each digit a little differently."""
    return augment.distort(pixels, degrees=10, scale=0.1, shift=0.08)


JOB = job.Job(
    name="mnist",
    shape=(1, 28, 28),
    convolutions=(Conv(32, 5, 2, 2), Conv(64, 3, 1, 1), Conv(96, 3, 2, 1), Conv(128, 3, 2, 1)),
    levels=8,
    recipe=Recipe(
        epochs=12, steps=8, learning_rate=0.1, weight_decay=5e-4, augment=distort, spiking_epochs=2, spiking_steps=8
    ),
)


def split(data: Path) -> tuple[Images, Images]:
    """Give the training images and the test images."""
    return folder.load(data, "train"), folder.load(data, "test")


if __name__ == "__main__":
    job.main(JOB, {"test": split})
