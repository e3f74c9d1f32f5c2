"""Train `cifar10`: `python -m models.train.cifar10 --data DIR --out cifar10.onnx`."""

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


def shift_and_mirror(pixels: torch.Tensor) -> torch.Tensor:
    """Move each picture by up to four pixels and mirror every second one."""
    return augment.shift_and_mirror(pixels, 4)


# 333 cores on 3 chips of Loihi 1 (`hal.snn.placement`). The limit that forbids one chip is that of compartments: with
# reset by subtraction the neurons alone fill 183 cores, of which a chip has 128; axons and weights spread them further.
# With 64, 64, 128, 160, 256 and 256 channels, 135 cores, 18 epochs of 8 levels reach 85.3 % of the test images in
# PyTorch.
JOB = job.Job(
    name="cifar10",
    shape=(3, 32, 32),
    convolutions=(
        Conv(64, 4, 2, 1), Conv(128, 3, 1, 1), Conv(256, 3, 2, 1), Conv(256, 3, 1, 1),
        Conv(256, 3, 2, 1), Conv(256, 3, 1, 1),
    ),
    levels=16,
    recipe=Recipe(epochs=32, steps=16, learning_rate=0.2, weight_decay=5e-4, augment=shift_and_mirror, spiking_epochs=0,
        spiking_steps=16),
)  # fmt: skip


def split(data: Path) -> tuple[Images, Images]:
    """Give the training images and the test images."""
    return folder.load(data, "train"), folder.load(data, "test")


if __name__ == "__main__":
    job.main(JOB, {"test": split})
