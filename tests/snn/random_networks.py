"""Random spiking networks, drawn from a seed: every kind of layer, and numbers that reach the limits of their fields.

Runs under Lava's Python 3.10 and NumPy 1, too, where `record_lava.py` draws the same networks; whoever
changes what a seed gives records again.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hal.snn import parts
from hal.snn.network import (
    BIAS_LIMIT,
    DECAY_UNITY,
    THRESHOLD_LIMIT,
    Accumulator,
    Conv,
    Delta,
    Dense,
    Encoder,
    Layer,
    Lif,
    Network,
    Neuron,
    Sigma,
    SigmaDelta,
    SumPool,
    Synapse,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """A network with its input: `bias` is (N, C, H, W), or (T, N, C, H, W) for a sigma-delta network."""

    network: Network
    bias: NDArray[np.int64]
    steps: int


def spiking(seed: int, *, lava: bool = False) -> Case:
    """Draw a network of LIF neurons; with `lava`, one that Lava 0.10 can run (one image, no soft reset).

    Every fifth seed gives a network whose states run into their 24 bits.
    """
    draw = _Draw(seed, lava=lava, extreme=seed % 5 == 0)
    shape = draw.shape()
    layers = [Layer("00-input", shape, draw.lif())]
    for index in range(1, draw.whole(2, 4)):
        synapse, shape = draw.synapse(shape)
        kind = type(synapse).__name__.lower()
        # Lava delays dense synapses only.
        may_delay = isinstance(synapse, Dense) or not lava
        delay = draw.whole(0, 4) if may_delay and draw.chance(0.25) else 0
        bias = draw.bias(shape, 200)
        layers.append(Layer(f"{index:02d}-{kind}", shape, draw.lif(), synapse, bias, delay))
    if not lava and draw.chance(0.5):
        classes = draw.whole(2, 12)
        synapse, shape = Dense(draw.weight((classes, math.prod(shape)))), (classes, 1, 1)
        layers.append(Layer(f"{len(layers):02d}-dense", shape, Accumulator(), synapse, draw.bias(shape, 50)))
    images = 1 if lava else draw.whole(1, 4)
    picture = draw.rng.integers(-60, 200, (images, *layers[0].shape), dtype=np.int64)
    return Case(Network(Encoder(60.0, 40.0), tuple(layers)), picture, draw.whole(10, 17))


def sigma_delta(seed: int, *, lava: bool = False) -> Case:
    """Draw a sigma-delta network with a stream as its input; with `lava`, one that Lava 0.10 can run."""
    draw = _Draw(seed, lava=lava)
    shape = draw.shape()
    layers = [Layer("00-input", shape, Delta(draw.whole(0, 30)))]
    count = draw.whole(2, 4)
    for index in range(1, count):
        synapse, shape = draw.synapse(shape)
        kind = type(synapse).__name__.lower()
        last = index == count - 1
        neuron: Neuron = Sigma() if last and draw.chance(0.5) else SigmaDelta(draw.whole(0, 40))
        bias = None if isinstance(neuron, Sigma) else draw.bias(shape, 100)
        layers.append(Layer(f"{index:02d}-{kind}", shape, neuron, synapse, bias))
    steps = draw.whole(10, 17)
    images = 1 if lava else draw.whole(1, 3)
    walk = draw.rng.integers(-12, 13, (steps, images, *layers[0].shape), dtype=np.int64).cumsum(axis=0)
    return Case(Network(Encoder(60.0, 40.0), tuple(layers)), walk, steps)


def save_case(case: Case, path: Path) -> None:
    """Write a network with its input into one file, for a Python without the libraries of artifacts."""
    structure, arrays = parts.take_apart(case.network)
    content: dict[str, Any] = {**arrays, "structure": json.dumps(structure), "bias": case.bias, "steps": case.steps}
    np.savez(path, **content)


def load_case(path: Path) -> Case:
    """Read what `save_case` wrote."""
    with np.load(path) as file:
        arrays = dict(file)
    structure, bias, steps = (arrays.pop(name) for name in ("structure", "bias", "steps"))
    return Case(parts.put_together(json.loads(str(structure)), arrays, path.stem), bias, int(steps))


class _Draw:
    """Draws the parts of a network."""

    def __init__(self, seed: int, *, lava: bool, extreme: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.lava = lava
        self.extreme = extreme

    def whole(self, lowest: int, end: int) -> int:
        return int(self.rng.integers(lowest, end))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def shape(self) -> Shape:
        if self.extreme:
            return (self.whole(100, 250), 1, 1)
        if self.chance(0.2):
            return (self.whole(5, 60), 1, 1)
        return (self.whole(1, 4), self.whole(4, 8), self.whole(4, 8))

    def lif(self) -> Lif:
        """Draw a neuron: leaky or not, or one that loses so little that its state reaches its limits."""
        threshold = THRESHOLD_LIMIT if self.chance(0.1) else round(10 ** self.rng.uniform(0.0, 2.4))
        hoarding = self.extreme or self.chance(0.2)
        return Lif(
            threshold,
            current_decay=1 if hoarding else self._decay(DECAY_UNITY),
            voltage_decay=0 if hoarding else self._decay(0),
            bias_exponent=6 if self.chance(0.7) else self.whole(0, 8),
            reset="subtract" if not self.lava and self.chance(0.3) else "zero",
            initial_voltage=self.whole(-20 * threshold, 40 * threshold) if self.chance(0.3) else 0,
        )

    def _decay(self, usual: int) -> int:
        if self.chance(0.4):
            return usual
        # Lava has no current that forgets nothing: its du of 0 is a decay of 1.
        return int(self.rng.choice([1, DECAY_UNITY - 1, self.whole(1, DECAY_UNITY)]))

    def synapse(self, source: Shape) -> tuple[Synapse, Shape]:
        """Draw synapses that lead on from a layer of shape `source`, and the shape they lead to."""
        channels, height, width = source
        if min(height, width) > 1 and self.chance(0.15):
            shape = (channels, (height - 2) // 2 + 1, (width - 2) // 2 + 1)
            return SumPool((2, 2), (2, 2), self.whole(-20, 60)), shape
        if height * width > 1 and self.chance(0.8):
            return self._conv(source)
        neurons = self.whole(2, 40)
        return Dense(self.weight((neurons, channels * height * width))), (neurons, 1, 1)

    def _conv(self, source: Shape) -> tuple[Conv, Shape]:
        """Draw a convolution whose kernel fits."""
        channels, height, width = source
        while True:
            groups = channels if self.chance(0.25) else 1
            outputs = groups * self.whole(1, 8 // groups + 1)
            kernel, stride = (self.whole(1, 5), self.whole(1, 5)), (self.whole(1, 3), self.whole(1, 3))
            padding, dilation = (self.whole(0, 3), self.whole(0, 3)), (self.whole(1, 3), self.whole(1, 3))
            extents = [
                (size + 2 * pad - gap * (side - 1) - 1) // step + 1
                for size, pad, gap, side, step in zip((height, width), padding, dilation, kernel, stride, strict=True)
            ]
            if min(extents) >= 1:
                weight = self.weight((outputs, channels // groups, *kernel))
                return Conv(weight, stride, padding, dilation, groups), (outputs, extents[0], extents[1])

    def weight(self, shape: tuple[int, ...]) -> NDArray[np.int16]:
        """Draw weights as the chip has them: even where signs are mixed; large, small, or of one sign."""
        if self.extreme:
            return np.full(shape, self.rng.choice([-255, 255]), np.int16)
        kind = self.rng.choice(["small", "full", "saturated", "excitatory", "inhibitory"], p=[0.4, 0.2, 0.1, 0.2, 0.1])
        if kind == "small":
            weight = 2 * self.rng.integers(-16, 24, shape)
        elif kind == "full":
            weight = 2 * self.rng.integers(-128, 128, shape)
        elif kind == "saturated":
            weight = self.rng.choice([-256, 254], size=shape)
        elif kind == "excitatory":
            weight = self.rng.integers(0, 256, shape)
        else:
            weight = self.rng.integers(-255, 1, shape)
        return weight.astype(np.int16)

    def bias(self, shape: Shape, largest: int) -> NDArray[np.int32] | None:
        """Draw a bias per neuron, per channel, or none."""
        if self.chance(0.4):
            return None
        extents = shape if self.chance(0.3) else (shape[0], 1, 1)
        largest = BIAS_LIMIT if self.chance(0.15) else largest
        bias = self.rng.integers(-largest, largest, extents)
        return np.ascontiguousarray(np.broadcast_to(bias, shape), np.int32)
