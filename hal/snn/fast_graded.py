"""The engine for networks that masks of spikes and 32 bits do not hold: sigma-delta neurons, and very large sums.

It goes step by step in 64 bits, over the same tables of runs as `hal.snn.fast_kernels`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import numpy as np

from hal.snn.fast_compile import compiled, entry
from hal.snn.fast_kernels import settled
from hal.snn.network import (
    DECAY_UNITY,
    STATE_LIMIT,
    SYNAPSE_SHIFT,
    THRESHOLD_SHIFT,
    Accumulator,
    Conv,
    Delta,
    Lif,
    Sigma,
    SigmaDelta,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.fast_layout import Result
    from hal.snn.fast_tables import Tables

    Integers = NDArray[np.int64]

KINDS: tuple[type, ...] = (Lif, Accumulator, Delta, SigmaDelta, Sigma)
LIF, ACCUMULATOR, DELTA, SIGMA_DELTA, SIGMA = range(5)
NEURONS = np.dtype(
    [
        (name, np.int64)
        for name in (
            "kind", "size", "at", "wrap", "threshold", "soft", "initial", "current_kept", "voltage_kept", "fraction",
            "state_exponent", "history", "delay",
        )
    ]
)  # fmt: skip


class Arrays(NamedTuple):
    """What the loops read and write; `neurons` has an entry for every layer, `layers` one for all but the first."""

    layers: NDArray[np.void]
    neurons: NDArray[np.void]
    tables: NDArray[np.uint32]
    weights: NDArray[np.int16]
    sums: Integers
    bias: Integers
    u: Integers
    v: Integers
    activation: Integers
    spikes: Integers
    history: Integers
    input_positions: Integers
    score_positions: Integers


@compiled
def _decay(state: int, kept: int) -> int:
    """Keep `kept` / 4096 of a state, rounding its magnitude down."""
    magnitude = (abs(state) * kept) >> 12
    return magnitude if state >= 0 else -magnitude


@compiled
def _wrap(number: int, bits: int) -> int:
    """Keep the low bits as a signed number."""
    half = 1 << (bits - 1)
    return ((number + half) & (2 * half - 1)) - half


@compiled
def _step(neuron: Any, arrays: Arrays, at: int, arriving: Any, bias: Any) -> None:
    """Advance one neuron; the numbers are those of `hal.snn.reference`."""
    u, v = arrays.u[at], arrays.v[at]
    spike = np.int64(0)
    if neuron.kind == LIF:
        span = STATE_LIMIT + 1
        u = _decay(u, neuron.current_kept) + (arriving << SYNAPSE_SHIFT)
        if u > span:
            u -= 2 * span
        if u <= -span:
            u += 2 * span
        v = min(max(_decay(v, neuron.voltage_kept) + u + bias, -STATE_LIMIT), STATE_LIMIT)
        if v > neuron.threshold:
            spike = 1
            v = v - neuron.threshold if neuron.soft else 0
    elif neuron.kind == ACCUMULATOR:
        u += arriving + bias
    elif neuron.kind == SIGMA:
        u = _wrap(u + arriving, 32)
        spike = u
    else:
        if neuron.kind == DELTA:
            activation = u = _wrap(arriving << neuron.fraction, 32)
        else:
            u = _wrap(u + arriving, 32)
            activation = max(_wrap(u + bias, 32), 0)
        change = _wrap(activation - arrays.activation[at] + v, 32)
        sent = change if abs(change) >= neuron.threshold else 0
        arrays.activation[at] = activation
        v = change - sent
        spike = sent >> neuron.state_exponent
    arrays.u[at], arrays.v[at], arrays.spikes[at] = u, v, spike


@compiled
def _spread(layer: Any, arrays: Arrays, values: Any, first: int, y: int) -> None:
    """Add the synapses of the spikes in input row `y`, as `fast_kernels.spread` does."""
    tables = arrays.tables
    for n in range(layer.row):
        value = values[first + n]
        if value == 0:
            continue
        x = np.int64(tables[layer.columns + n])
        channel = n - x * layer.channels
        into = channel // layer.group_in * layer.group_out
        for run in range(np.int64(tables[layer.column_ends + x]), np.int64(tables[layer.column_ends + x + 1])):
            at_run = layer.column_runs + 3 * run
            start = layer.weight + channel * layer.channel_stride + tables[at_run + 1]
            for row in range(np.int64(tables[layer.row_ends + y]), np.int64(tables[layer.row_ends + y + 1])):
                source = np.int64(start + tables[layer.row_runs + 2 * row])
                target = np.int64(tables[at_run]) + into + np.int64(tables[layer.row_runs + 2 * row + 1])
                for i in range(16 * np.int64(tables[layer.bucket_sixteens + tables[at_run + 2]])):
                    arrays.sums[target + i] += value * arrays.weights[source + i]


@compiled
def _advance(layer: Any, neuron: Any, arrays: Arrays, step: int) -> None:
    """Evaluate a layer for one step."""
    values, first = arrays.spikes, layer.source
    size = layer.height * layer.source_stride
    if neuron.delay:
        # The oldest frame makes room for the newest once it has been used.
        values, first = arrays.history, neuron.history + step % neuron.delay * size
    opened = closed = 0
    for y in range(layer.height):
        while opened < layer.out_rows and arrays.tables[layer.opens + opened] <= y:
            opened += 1
        _spread(layer, arrays, values, first + y * layer.source_stride, y)
        while closed < opened and arrays.tables[layer.closes + closed] <= y:
            for i in range(layer.stride):
                place = closed % layer.ring * layer.slot + i
                arriving = arrays.sums[place] << layer.shift
                arrays.sums[place] = 0
                at = layer.neurons + closed * layer.stride + i
                _step(neuron, arrays, at, _wrap(arriving, 24) if neuron.wrap else arriving, arrays.bias[at])
            closed += 1
    if neuron.delay:
        arrays.history[first : first + size] = arrays.spikes[layer.source : layer.source + size]


@compiled
def _count(layer: Any, arrays: Arrays, events: Any) -> None:
    """Count the spikes that go to `layer`, and the synapses they pass."""
    for y in range(layer.height):
        rows = np.int64(arrays.tables[layer.row_ends + y + 1]) - np.int64(arrays.tables[layer.row_ends + y])
        for n in range(layer.row):
            if arrays.spikes[layer.source + y * layer.source_stride + n] != 0:
                events[0] += 1
                events[1] += rows * np.int64(arrays.tables[layer.fans + n])


@compiled
def _start(arrays: Arrays) -> None:
    """Bring all neurons to their initial state."""
    arrays.u[:] = 0
    arrays.activation[:] = 0
    arrays.history[:] = 0
    arrays.spikes[:] = 0
    for neuron in arrays.neurons:
        arrays.v[neuron.at : neuron.at + neuron.size] = neuron.initial if neuron.kind == LIF else 0


@entry
def run(arrays: Arrays, exponent: int, bias: Any, start: int, stop: int, margin: int, result: Result) -> bool:
    """Do what `fast_kernels.run` does; `exponent` is that of the input's biases."""
    layers, neurons = arrays.layers, arrays.neurons
    last = neurons[neurons.size - 1]
    done = False
    for image in range(bias.shape[0]):
        scores = result.scores[image]
        if start == 0:
            _start(arrays)
        step, done = start, False
        while step < stop and not done:
            for i in range(bias.shape[1]):
                at = arrays.input_positions[i]
                if neurons[0].kind == LIF:
                    _step(neurons[0], arrays, at, np.int64(0), arrays.bias[at] + (bias[image, i] << exponent))
                else:
                    _step(neurons[0], arrays, at, bias[image, i], arrays.bias[at])
            for index in range(layers.size):
                _advance(layers[index], neurons[index + 1], arrays, step)
                _count(layers[index], arrays, result.events[index])
            for i in range(scores.size):
                at = last.at + arrays.score_positions[i]
                if last.kind in (ACCUMULATOR, SIGMA):
                    scores[i] = arrays.u[at]
                else:
                    scores[i] += arrays.spikes[at]
                    result.events[layers.size, 0] += arrays.spikes[at] != 0
            step += 1
            done = margin >= 0 and settled(scores, margin)
        result.steps[image] = step
    return done


class GradedState:
    """Keeps what one image at a time has reached."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        network, size = tables.network, tables.sizes["masks"]
        first = network.layers[0].neuron
        self._exponent = first.bias_exponent if isinstance(first, Lif) else 0
        self._arrays = Arrays(
            layers=tables.records,
            neurons=_neurons(tables),
            tables=tables.joined_tables(),
            weights=tables.joined_weights(),
            sums=np.zeros(max(tables.ring), np.int64),
            bias=_bias(tables),
            u=np.zeros(size, np.int64),
            v=np.zeros(size, np.int64),
            activation=np.zeros(size, np.int64),
            spikes=np.zeros(size, np.int64),
            history=np.zeros(sum(_held(tables, index) for index in range(len(network.layers))), np.int64),
            input_positions=tables.places[0].positions(network.layers[0].shape),
            score_positions=tables.places[-1].positions(network.layers[-1].shape),
        )

    def advance(
        self, bias: Integers, start: int, stop: int, margin: Optional[int], result: Result, *, direct: bool
    ) -> bool:
        """Run images from step `start` to `stop`, and tell whether the margin ended the last of them."""
        return bool(run(self._arrays, self._exponent, bias, start, stop, -1 if margin is None else margin, result))

    def look(self, index: int) -> tuple[Integers, Integers, Integers]:
        """Give spikes, u and v of a layer in (C, H, W) order after a run of one step."""
        tables, arrays = self._tables, self._arrays
        at = tables.offsets[index] + tables.places[index].positions(tables.network.layers[index].shape)
        return arrays.spikes[at], arrays.u[at], arrays.v[at]


def _held(tables: Tables, index: int) -> int:
    """Count the spikes that may be under way to a layer."""
    return tables.network.layers[index].delay * tables.places[index - 1].size


def _neurons(tables: Tables) -> NDArray[np.void]:
    """Give the numbers of the neurons of every layer."""
    neurons = np.zeros(len(tables.network.layers), NEURONS)
    for index, (layer, numbers) in enumerate(zip(tables.network.layers, neurons)):
        neuron = layer.neuron
        numbers["at"], numbers["size"] = tables.offsets[index], tables.places[index].size
        numbers["kind"], numbers["wrap"] = KINDS.index(type(neuron)), isinstance(layer.synapse, Conv)
        numbers["delay"], numbers["history"] = layer.delay, sum(_held(tables, before) for before in range(index))
        if isinstance(neuron, Lif):
            numbers["threshold"], numbers["soft"] = neuron.threshold << THRESHOLD_SHIFT, neuron.reset == "subtract"
            numbers["initial"] = neuron.initial_voltage
            numbers["current_kept"] = DECAY_UNITY - neuron.current_decay
            numbers["voltage_kept"] = DECAY_UNITY - neuron.voltage_decay
        elif isinstance(neuron, (Delta, SigmaDelta)):
            numbers["fraction"] = neuron.spike_exponent + neuron.state_exponent
            numbers["threshold"] = neuron.threshold << int(numbers["fraction"])
            numbers["state_exponent"] = neuron.state_exponent
    return neurons


def _bias(tables: Tables) -> Integers:
    """Give the biases of all neurons in the units of their states."""
    bias = np.zeros(tables.sizes["masks"], np.int64)
    for offset, places, layer in zip(tables.offsets, tables.places, tables.network.layers):
        neuron, exponent = layer.neuron, 0
        own = bias[offset : offset + places.size]
        if isinstance(neuron, Lif):
            # Keeps the padding silent whatever the initial voltage.
            own[:] = -max(neuron.initial_voltage, 0)
            exponent = neuron.bias_exponent
        elif isinstance(neuron, SigmaDelta):
            exponent = neuron.spike_exponent + neuron.state_exponent
        positions = places.positions(layer.shape)
        own[positions] = 0 if layer.bias is None else layer.bias.ravel().astype(np.int64) << exponent
    return bias
