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


# 123 of the 128 cores of one Loihi 1 with reset by subtraction (`hal.snn.placement`): 6 for the picture, then 32, 32,
# 16, 16, 12 and 8 for the convolutions, 1 for the scores. A first map of 32 x 32 would take half of the chip. With 160
# channels in the fourth convolution (135 cores, as its axons spread the third over 24), 18 epochs reach 85.3 % of the
# test images in PyTorch.
JOB = job.Job(
    name="cifar10",
    shape=(3, 32, 32),
    convolutions=(
        Conv(64, 4, 2, 1), Conv(64, 3, 1, 1), Conv(128, 3, 2, 1), Conv(128, 3, 1, 1),
        Conv(256, 3, 2, 1), Conv(256, 3, 1, 1),
    ),
    levels=8,
    recipe=Recipe(epochs=18, steps=16, learning_rate=0.2, weight_decay=5e-4, augment=shift_and_mirror, spiking_epochs=1,
        spiking_steps=8),
)  # fmt: skip


def split(data: Path) -> tuple[Images, Images]:
    """Give the training images and the test images."""
    return folder.load(data, "train"), folder.load(data, "test")


if __name__ == "__main__":
    job.main(JOB, {"test": split})
