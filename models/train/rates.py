"""Networks of PyTorch whose activations are what spiking neurons can say in a few time steps.

An activation is clipped to [0, 1] and rounded to one of a few levels, as a neuron does that integrates, starts at half
its threshold, resets by subtraction and fires at most once per step: T. Bu et al., "Optimal ANN-SNN Conversion for
High-accuracy and Ultra-low-latency Spiking Neural Networks", ICLR 2022. The threshold that is learned there is learned
here as the scale of the batch normalisation before the activation: both multiply the same numbers.
There is no max pooling, which spikes cannot do; strides make the maps smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.data.images import Shape

# Activations start with a third of them below 0 and hardly any above 1, where nothing is learned.
INITIAL_SCALE, INITIAL_SHIFT = 0.35, 0.1


@dataclass(frozen=True)
class Conv:
    """A convolution to `channels`, with batch normalisation and activation behind it."""

    channels: int
    kernel: int
    stride: int
    padding: int


class _Rounded(torch.autograd.Function):
    """Clip to [0, 1] and round to a level; the gradient passes where nothing was clipped."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor, levels: int) -> torch.Tensor:
        clipped = values.clamp(0, 1)
        context.save_for_backward(clipped == values)
        return clipped.mul_(levels).add_(0.5).floor_().mul_(1 / levels)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (inside,) = context.saved_tensors
        return gradient * inside, None


class Rate(nn.Module):
    """The activation: one of `levels` equal steps from 0 to 1, or with no levels any number between them."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Clip and round."""
        if not self.levels:
            return values.clamp(0, 1)
        rounded: torch.Tensor = _Rounded.apply(values, self.levels)
        return rounded


class Gain(nn.Module):
    """Multiply by a constant, which makes a linear map behind it learn faster."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return values * self.factor


def encode(pixels: torch.Tensor, steps: int) -> torch.Tensor:
    """Turn grey levels into the rate at which an input neuron fires in so many steps."""
    return pixels.float().mul_(1 / 255).mul_(steps).add_(0.5).floor_().mul_(1 / steps)


def build(shape: Shape, convolutions: Sequence[Conv], classes: int, levels: int) -> nn.Sequential:
    """Build a chain of convolutions whose last maps are averaged into what the scores are linear in."""
    stages: list[nn.Module] = []
    channels = shape[0]
    for plan in convolutions:
        normalisation = nn.BatchNorm2d(plan.channels)
        nn.init.constant_(normalisation.weight, INITIAL_SCALE)
        nn.init.constant_(normalisation.bias, INITIAL_SHIFT)
        convolution = nn.Conv2d(channels, plan.channels, plan.kernel, plan.stride, plan.padding, bias=False)
        # The first channels begin as copies, so that a deep chain learns from the first step on.
        nn.init.dirac_(convolution.weight.data[:channels])
        stages.append(nn.Sequential(convolution, normalisation, Rate(levels)))
        channels = plan.channels
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Gain(1 / INITIAL_SCALE), nn.Linear(channels, classes))
    return nn.Sequential(*stages, head).to(memory_format=torch.channels_last)


def whiten(network: nn.Sequential, pictures: torch.Tensor) -> None:
    """Let the first convolution begin with the directions in which patches of (N, C, H, W) `pictures` vary most.

    With their negatives, since an activation has no sign. K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU",
    2024, finds that it halves the training.
    """
    first = network[0][0]
    patches = functional.unfold(pictures, first.kernel_size, stride=first.stride).transpose(1, 2)
    patches = patches.reshape(-1, patches.shape[2])
    _, directions = torch.linalg.eigh(torch.cov(patches.T))
    half = first.out_channels // 2
    filters = directions.T.flip(0)[:half].reshape(half, *first.weight.shape[1:])
    first.weight.data = torch.cat([filters, -filters]).to(memory_format=torch.channels_last)


def deployed(network: nn.Sequential) -> nn.Sequential:
    """Give the network as it is deployed: batch normalisation in the weights, activations clipped but not rounded."""
    network.eval()
    *body, head = network.children()
    stages: list[nn.Module] = []
    for stage in body:
        convolution, normalisation, _ = stage.children()
        stages += [fuse_conv_bn_eval(convolution, normalisation), Rate(0)]
    average, flatten, gain, linear = head.children()
    scores = nn.Linear(linear.in_features, linear.out_features)
    scores.weight.data, scores.bias.data = linear.weight.data * gain.factor, linear.bias.data
    return nn.Sequential(*stages, average, flatten, scores).eval()


def export(deployed: nn.Sequential, shape: Shape, path: Path) -> None:
    """Write the ONNX of a deployed network: a (1, C, H, W) picture in [0, 1] to scores, weights embedded."""
    torch.onnx.export(
        deployed, (torch.zeros(1, *shape),), path, input_names=["image"], output_names=["scores"],
        external_data=False, verbose=False,
    )  # fmt: skip
