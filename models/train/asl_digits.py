"""Train `asl-digits`: `python -m models.train.asl_digits --data DIR --out asl-digits.onnx`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.data import asl_digits
from models.train import augment, job
from models.train.rates import Conv
from models.train.recipe import Recipe

if TYPE_CHECKING:
    import torch


def distort(pixels: torch.Tensor) -> torch.Tensor:
    """Turn, move, mirror and light each hand a little differently."""
    return augment.distort(pixels, degrees=15, scale=0.15, shift=0.1, brightness=0.2, mirror=True)


JOB = job.Job(
    name="asl-digits",
    shape=asl_digits.SHAPE,
    convolutions=(Conv(16, 5, 2, 2), Conv(32, 3, 2, 1), Conv(64, 3, 2, 1), Conv(128, 3, 2, 1), Conv(128, 3, 1, 1)),
    levels=8,
    recipe=Recipe(
        epochs=120,
        steps=16,
        learning_rate=0.05,
        weight_decay=1e-3,
        augment=distort,
        batch=64,
        spiking_epochs=12,
        spiking_steps=12,
    ),
)

if __name__ == "__main__":
    job.main(JOB, {"signer": asl_digits.by_signer, "random": asl_digits.at_random})
