"""The reference engine: what a spiking network computes, step by step, in NumPy. Every other engine must equal it.

Semantics: Lava 0.10, `lava/proc/{lif,dense,conv}/models.py` (bit-accurate models). A synapse's one-step delay is a
pure shift in a feed-forward network and is left out: index t of every layer belongs to input step t.
Arrays are (N, C, H, W) with N images; all numbers are integers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np

from hal.energy.loihi import Events
from hal.snn.network import (
    DECAY_UNITY,
    STATE_LIMIT,
    SYNAPSE_SHIFT,
    THRESHOLD_SHIFT,
    Accumulator,
    Conv,
    Dense,
    Encoder,
    Layer,
    Lif,
    Network,
    SumPool,
    Synapse,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Trace:
    """What one layer did: `spikes`, `u` and `v`, each (T, N, C, H, W)."""

    spikes: Integers
    u: Integers
    v: Integers


@dataclass(frozen=True)
class Run:
    """The result of N images: `scores` (N, classes), the events of all images, and the traces by layer if wanted."""

    scores: Integers
    events: Events
    traces: dict[str, Trace]


def encode(encoder: Encoder, pictures: NDArray[np.floating]) -> Integers:
    """Turn pictures in [0, 1] into the bias mantissas of the input layer."""
    return np.trunc(encoder.scale * (2.0 * pictures.astype(np.float64) - 1.0) + encoder.offset).astype(np.int64)


def run(network: Network, bias: Integers, steps: int, *, trace: bool = False) -> Run:
    """Run N images for `steps` steps. `bias` (N, C, H, W) is that of the input layer, as `encode` gives it.

    The score of a class is the value of its accumulator, or the number of its spikes where the last layer fires.
    """
    states = [_State(layer, bias) for layer in network.layers]
    fan_outs = [fan_out(after.synapse, layer.shape) for layer, after in zip(network.layers, network.layers[1:])]
    for _ in range(steps):
        spikes: Optional[Integers] = None
        for state in states:
            spikes = state.step(spikes)
            if trace:
                state.record()
    operations = sum(int((state.fired.sum(axis=0) * fan).sum()) for state, fan in zip(states, fan_outs))
    active = sum(int(state.fired.sum()) for state in states)
    updates = len(bias) * steps * sum(layer.size for layer in network.layers)
    last = states[-1]
    scores = last.u if isinstance(last.layer.neuron, Accumulator) else last.fired
    return Run(
        scores.reshape(len(bias), -1).copy(),
        Events(operations, active, updates - active),
        {state.layer.name: state.trace() for state in states} if trace else {},
    )


class _State:
    """The neurons of one layer while a batch runs."""

    def __init__(self, layer: Layer, bias: Integers) -> None:
        images = len(bias)
        shape = (images, *layer.shape)
        self.layer = layer
        self.bias = bias.reshape(shape) if layer.synapse is None else np.int64(0)
        if layer.bias is not None:
            self.bias = self.bias + layer.bias.astype(np.int64)
        self.u = np.zeros(shape, np.int64)
        self.v = np.zeros(shape, np.int64)
        if isinstance(layer.neuron, Lif):
            self.v += layer.neuron.initial_voltage
        self.spikes = np.zeros(shape, np.int64)
        self.fired = np.zeros(shape, np.int64)
        self.in_flight: deque[Integers] = deque()
        self.recorded: list[tuple[Integers, Integers, Integers]] = []

    def step(self, arriving: Optional[Integers]) -> Integers:
        """Advance by one step and give the spikes."""
        current: Integers = np.zeros_like(self.u)
        if arriving is not None and self.layer.synapse is not None:
            self.in_flight.append(arriving)
            if len(self.in_flight) > self.layer.delay:
                current = propagate(self.layer.synapse, self.in_flight.popleft()).reshape(self.u.shape)
        if isinstance(self.layer.neuron, Lif):
            self._step_lif(self.layer.neuron, current)
        else:
            self.u = self.u + current + self.bias
        return self.spikes

    def _step_lif(self, neuron: Lif, current: Integers) -> None:
        bias = self.bias << neuron.bias_exponent
        threshold = neuron.threshold << THRESHOLD_SHIFT
        self.u = wrap_current(decay(self.u, neuron.current_decay) + (current << SYNAPSE_SHIFT))
        self.v = np.clip(decay(self.v, neuron.voltage_decay) + self.u + bias, -STATE_LIMIT, STATE_LIMIT)
        self.spikes = (self.v > threshold).astype(np.int64)
        kept = 0 if neuron.reset == "zero" else self.v - threshold
        self.v = np.where(self.spikes == 1, kept, self.v)
        self.fired += self.spikes

    def record(self) -> None:
        """Keep the present state for the trace."""
        self.recorded.append((self.spikes.copy(), self.u.copy(), self.v.copy()))

    def trace(self) -> Trace:
        """Give what was recorded."""
        spikes, u, v = (np.stack(series) for series in zip(*self.recorded))
        return Trace(spikes, u, v)


def decay(state: Integers, fraction: int) -> Integers:
    """Lose `fraction` / 4096 of a state, rounding its magnitude down."""
    kept: Integers = np.sign(state) * ((np.abs(state) * (DECAY_UNITY - fraction)) >> 12)
    return kept


def wrap_current(current: Integers) -> Integers:
    """Fold once into (-2^23, 2^23], as Lava's LIF does with its current."""
    span = STATE_LIMIT + 1
    current = np.where(current > span, current - 2 * span, current)
    folded: Integers = np.where(current <= -span, current + 2 * span, current)
    return folded


def propagate(synapse: Synapse, spikes: Integers) -> Integers:
    """Give the sums that arrive at the neurons, (N, C, H, W) or (N, out).

    Sums are taken in float64 for its fast matrix product; they stay far below 2^53 and so are exact.
    """
    values = spikes.astype(np.float64)
    if isinstance(synapse, Dense):
        return (values.reshape(len(values), -1) @ synapse.weight.T.astype(np.float64)).astype(np.int64)
    if isinstance(synapse, SumPool):
        windows = _windows(values, synapse.kernel, synapse.stride, (0, 0), (1, 1))
        sums: Integers = windows.sum(axis=(-2, -1)).astype(np.int64) * synapse.weight
        return sums
    return wrap_signed_24(_convolve(synapse, values))


def wrap_signed_24(sums: Integers) -> Integers:
    """Keep the low 24 bits as a signed number, as Lava's Conv does with its result."""
    half = 1 << 23
    wrapped: Integers = ((sums + half) & (2 * half - 1)) - half
    return wrapped


def _convolve(conv: Conv, values: NDArray[np.float64]) -> Integers:
    kernel = (conv.weight.shape[2], conv.weight.shape[3])
    windows = _windows(values, kernel, conv.stride, conv.padding, conv.dilation)
    outputs = np.split(conv.weight.astype(np.float64), conv.groups)
    inputs = np.split(windows, conv.groups, axis=1)
    sums = [np.einsum("ncyxij,ocij->noyx", part, weight, optimize=True) for part, weight in zip(inputs, outputs)]
    return np.concatenate(sums, axis=1).astype(np.int64)


def _windows(
    values: NDArray[np.float64],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> NDArray[np.float64]:
    """View the receptive fields as (N, C, Y, X, kH, kW)."""
    (pad_y, pad_x), (step_y, step_x), (gap_y, gap_x) = padding, stride, dilation
    padded = np.pad(values, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    extent = (gap_y * (kernel[0] - 1) + 1, gap_x * (kernel[1] - 1) + 1)
    views = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
    return views[:, :, ::step_y, ::step_x, ::gap_y, ::gap_x]


def fan_out(synapse: Optional[Synapse], source: tuple[int, int, int]) -> Integers:
    """Count the synapses that leave each neuron of a layer of shape `source`; zero weights are stored and count."""
    if synapse is None:
        raise ValueError("an input layer has no synapses")
    if isinstance(synapse, Dense):
        return np.full(source, synapse.weight.shape[0], np.int64)
    per_channel = 1
    if isinstance(synapse, Conv):
        per_channel = synapse.weight.shape[0] // synapse.groups
        kernel = (synapse.weight.shape[2], synapse.weight.shape[3])
        padding, dilation = synapse.padding, synapse.dilation
    else:
        kernel, padding, dilation = synapse.kernel, (0, 0), (1, 1)
    channels, height, width = source
    index = np.arange(1, height * width + 1, dtype=np.float64).reshape(1, 1, height, width)
    seen = _windows(index, kernel, synapse.stride, padding, dilation).astype(np.int64).ravel()
    counts = np.bincount(seen, minlength=height * width + 1)[1:]
    fan: Integers = np.tile(counts.reshape(1, height, width) * per_channel, (channels, 1, 1))
    return fan
