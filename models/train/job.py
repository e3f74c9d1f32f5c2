"""What the training commands share: arguments, seed, threads, and the ONNX file at the end."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.errors import DataError
from models.train import rates, recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from models.data.images import Images, Shape

    # Gives the training images and the held-out ones of a data set's folder.
    Split = Callable[[Path], tuple[Images, Images]]

CLASSES = 10
# Enough of them to know how patches of all of them vary.
PATCHED_IMAGES = 2000


@dataclass(frozen=True)
class Job:
    """A network and how it is trained: `levels` of its activations, convolutions and recipe."""

    name: str
    shape: Shape
    convolutions: tuple[rates.Conv, ...]
    levels: int
    recipe: recipe.Recipe

    def build(self, images: Images) -> nn.Sequential:
        """Build the network with the weights that the seed and the training images give."""
        torch.manual_seed(self.recipe.seed)
        network = rates.build(self.shape, self.convolutions, CLASSES, self.levels)
        rates.whiten(network, rates.encode(torch.tensor(images.pixels[:PATCHED_IMAGES]), self.recipe.steps))
        return network


def main(job: Job, splits: Mapping[str, Split]) -> None:
    """Train the network on the data set that the command line names, and write its ONNX files: of rates and of spikes.

    The first of the `splits` is taken unless the command line names another.
    """
    parser = argparse.ArgumentParser(description=f"Train {job.name} and write its ONNX file.")
    parser.add_argument("--data", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--out", type=Path, default=Path(f"{job.name}.onnx"), help="default: %(default)s")
    parser.add_argument("--split", choices=list(splits), default=next(iter(splits)), help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--compile", action="store_true", help="compile the network first (needs a C++ compiler)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        images, held_out = splits[arguments.split](arguments.data)
    except DataError as error:
        parser.error(str(error))
    network = job.build(images)
    checkpoint = arguments.out.with_suffix(".checkpoint")
    started = time.process_time()
    recipe.fit(network, images, held_out, job.recipe, checkpoint, compiled=arguments.compile)
    deployed = rates.deployed(network)
    rates.export(deployed, job.shape, arguments.out)
    spiking = arguments.out.with_stem(arguments.out.stem + "-spiking")
    recipe.adapt(deployed, images, held_out, job.recipe)
    rates.export(deployed, job.shape, spiking)
    seconds = time.process_time() - started
    print(f"{arguments.out}, {spiking}: written, {seconds:.0f} s of processor time; {checkpoint} can go")
