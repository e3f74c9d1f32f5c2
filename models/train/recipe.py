"""Train a network of rates: one cycle of the learning rate, resumable after every epoch."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from models.train import rates, spikes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from models.data.images import Images

    Augment = Callable[[torch.Tensor], torch.Tensor]

MOMENTUM = 0.9
LABEL_SMOOTHING = 0.1
# The share of the steps in which the learning rate rises to its peak; then it falls to 0.
WARM_UP = 0.15
# When it learns from its spikes, with the normalisation in its weights, it starts at this learning rate.
SPIKING_RATE = 0.005
SPIKING_WEIGHT_DECAY = 1e-4
TEST_BATCH = 500


@dataclass(frozen=True)
class Recipe:
    """How to train: with the input of `steps` time steps, `epochs` times over the images, in batches of `batch`.

    Then the network learns from its own spikes, in `spiking_steps` steps, for `spiking_epochs` epochs.
    """

    epochs: int
    steps: int
    learning_rate: float
    weight_decay: float
    augment: Augment
    spiking_epochs: int
    spiking_steps: int
    batch: int = 256
    seed: int = 0


def fit(
    network: nn.Sequential,
    images: Images,
    held_out: Images,
    recipe: Recipe,
    checkpoint: Path,
    *,
    compiled: bool = False,
) -> None:
    """Train the network, going on from `checkpoint` where it exists, and say after each epoch how good it is.

    The held-out images are only looked at: nothing is chosen by them. With `compiled`, PyTorch compiles the network
    first, which needs a C++ compiler and saves a quarter of the time of a long training.
    """
    forward = torch.compile(network) if compiled else network
    pixels, labels = torch.tensor(images.pixels), torch.from_numpy(images.labels)
    kernels = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": kernels, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        recipe.learning_rate, momentum=MOMENTUM, nesterov=True,
    )  # fmt: skip
    per_epoch = len(labels) // recipe.batch
    first = _resume(network, optimizer, checkpoint)
    for epoch in range(first, recipe.epochs):
        started, loss_sum = time.perf_counter(), 0.0
        network.train()
        order = torch.randperm(len(labels))
        for index in range(per_epoch):
            progress = (epoch * per_epoch + index) / (recipe.epochs * per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))
            chosen = order[index * recipe.batch : (index + 1) * recipe.batch]
            loss_sum += _step(forward, optimizer, recipe, pixels[chosen], labels[chosen])
        _save(network, optimizer, epoch + 1, checkpoint)
        print(
            f"epoch {epoch + 1} of {recipe.epochs}: loss {loss_sum / per_epoch:.4f}, "
            f"held out {accuracy(network, held_out, recipe.steps):.4f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )


def adapt(deployed: nn.Sequential, images: Images, held_out: Images, recipe: Recipe) -> None:
    """Let a deployed network learn from what it does when it spikes."""
    spiking = spikes.Spiking(deployed, recipe.spiking_steps)
    pixels, labels = torch.tensor(images.pixels), torch.tensor(images.labels)
    optimizer = torch.optim.SGD(
        deployed.parameters(), SPIKING_RATE, momentum=MOMENTUM, nesterov=True, weight_decay=SPIKING_WEIGHT_DECAY
    )
    batches = len(labels) // recipe.batch
    for epoch in range(recipe.spiking_epochs):
        started, loss_sum = time.perf_counter(), 0.0
        order = torch.randperm(len(labels))
        for index in range(batches):
            progress = (epoch * batches + index) / (recipe.spiking_epochs * batches)
            for group in optimizer.param_groups:
                group["lr"] = SPIKING_RATE * (1 - progress)
            chosen = order[index * recipe.batch : (index + 1) * recipe.batch]
            loss_sum += _learn(spiking, optimizer, recipe.augment(pixels[chosen]), labels[chosen])
        print(
            f"epoch {epoch + 1} of {recipe.spiking_epochs} with {recipe.spiking_steps} steps: "
            f"loss {loss_sum / batches:.4f}, held out {_share_right(spiking, held_out):.4f}, "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )


def _step(
    forward: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    pixels: torch.Tensor,
    labels: torch.Tensor,
) -> float:
    pictures = rates.encode(recipe.augment(pixels), recipe.steps)
    return _learn(forward, optimizer, pictures.contiguous(memory_format=torch.channels_last), labels)


def _learn(
    forward: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    pictures: torch.Tensor,
    labels: torch.Tensor,
) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        scores = forward(pictures)
    loss = functional.cross_entropy(scores.float(), labels, label_smoothing=LABEL_SMOOTHING)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    figure: float = loss.item()
    return figure


def accuracy(network: nn.Sequential, images: Images, steps: int) -> float:
    """Give the share of images that the network of PyTorch gets right."""
    network.eval()
    share: float = _share_right(
        lambda pixels: network(rates.encode(pixels, steps).contiguous(memory_format=torch.channels_last)), images
    )
    return share


@torch.no_grad()
def _share_right(forward: Callable[[torch.Tensor], torch.Tensor], images: Images) -> float:
    right = 0
    for start in range(0, len(images), TEST_BATCH):
        with torch.autocast("cpu", torch.bfloat16):
            best = forward(torch.tensor(images.pixels[start : start + TEST_BATCH])).argmax(1)
        right += int((best == torch.tensor(images.labels[start : start + TEST_BATCH])).sum())
    return right / len(images)


def _save(network: nn.Sequential, optimizer: torch.optim.Optimizer, epoch: int, checkpoint: Path) -> None:
    partial = checkpoint.with_name(checkpoint.name + ".part")
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({**state, "epoch": epoch, "random": torch.get_rng_state()}, partial)
    os.replace(partial, checkpoint)  # noqa: PTH105


def _resume(network: nn.Sequential, optimizer: torch.optim.Optimizer, checkpoint: Path) -> int:
    """Restore what `_save` wrote and give the number of epochs that are done."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    epoch: int = state["epoch"]
    return epoch
