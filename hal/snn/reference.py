"""The reference engine: what a spiking network computes, step by step, in NumPy. Every other engine must equal it.

Semantics: Lava 0.10, `lava/proc/{lif,dense,conv,sdn}/models.py` (bit-accurate models). A synapse's one-step delay is a
pure shift in a feed-forward network and is left out: index t of every layer belongs to input step t.
Arrays are (N, C, H, W) with N images; all numbers are integers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Union

import numpy as np

from hal.energy.loihi import Events, sum_events
from hal.errors import CapacityError
from hal.snn.network import (
    DECAY_UNITY,
    STATE_LIMIT,
    SYNAPSE_SHIFT,
    THRESHOLD_SHIFT,
    Accumulator,
    Conv,
    Delta,
    Dense,
    Encoder,
    Layer,
    Lif,
    Network,
    Sigma,
    SigmaDelta,
    SumPool,
    Synapse,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

# Loihi 1 sums the synaptic input of a step in 16 bits with sign (M. Davies et al., IEEE Micro 38(1), 2018).
DENDRITE_MIN, DENDRITE_MAX = -(1 << 15), (1 << 15) - 1


@dataclass(frozen=True)
class Trace:
    """What one layer did: `spikes`, `u` and `v`, each (T, N, C, H, W).

    Of a `Lif`, `u` is the current and `v` the voltage after the reset. An `Accumulator` has its sum in `u`. Sigma-delta
    neurons have their graded spikes in `spikes`, in `u` the sum of what arrived (`Delta`: its scaled input), and in
    `v` what they have not sent yet (`Sigma`: zero, and its `spikes` are its value, as in Lava).
    """

    spikes: Integers
    u: Integers
    v: Integers


@dataclass(frozen=True)
class Run:
    """The result of N images: `scores` (N, classes), the events of all images, and the traces by layer if wanted.

    `layers` has the events layer by layer. A synaptic operation counts for the layer in which it arrives, and the
    spikes of a layer are its active updates.
    """

    scores: Integers
    events: Events
    traces: dict[str, Trace]
    layers: tuple[Events, ...] = ()


def encode(encoder: Encoder, pictures: NDArray[np.floating]) -> Integers:
    """Turn pictures in [0, 1] into the bias mantissas of the input layer."""
    return np.trunc(encoder.scale * (2.0 * pictures.astype(np.float64) - 1.0) + encoder.offset).astype(np.int64)


def run(network: Network, bias: Integers, steps: int, *, trace: bool = False, strict: bool = False) -> Run:
    """Run N images for `steps` steps. `bias` (N, C, H, W) is that of the input layer, as `encode` gives it.

    A `bias` of (T, N, C, H, W) with T at least `steps` changes from step to step.
    The score of a class is the value of its neuron in a last layer of `Accumulator` or `Sigma`, or else the sum of
    the spikes that it sent. With `strict`, `CapacityError` is raised where Loihi 1's 16-bit dendritic accumulator
    would overflow.
    """
    frames = bias if bias.ndim == 5 else np.broadcast_to(bias, (steps, *bias.shape))
    states = [_State(layer, frames.shape[1], strict) for layer in network.layers]
    for step in range(steps):
        message = states[0].step(frames[step])
        for state in states[1:]:
            message = state.step(state.receive(message))
        if trace:
            for state in states:
                state.record()
    layers = _count(states, steps)
    last = states[-1]
    scores = last.u if isinstance(last.layer.neuron, (Accumulator, Sigma)) else last.sent
    return Run(
        scores.reshape(frames.shape[1], -1).copy(),
        sum_events(layers),
        {state.layer.name: state.trace() for state in states} if trace else {},
        layers,
    )


def steps_until(network: Network, bias: Integers, steps: int, margin: int) -> Integers:
    """Give for each of N images the step after which its best score leads the second by `margin`, or else `steps`.

    An image that ends there has the scores and events of `run` for that many steps.
    """
    taken: Integers = np.full(len(bias), steps, np.int64)
    waiting = np.arange(len(bias))
    for step in range(1, steps):
        ordered = np.sort(run(network, bias[waiting], step).scores, axis=1)
        decided = ordered[:, -1] - ordered[:, -2] >= margin
        taken[waiting[decided]] = step
        waiting = waiting[~decided]
        if not len(waiting):
            break
    return taken


def _count(states: list[_State], steps: int) -> tuple[Events, ...]:
    """Count the events of each layer, of all images together."""
    events = []
    for before, state in zip([None, *states], states):
        operations = 0
        if before is not None:
            operations = int((before.fired.sum(axis=0) * fan_out(state.layer.synapse, before.layer.shape)).sum())
        active = int(state.fired.sum())
        events.append(Events(operations, active, state.fired.size * steps - active))
    return tuple(events)


class _State:
    """The neurons of one layer while a batch of `images` runs."""

    def __init__(self, layer: Layer, images: int, strict: bool) -> None:
        shape = (images, *layer.shape)
        self.layer = layer
        self.strict = strict
        self.bias: Integers = np.zeros(layer.shape, np.int64) if layer.bias is None else layer.bias.astype(np.int64)
        self.u = np.zeros(shape, np.int64)
        self.v = np.zeros(shape, np.int64)
        if isinstance(layer.neuron, Lif):
            self.v += layer.neuron.initial_voltage
        self.activation = np.zeros(shape, np.int64)
        self.spikes = np.zeros(shape, np.int64)
        self.sent = np.zeros(shape, np.int64)
        self.fired = np.zeros(shape, np.int64)
        self.in_flight: deque[Integers] = deque()
        self.recorded: list[tuple[Integers, Integers, Integers]] = []

    def receive(self, spikes: Integers) -> Integers:
        """Give what the synapses deliver when the layer before sends `spikes`, after the layer's own delay."""
        self.in_flight.append(spikes)
        if len(self.in_flight) <= self.layer.delay:
            return np.zeros_like(self.u)
        arriving = propagate(self.layer.synapse, self.in_flight.popleft()).reshape(self.u.shape)
        if self.strict:
            _check_dendrites(self.layer.name, arriving)
        return arriving

    def step(self, arriving: Integers) -> Integers:
        """Advance by one step with what arrives, or with the input of the first layer, and give the spikes."""
        neuron = self.layer.neuron
        if isinstance(neuron, Lif):
            self._step_lif(neuron, arriving)
        elif isinstance(neuron, Accumulator):
            self.u = self.u + arriving + self.bias
        elif isinstance(neuron, Sigma):
            self.spikes = self.u = wrap_signed_32(self.u + arriving)
            return self.spikes
        elif isinstance(neuron, Delta):
            self.u = wrap_signed_32(arriving << (neuron.spike_exponent + neuron.state_exponent))
            self._send_change(neuron, self.u)
        else:
            self.u = wrap_signed_32(self.u + arriving)
            bias = self.bias << (neuron.spike_exponent + neuron.state_exponent)
            self._send_change(neuron, np.maximum(wrap_signed_32(self.u + bias), 0))
        self.sent += self.spikes
        self.fired += self.spikes != 0
        return self.spikes

    def _step_lif(self, neuron: Lif, arriving: Integers) -> None:
        threshold = neuron.threshold << THRESHOLD_SHIFT
        bias = self.bias
        if self.layer.synapse is None:
            arriving, bias = np.zeros_like(arriving), arriving + bias
        self.u = wrap_current(decay(self.u, neuron.current_decay) + (arriving << SYNAPSE_SHIFT))
        voltage = decay(self.v, neuron.voltage_decay) + self.u + (bias << neuron.bias_exponent)
        self.v = np.clip(voltage, -STATE_LIMIT, STATE_LIMIT)
        self.spikes = (self.v > threshold).astype(np.int64)
        kept = 0 if neuron.reset == "zero" else self.v - threshold
        self.v = np.where(self.spikes == 1, kept, self.v)

    def _send_change(self, neuron: Union[Delta, SigmaDelta], activation: Integers) -> None:
        threshold = neuron.threshold << (neuron.spike_exponent + neuron.state_exponent)
        change = wrap_signed_32(activation - self.activation + self.v)
        sent = np.where(np.abs(change) >= threshold, change, 0)
        self.activation = activation
        self.v = change - sent
        self.spikes = sent >> neuron.state_exponent

    def record(self) -> None:
        """Keep the present state for the trace."""
        self.recorded.append((self.spikes.copy(), self.u.copy(), self.v.copy()))

    def trace(self) -> Trace:
        """Give what was recorded."""
        spikes, u, v = (np.stack(series) for series in zip(*self.recorded))
        return Trace(spikes, u, v)


def _check_dendrites(layer: str, arriving: Integers) -> None:
    for figure, limit in ((int(arriving.max()), DENDRITE_MAX), (int(arriving.min()), DENDRITE_MIN)):
        if abs(figure) > abs(limit) and figure * limit > 0:
            raise CapacityError(layer, figure, limit, "units of synaptic input to one neuron in one step")


def decay(state: Integers, fraction: int) -> Integers:
    """Lose `fraction` / 4096 of a state, rounding its magnitude down."""
    kept: Integers = np.sign(state) * ((np.abs(state) * (DECAY_UNITY - fraction)) >> 12)
    return kept


def wrap_current(current: Integers) -> Integers:
    """Fold once into (-2^23, 2^23], as Lava's LIF does with its current."""
    span = STATE_LIMIT + 1
    current = np.where(current > span, current - 2 * span, current)
    return np.where(current <= -span, current + 2 * span, current)


def propagate(synapse: Optional[Synapse], spikes: Integers) -> Integers:
    """Give the sums that arrive at the neurons, (N, C, H, W) or (N, out).

    Sums are taken in float64 for its fast matrix product; they stay far below 2^53 and so are exact.
    """
    if synapse is None:
        raise ValueError("an input layer has no synapses")
    values = spikes.astype(np.float64)
    if isinstance(synapse, Dense):
        return (values.reshape(len(values), -1) @ synapse.weight.T.astype(np.float64)).astype(np.int64)
    if isinstance(synapse, SumPool):
        windows = _windows(values, synapse.kernel, synapse.stride, (0, 0), (1, 1))
        pooled: Integers = windows.sum(axis=(-2, -1)).astype(np.int64) * synapse.weight
        return pooled
    return wrap_signed_24(_convolve(synapse, values))


def wrap_signed_24(sums: Integers) -> Integers:
    """Keep the low 24 bits as a signed number, as Lava's Conv does with its result."""
    half = 1 << 23
    wrapped: Integers = ((sums + half) & (2 * half - 1)) - half
    return wrapped


def wrap_signed_32(state: Integers) -> Integers:
    """Keep the low 32 bits as a signed number: Lava's sigma-delta neurons neither clamp nor check."""
    return state.astype(np.int32).astype(np.int64)


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
    return np.tile(counts.reshape(1, height, width) * per_channel, (channels, 1, 1))
