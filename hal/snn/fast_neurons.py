"""The compiled loops of the fast engine that advance neurons: sums in, masks of spikes out."""

from __future__ import annotations

import numpy as np
from numba import njit, uint64

from hal.snn.fast_lanes import (
    greater,
    larger,
    load16,
    ones,
    smaller,
    splat16,
    store,
    widen,
)
from hal.snn.network import STATE_LIMIT

SPAN = STATE_LIMIT + 1


def _make_fire(current_memory, voltage_split):
    """Make the loop over the neurons of a row for layers whose current lasts, and whose voltage needs a long product.

    A decay keeps `kept` parts of 2^shift of a magnitude, rounded down: floor((state * kept + rounding) / 2^shift)
    with a rounding of 2^shift - 1 for negative states. Where the product leaves 32 bits, the state is split into
    high and low twelve bits.
    """

    @njit(nogil=True, error_model="numpy")
    def split_decay(state, kept):
        rounding = (state >> splat16(np.int32(31))) & splat16(np.int32(4095))
        low = (state & splat16(np.int32(4095))) * kept + rounding
        return (state >> splat16(np.int32(12))) * kept + (low >> splat16(np.int32(12)))

    @njit(nogil=True, error_model="numpy")
    def fire(layer, sums, slot, row, us, vs, biases, masks, steps, fresh):
        stride = uint64(layer.stride)
        at_state = uint64(layer.state) + uint64(row) * stride
        at_masks = uint64(layer.neurons) + uint64(row) * stride
        zero = splat16(np.int32(0))
        zero_sum = splat16(sums.dtype.type(0))
        scale = splat16(np.int32(6 + layer.shift))
        threshold = splat16(np.int32(layer.threshold))
        to_zero = splat16(np.int32(0 if layer.soft else -1))
        by_threshold = splat16(np.int32(layer.threshold if layer.soft else 0))
        highest = splat16(np.int32(STATE_LIMIT))
        deepest = splat16(np.int32(-STATE_LIMIT))
        span = splat16(np.int32(SPAN))
        minus_span = splat16(np.int32(-SPAN + 1))
        two_spans = splat16(np.int32(2 * SPAN))
        current_kept = splat16(np.int32(layer.current_kept))
        voltage_kept = splat16(np.int32(layer.voltage_kept))
        voltage_shift = splat16(np.int32(layer.voltage_shift))
        voltage_rounding = splat16(np.int32((1 << layer.voltage_shift) - 1))
        initial = splat16(np.int32(layer.initial))
        for i in range(uint64(0), stride, uint64(16)):
            at = uint64(slot) + i
            shared = load16(sums, at + uint64(16) * stride)
            store(sums, at + uint64(16) * stride, zero_sum)
            bias = load16(biases, at_state + i)
            u = zero
            v = initial
            if not fresh:
                v = load16(vs, at_state + i)
                if current_memory:
                    u = load16(us, at_state + i)
            spikes = zero
            for step in range(uint64(steps)):
                arrived = widen(load16(sums, at + step * stride) + shared, us) << scale
                store(sums, at + step * stride, zero_sum)
                if current_memory:
                    u = split_decay(u, current_kept) + arrived
                    u = u - (greater(u, span) & two_spans)
                    u = u + (greater(minus_span, u) & two_spans)
                else:
                    u = arrived
                if voltage_split:
                    v = split_decay(v, voltage_kept)
                else:
                    rounding = (v >> splat16(np.int32(31))) & voltage_rounding
                    v = (v * voltage_kept + rounding) >> voltage_shift
                v = larger(smaller(v + u + bias, highest), deepest)
                fired = greater(v, threshold)
                spikes = spikes | (fired & splat16(np.int32(uint64(1) << step)))
                v = v - (fired & ((v & to_zero) | by_threshold))
            store(us, at_state + i, u)
            store(vs, at_state + i, v)
            store(masks, at_masks + i, spikes)

    return fire


fire_plain = _make_fire(False, False)
fire_split = _make_fire(False, True)
fire_memory = _make_fire(True, False)
fire_memory_split = _make_fire(True, True)


@njit(nogil=True, error_model="numpy")
def sum_up(layer, sums, slot, row, totals, biases, series, steps, fresh):
    """Advance neurons that only sum, and give their values after each step in `series`."""
    for i in range(layer.stride):
        at = layer.totals + row * layer.stride + i
        total = np.int64(0) if fresh else totals[at]
        shared = sums[slot + 16 * layer.stride + i]
        sums[slot + 16 * layer.stride + i] = 0
        for step in range(steps):
            place = slot + step * layer.stride + i
            # The sum is exact in the width of the array, whatever its parts are.
            total += (np.int64(sums.dtype.type(sums[place] + shared)) << layer.shift) + biases[
                layer.state + row * layer.stride + i
            ]
            sums[place] = 0
            series[step, row * layer.stride + i] = total
        totals[at] = total


@njit(nogil=True, error_model="numpy")
def fire_one(neuron, bias, voltage, steps):
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


@njit(nogil=True, error_model="numpy")
def fire_input(arrays, neuron, bias, steps, fresh):
    """Advance the input neurons."""
    for i in range(bias.size):
        voltage = np.int64(neuron.initial) if fresh else arrays.input_v[i]
        arrays.input_v[i], mask = fire_one(neuron, bias[i] + arrays.input_bias[i], voltage, steps)
        arrays.masks[arrays.input_positions[i]] = mask


@njit(nogil=True, error_model="numpy", cache=True)
def draw_trains(neuron, trains):
    """Fill `trains` (blocks of sixteen steps, biases) with masks and, above bit 16, what starting from silence costs.

    The cost is in added rows of weights, beyond that of starting with all neurons on.
    """
    for column in range(trains.shape[1]):
        voltage = np.int64(neuron.initial)
        for block in range(trains.shape[0]):
            voltage, mask = fire_one(neuron, np.int64(neuron.lowest + column), voltage, 16)
            fired = np.int64(ones(uint64(mask)))
            trains[block, column] = mask | (min(fired, 17 - fired) - min(16 - fired, 1 + fired)) << 16


@njit(nogil=True, error_model="numpy")
def look_up(trains, block, skipped, steps, lowest_bias, bias, own_bias, positions, masks):
    """Take the spikes of the input neurons from their trains; tell whether starting from silence costs more."""
    every = (1 << steps) - 1
    gain = 0
    for i in range(bias.size):
        train = trains[block, uint64(bias[i] + own_bias[i] - lowest_bias)]
        masks[uint64(positions[i])] = ((train & 0xFFFF) >> skipped) & every
        gain += train >> 16
    return gain > 0
