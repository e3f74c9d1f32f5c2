"""The compiled loops of the fast engine over neurons: what each does with the sums of a block of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import uint64

from hal.snn.fast_compile import compiled, entry
from hal.snn.fast_lanes import greater, larger, load32, ones, smaller, splat32, store, widen
from hal.snn.network import STATE_LIMIT

if TYPE_CHECKING:
    from hal.snn.fast_masks import Arrays


def _make_fire(variant: str) -> Any:
    """Make the loop over the neurons of a row: `plain`, `leaky` or `general`.

    A decay keeps `kept` parts of 2^shift of a magnitude, rounded down: floor((state * kept + rounding) / 2^shift)
    with a rounding of 2^shift - 1 for negative states. `general` does all that a neuron can do. `leaky` is for
    currents that last one step only, and so never reach 24 bits. `plain` is for neurons, moreover, that reset to zero
    and whose voltages are known to stay within 24 bits and, times `kept`, within 32.
    """
    general, plain = variant == "general", variant == "plain"

    @compiled
    def decay(state: Any, kept: Any) -> Any:
        """Multiply high and low twelve bits apart, as the product may take 36."""
        rounding = (state >> splat32(np.int32(31))) & splat32(np.int32(4095))
        low = (state & splat32(np.int32(4095))) * kept + rounding
        return (state >> splat32(np.int32(12))) * kept + (low >> splat32(np.int32(12)))

    @compiled
    def fire(layer: Any, arrays: Arrays, sums: Any, slot: int, row: int, steps: int, fresh: bool) -> None:
        """Advance the neurons by the sums of `steps` steps, and clear these."""
        us, vs, stride = arrays.u, arrays.v, uint64(layer.stride)
        at_state = uint64(layer.state) + uint64(row) * stride
        at_masks = uint64(layer.neurons) + uint64(row) * stride
        zero_sum = splat32(sums.dtype.type(0))
        scale = splat32(np.int32(6 + layer.shift))
        threshold = splat32(np.int32(layer.threshold))
        to_zero, by_threshold = splat32(np.int32(layer.soft - 1)), splat32(np.int32(layer.threshold * layer.soft))
        highest, deepest = splat32(np.int32(STATE_LIMIT)), splat32(np.int32(-STATE_LIMIT))
        span, two_spans = splat32(np.int32(STATE_LIMIT + 1)), splat32(np.int32(2 * STATE_LIMIT + 2))
        current_kept = splat32(np.int32(layer.current_kept))
        voltage_kept, voltage_shift = splat32(np.int32(layer.voltage_kept)), splat32(np.int32(layer.voltage_shift))
        rounding = splat32(np.int32((1 << layer.voltage_shift) - 1))
        for i in range(uint64(0), stride, uint64(32)):
            at = uint64(slot) + i
            shared = load32(sums, at + uint64(16) * stride)
            store(sums, at + uint64(16) * stride, zero_sum)
            bias = load32(arrays.bias, at_state + i)
            spikes = u = splat32(np.int32(0))
            v = splat32(np.int32(layer.initial))
            if not fresh:
                u, v = load32(us, at_state + i), load32(vs, at_state + i)
            for step in range(uint64(steps)):
                arrived = widen(load32(sums, at + step * stride) + shared, us) << scale
                store(sums, at + step * stride, zero_sum)
                if general:
                    u = decay(u, current_kept) + arrived
                    u = u - (greater(u, span) & two_spans)
                    u = u + (greater(deepest, u) & two_spans)
                else:
                    u = arrived
                if plain:
                    v = (v * voltage_kept + ((v >> splat32(np.int32(31))) & rounding)) >> voltage_shift
                    v = v + u + bias
                    fired = greater(v, threshold)
                    v = v & ~fired
                else:
                    v = larger(smaller(decay(v, voltage_kept) + u + bias, highest), deepest)
                    fired = greater(v, threshold)
                    v = v - (fired & ((v & to_zero) | by_threshold))
                spikes = spikes | (fired & splat32(np.int32(uint64(1) << step)))
            store(us, at_state + i, u)
            store(vs, at_state + i, v)
            store(arrays.masks, at_masks + i, spikes)

    return fire


fire_plain = _make_fire("plain")
fire_leaky = _make_fire("leaky")
fire_general = _make_fire("general")


@compiled
def sum_up(layer: Any, arrays: Arrays, sums: Any, slot: int, row: int, steps: int, fresh: bool) -> None:
    """Advance neurons that only sum, and keep their values after each step in `series`."""
    stride = layer.stride
    for i in range(stride):
        at = layer.totals + row * stride + i
        bias = arrays.bias[layer.state + row * stride + i]
        total = np.int64(0) if fresh else arrays.totals[at]
        shared = sums[slot + 16 * stride + i]
        sums[slot + 16 * stride + i] = 0
        for step in range(steps):
            place = slot + step * stride + i
            # The sum is exact in the width of the array, whatever its parts are.
            total += (np.int64(sums.dtype.type(sums[place] + shared)) << layer.shift) + bias
            sums[place] = 0
            arrays.series[step, row * stride + i] = total
        arrays.totals[at] = total


@compiled
def fire_one(neuron: Any, bias: Any, voltage: Any, steps: Any) -> tuple[Any, int]:
    """Advance one neuron under a constant bias; give its voltage and the mask of the steps in which it fired."""
    mask = 0
    for step in range(steps):
        magnitude = (abs(voltage) * neuron.voltage_kept) >> 12
        voltage = (magnitude if voltage >= 0 else -magnitude) + (bias << neuron.exponent)
        voltage = min(max(voltage, -STATE_LIMIT), STATE_LIMIT)
        if voltage > neuron.threshold:
            mask |= 1 << step
            voltage = voltage - neuron.threshold if neuron.soft else 0
    return voltage, mask


@compiled
def fire_input(arrays: Arrays, neuron: Any, bias: Any, steps: int, fresh: bool) -> None:
    """Advance the input neurons."""
    for i in range(bias.size):
        voltage = np.int64(neuron.initial) if fresh else arrays.input_v[i]
        arrays.input_v[i], mask = fire_one(neuron, bias[i] + arrays.input_bias[i], voltage, steps)
        arrays.masks[arrays.input_positions[i]] = mask


@entry
def draw_trains(neuron: Any, trains: Any) -> None:
    """Fill `trains` (blocks of sixteen steps, biases) with masks and, above bit 16, what starting from silence costs.

    The cost is in added rows of weights, beyond that of starting with all neurons on.
    """
    for column in range(trains.shape[1]):
        voltage = np.int64(neuron.initial)
        for block in range(trains.shape[0]):
            voltage, mask = fire_one(neuron, np.int64(neuron.lowest + column), voltage, np.int64(16))
            fired = np.int64(ones(uint64(mask)))
            trains[block, column] = mask | (min(fired, 17 - fired) - min(16 - fired, 1 + fired)) << 16


@compiled
def look_up(
    trains: Any,
    block: int,
    skipped: int,
    steps: int,
    lowest_bias: int,
    bias: Any,
    own_bias: Any,
    positions: Any,
    masks: Any,
) -> bool:
    """Take the spikes of the input neurons from their trains; tell whether starting from silence costs more."""
    every = (1 << steps) - 1
    gain = 0
    for i in range(bias.size):
        train = trains[block, uint64(bias[i] + own_bias[i] - lowest_bias)]
        masks[uint64(positions[i])] = ((train & 0xFFFF) >> skipped) & every
        gain += train >> 16
    return gain > 0
