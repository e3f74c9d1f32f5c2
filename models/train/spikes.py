"""Train on what spiking neurons really do in a few time steps, not on the rates that they approach in many.

A neuron that gets its excitation before its inhibition fires where the average of both would not, and no later step
takes the spike back. So the last epochs run the spiking network forward, step by step, and pass the gradient through
the rates: J. Wu et al., "A Tandem Learning Rule for Effective Training and Rapid Inference of Deep Spiking Neural
Networks", IEEE Transactions on Neural Networks and Learning Systems 34(1), 2023.
"""

from __future__ import annotations

import torch
from torch import nn

from models.train.rates import Rate


def encode(pixels: torch.Tensor, steps: int) -> torch.Tensor:
    """Give the spikes (T, N, C, H, W) of input neurons whose bias current is the grey level."""
    moments = torch.arange(steps + 1).reshape(-1, 1, 1, 1, 1)
    counts = (pixels.float() / 255 * moments + 0.5).floor()
    return counts[1:] - counts[:-1]


def fire(currents: torch.Tensor) -> torch.Tensor:
    """Give the spikes of neurons that integrate (T, ...) currents, with threshold 1 and reset by subtraction."""
    voltage = torch.full_like(currents[0], 0.5)
    spikes = torch.empty_like(currents)
    for step, current in enumerate(currents):
        voltage += current
        spikes[step] = voltage > 1
        voltage -= spikes[step]
    return spikes


class Spiking(nn.Module):
    """A deployed network of rates as neurons that fire: takes (N, C, H, W) grey levels and gives scores.

    Its parameters are those of the network.
    """

    def __init__(self, deployed: nn.Sequential, steps: int) -> None:
        super().__init__()
        self.deployed = deployed
        self.steps = steps

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run all steps; gradients are those of the rates at which the neurons fired."""
        spikes = encode(pixels, self.steps)
        rates = spikes.mean(0)
        for stage in self.deployed:
            if isinstance(stage, nn.Conv2d):
                with torch.no_grad():
                    every = spikes.flatten(0, 1).contiguous(memory_format=torch.channels_last)
                    currents = stage(every).float().unflatten(0, (self.steps, -1))
                    spikes = fire(currents)
                rates = stage(rates)
            elif isinstance(stage, Rate):
                clipped = rates.float().clamp(0, 1)
                rates = clipped + (spikes.mean(0) - clipped).detach()
            else:
                rates = stage(rates)
        return rates
