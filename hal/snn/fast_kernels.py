"""The compiled loops of the fast engine over images, blocks of steps and layers.

Spikes are one 16-bit mask of time steps per neuron.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import uint64

from hal.snn.fast_compile import compiled, entry
from hal.snn.fast_fire import fire_general, fire_input, fire_leaky, fire_plain, look_up, sum_up
from hal.snn.fast_lanes import ones
from hal.snn.fast_spread import spread, spread_dense
from hal.snn.fast_tables import GENERAL, LEAKY, PLAIN, SUMMING

if TYPE_CHECKING:
    from hal.snn.fast_layout import Result
    from hal.snn.fast_masks import Arrays


@compiled
def delay_spikes(layer: Any, masks: Any, pending: Any, arriving: Any, steps: int, fresh: bool) -> None:
    """Hand on what arrives in this block, and keep the spikes that arrive later."""
    for i in range(layer.height * layer.source_stride):
        queue = uint64(0) if fresh else pending[layer.pending + i]
        queue |= uint64(masks[layer.source + i]) << uint64(layer.delay)
        arriving[i] = queue & uint64((1 << steps) - 1)
        pending[layer.pending + i] = queue >> uint64(steps)


@compiled
def _finish_narrow(layer: Any, arrays: Arrays, slot: int, row: int, steps: int, fresh: bool) -> None:
    if layer.kind == PLAIN:
        fire_plain(layer, arrays, arrays.sums, slot, row, steps, fresh)
    elif layer.kind == LEAKY:
        fire_leaky(layer, arrays, arrays.sums, slot, row, steps, fresh)
    elif layer.kind == GENERAL:
        fire_general(layer, arrays, arrays.sums, slot, row, steps, fresh)
    else:
        sum_up(layer, arrays, arrays.sums, slot, row, steps, fresh)


@compiled
def _finish_wide(layer: Any, arrays: Arrays, slot: int, row: int, steps: int, fresh: bool) -> None:
    if layer.kind == SUMMING:
        sum_up(layer, arrays, arrays.wide_sums, slot, row, steps, fresh)
    else:
        fire_general(layer, arrays, arrays.wide_sums, slot, row, steps, fresh)


def _make_advance(finish: Any) -> Any:
    """Make the evaluation of a layer for a block of steps; `finish` does what the neurons of a row do with the sums."""

    @compiled
    def advance(layer: Any, arrays: Arrays, sums: Any, steps: int, fresh: bool, inverted: bool) -> None:
        """Go row by row: a row of neurons is finished once its last input row is spread."""
        masks, first = arrays.masks, layer.source
        if layer.delay:
            delay_spikes(layer, arrays.masks, arrays.pending, arrays.arriving, steps, fresh)
            masks, first = arrays.arriving, 0
        opened, closed = np.int64(0), np.int64(0)
        for y in range(layer.height):
            while opened < layer.out_rows and arrays.tables[layer.opens + opened] <= y:
                if inverted:
                    start = opened % layer.ring * layer.slot + 16 * layer.stride
                    for i in range(layer.stride):
                        sums[start + i] = arrays.all_on[layer.all_on + opened * layer.stride + i]
                opened += 1
            if layer.dense:
                spread_dense(layer, arrays, sums, masks, first, steps, inverted)
            else:
                spread(layer, arrays, sums, masks, first + y * layer.source_stride, y, steps, inverted)
            while closed < opened and arrays.tables[layer.closes + closed] <= y:
                finish(layer, arrays, closed % layer.ring * layer.slot, closed, steps, fresh)
                closed += 1

    return advance


advance, advance_wide = _make_advance(_finish_narrow), _make_advance(_finish_wide)


@compiled
def count(layer: Any, tables: Any, masks: Any, kept: Any, events: Any) -> None:
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


@compiled
def settled(scores: Any, margin: int) -> bool:
    """Tell whether the best score leads the second best by `margin`."""
    best = second = np.int64(-(1 << 62))
    for score in scores:
        if score > best:
            best, second = score, best
        elif score > second:
            second = score
    return bool(best - second >= margin and scores.size > 1)


@compiled
def score(last: Any, arrays: Arrays, scores: Any, steps: int, margin: int) -> tuple[int, bool]:
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


@entry
def run(
    arrays: Arrays, neuron: Any, bias: Any, start: int, stop: int, block: int, margin: int, direct: bool, result: Result
) -> bool:
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
                    advance_wide(layer, arrays, arrays.wide_sums, steps, fresh, flip)
                else:
                    advance(layer, arrays, arrays.sums, steps, fresh, flip)
            steps, done = score(last, arrays, result.scores[image], steps, margin)
            kept = np.uint16((1 << steps) - 1)
            for index in range(layers.size):
                count(layers[index], arrays.tables, arrays.masks, kept, result.events[index])
            if last.kind != SUMMING:
                for i in range(arrays.score_positions.size):
                    fired = arrays.masks[last.neurons + arrays.score_positions[i]] & kept
                    result.events[layers.size, 0] += np.int64(ones(uint64(fired)))
            step += steps
        result.steps[image] = step
    return done
