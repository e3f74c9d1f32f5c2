"""The compiled loops of the fast engine over images, blocks of steps and layers: spikes as 16-bit masks of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit, uint64

from hal.snn.fast_lanes import ones
from hal.snn.fast_neurons import fire_input, fire_memory, fire_memory_split, fire_plain, fire_split, look_up, sum_up
from hal.snn.fast_synapses import spread, spread_dense
from hal.snn.fast_tables import FIRING, SUMMING

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Arrays(NamedTuple):
    """All that the kernels read and write."""

    layers: NDArray[np.void]
    tables: NDArray[np.uint32]
    weights: NDArray[np.int16]
    set_bits: NDArray[np.uint32]
    targets: NDArray[np.uint32]
    starts: NDArray[np.uint32]
    listed: NDArray[np.uint64]
    straight_starts: NDArray[np.uint32]
    straight_masks: NDArray[np.uint32]
    turned_starts: NDArray[np.uint32]
    turned_masks: NDArray[np.uint32]
    all_on: NDArray[np.int16]
    sums: NDArray[np.int16]
    wide_sums: NDArray[np.int32]
    masks: NDArray[np.uint16]
    arriving: NDArray[np.uint16]
    pending: NDArray[np.uint64]
    u: NDArray[np.int32]
    v: NDArray[np.int32]
    bias: NDArray[np.int32]
    totals: NDArray[np.int64]
    series: NDArray[np.int64]
    input_positions: NDArray[np.int64]
    input_bias: NDArray[np.int64]
    input_v: NDArray[np.int64]
    trains: NDArray[np.int32]
    score_positions: NDArray[np.int64]


class Input(NamedTuple):
    """The neurons of the input layer; `lowest` is the bias of the first column of the trains."""

    threshold: int
    soft: bool
    initial: int
    voltage_kept: int
    exponent: int
    lowest: int


@njit(nogil=True, error_model="numpy")
def delay_spikes(layer, masks, pending, arriving, steps, fresh):
    """Hand on what arrives in this block, and keep the spikes that arrive later."""
    for i in range(layer.height * layer.source_stride):
        queue = uint64(0) if fresh else pending[layer.pending + i]
        queue |= uint64(masks[layer.source + i]) << uint64(layer.delay)
        arriving[i] = queue & uint64((1 << steps) - 1)
        pending[layer.pending + i] = queue >> uint64(steps)


@njit(nogil=True, error_model="numpy")
def advance(layer, arrays, sums, steps, fresh, inverted):
    """Evaluate a layer for a block of steps, row by row: a row of neurons fires once its last input row is spread."""
    masks, first = arrays.masks, layer.source
    if layer.delay:
        delay_spikes(layer, arrays.masks, arrays.pending, arrays.arriving, steps, fresh)
        masks, first = arrays.arriving, 0
    opened = closed = 0
    for y in range(layer.height):
        while opened < layer.out_rows and arrays.tables[layer.opens + opened] <= y:
            if inverted:
                start = opened % layer.ring * layer.slot + 16 * layer.stride
                for i in range(layer.stride):
                    sums[start + i] = arrays.all_on[layer.all_on + opened * layer.stride + i]
            opened += 1
        if layer.dense:
            spread_dense(layer, arrays, sums, masks[first:], steps, inverted)
        else:
            spread(layer, arrays, sums, masks, first + y * layer.source_stride, y, steps, inverted)
        while closed < opened and arrays.tables[layer.closes + closed] <= y:
            finish(layer, arrays, sums, closed % layer.ring * layer.slot, closed, steps, fresh)
            closed += 1


@njit(nogil=True, error_model="numpy")
def finish(layer, arrays, sums, slot, row, steps, fresh):
    """Advance the neurons of a row whose sums are complete, and clear the sums."""
    u, v, bias, masks = arrays.u, arrays.v, arrays.bias, arrays.masks
    if layer.kind == SUMMING:
        sum_up(layer, sums, slot, row, arrays.totals, bias, arrays.series, steps, fresh)
    elif layer.current_memory:
        if layer.voltage_split:
            fire_memory_split(layer, sums, slot, row, u, v, bias, masks, steps, fresh)
        else:
            fire_memory(layer, sums, slot, row, u, v, bias, masks, steps, fresh)
    elif layer.voltage_split:
        fire_split(layer, sums, slot, row, u, v, bias, masks, steps, fresh)
    else:
        fire_plain(layer, sums, slot, row, u, v, bias, masks, steps, fresh)


@njit(nogil=True, error_model="numpy")
def count(layer, tables, masks, kept, events):
    """Count the spikes within the steps `kept` and the synapses they pass on their way to `layer`."""
    spikes = operations = uint64(0)
    for y in range(layer.height):
        passed = uint64(0)
        first = uint64(layer.source + y * layer.source_stride)
        for n in range(uint64(layer.row)):
            fired = ones(uint64(masks[first + n] & kept))
            spikes += fired
            passed += fired * uint64(tables[uint64(layer.fans) + n])
        operations += passed * uint64(tables[layer.row_ends + y + 1] - tables[layer.row_ends + y])
    events[0] += spikes
    events[1] += operations


@njit(nogil=True, error_model="numpy")
def settled(scores, margin):
    """Tell whether the best score leads the second best by `margin`."""
    best = second = np.int64(-(1 << 62))
    for score in scores:
        if score > best:
            best, second = score, best
        elif score > second:
            second = score
    return best - second >= margin and scores.size > 1


@njit(nogil=True, error_model="numpy")
def score(last, arrays, scores, steps, margin):
    """Bring the scores up to date step by step; give the steps until the margin is reached, or all of them."""
    for step in range(steps):
        for i in range(scores.size):
            place = arrays.score_positions[i]
            if last.kind == SUMMING:
                scores[i] = arrays.series[step, place]
            else:
                scores[i] += (arrays.masks[last.neurons + place] >> step) & 1
        if margin >= 0 and settled(scores, margin):
            return step + 1, True
    return steps, False


@njit(nogil=True, error_model="numpy", cache=True)
def run(arrays, neuron, bias, start, stop, block, margin, direct, result):
    """Run images (rows of `bias`) one after the other from step `start`, where the state is kept from, to `stop`.

    Tell whether the last image ended because of the margin. With `direct` no trains are used: the biases may change.
    """
    layers = arrays.layers
    last = layers[layers.size - 1]
    done = False
    for image in range(bias.shape[0]):
        looked_up = not direct and stop <= 16 * arrays.trains.shape[0]
        for i in range(bias.shape[1]):
            column = bias[image, i] + arrays.input_bias[i] - neuron.lowest
            looked_up = looked_up and 0 <= column < arrays.trains.shape[1]
        step = start
        done = False
        while step < stop and not done:
            steps = min(block, stop - step)
            fresh = step == 0
            inverted = False
            if looked_up:
                inverted = look_up(
                    arrays.trains, step // 16, step % 16, steps, neuron.lowest, bias[image], arrays.input_bias,
                    arrays.input_positions, arrays.masks,
                )  # fmt: skip
            else:
                fire_input(arrays, neuron, bias[image], steps, fresh)
            for index in range(layers.size):
                layer = layers[index]
                flip = inverted and layer.all_on >= 0
                if layer.wide:
                    advance(layer, arrays, arrays.wide_sums, steps, fresh, flip)
                else:
                    advance(layer, arrays, arrays.sums, steps, fresh, flip)
            steps, done = score(last, arrays, result.scores[image], steps, margin)
            kept = np.uint16((1 << steps) - 1)
            for index in range(layers.size):
                count(layers[index], arrays.tables, arrays.masks, kept, result.events[index])
            if last.kind == FIRING:
                for i in range(arrays.score_positions.size):
                    fired = arrays.masks[last.neurons + arrays.score_positions[i]] & kept
                    result.events[layers.size, 0] += np.int64(ones(uint64(fired)))
            step += steps
        result.steps[image] = step
    return done
