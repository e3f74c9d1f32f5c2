"""The compiled loops of the fast engine: spikes as one 16-bit mask of time steps per neuron."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from hal.snn.fast_lanes import (
    differing,
    greater,
    larger,
    load8,
    load16,
    load32,
    load64,
    lowest,
    ones,
    smaller,
    splat8,
    splat16,
    store,
    widen,
)
from hal.snn.fast_layout import Result
from hal.snn.fast_tables import FIRING, LISTED, SUMMING
from hal.snn.network import STATE_LIMIT

SPAN = STATE_LIMIT + 1


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


def _make_apply(adding):
    """Make the loops that add weights to sums, or subtract them."""

    @njit(nogil=True, error_model="numpy")
    def combine(sums, weights):
        return sums + weights if adding else sums - weights

    @njit(nogil=True, error_model="numpy")
    def apply_runs(sums, offset, targets, weights, row, starts, first, end, sixteens):
        """Apply runs of weights, each `sixteens` times sixteen long, to the runs of sums at `targets`."""
        for k in range(first, end):
            target = offset + uint64(targets[k])
            start = row + uint64(starts[k])
            for _ in range(sixteens >> uint64(2)):
                store(sums, target, combine(load64(sums, target), widen(load64(weights, start), sums)))
                target += uint64(64)
                start += uint64(64)
            if sixteens & uint64(2):
                store(sums, target, combine(load32(sums, target), widen(load32(weights, start), sums)))
                target += uint64(32)
                start += uint64(32)
            if sixteens & uint64(1):
                store(sums, target, combine(load16(sums, target), widen(load16(weights, start), sums)))

    @njit(nogil=True, error_model="numpy")
    def apply_rows(sums, target, weights, starts, count, sixteens):
        """Apply `count` rows of weights to one row of sums, which stays in registers piece by piece."""
        end = target + sixteens * uint64(16)
        at = uint64(0)
        while target + uint64(128) <= end:
            left, right = load64(sums, target), load64(sums, target + uint64(64))
            for k in range(count):
                start = uint64(starts[k]) + at
                left = combine(left, widen(load64(weights, start), sums))
                right = combine(right, widen(load64(weights, start + uint64(64)), sums))
            store(sums, target, left)
            store(sums, target + uint64(64), right)
            target += uint64(128)
            at += uint64(128)
        while target < end:
            piece = load16(sums, target)
            for k in range(count):
                piece = combine(piece, widen(load16(weights, uint64(starts[k]) + at), sums))
            store(sums, target, piece)
            target += uint64(16)
            at += uint64(16)

    return apply_runs, apply_rows


add_runs, add_rows = _make_apply(True)
subtract_runs, subtract_rows = _make_apply(False)


@njit(nogil=True, error_model="numpy")
def flush(layer, arrays, sums, y):
    """Apply the listed events to all open rows that input row `y` reaches, and empty the lists."""
    for bucket in range(uint64(layer.buckets)):
        sixteens = uint64(arrays.tables[uint64(layer.bucket_sixteens) + bucket])
        adding = bucket * uint64(LISTED)
        subtracting = (bucket + uint64(layer.buckets)) * uint64(LISTED)
        for run in range(arrays.tables[layer.row_ends + y], arrays.tables[layer.row_ends + y + 1]):
            at = uint64(layer.row_runs) + uint64(run) * uint64(2)
            row = uint64(arrays.tables[at])
            offset = uint64(arrays.tables[at + uint64(1)])
            add_runs(
                sums, offset, arrays.targets, arrays.weights, row, arrays.starts,
                adding, uint64(arrays.listed[bucket]), sixteens,
            )  # fmt: skip
            subtract_runs(
                sums, offset, arrays.targets, arrays.weights, row, arrays.starts,
                subtracting, uint64(arrays.listed[bucket + uint64(layer.buckets)]), sixteens,
            )  # fmt: skip
    empty(layer, arrays.listed)


@njit(nogil=True, error_model="numpy")
def empty(layer, listed):
    """Empty the lists of events."""
    for bucket in range(2 * layer.buckets):
        listed[bucket] = bucket * LISTED


@njit(nogil=True, error_model="numpy")
def list_events(arrays, bucket, mask, target, start, stride):
    """List an event for every step in `mask`, eight steps at a time so that nothing depends on their number."""
    end = uint64(arrays.listed[bucket])
    weights = splat8(np.uint32(start))
    strides = splat8(np.uint32(stride))
    for half in range(uint64(2)):
        steps = mask >> (half * uint64(8)) & uint64(255)
        at = splat8(np.uint32(target + half * uint64(8) * stride))
        store(arrays.targets, end, load8(arrays.set_bits, steps * uint64(8)) * strides + at)
        store(arrays.starts, end, weights)
        end += ones(steps)
    arrays.listed[bucket] = end


@njit(nogil=True, error_model="numpy")
def spread(layer, arrays, sums, masks, first, y, steps, inverted):
    """Add the synapses of all spikes in input row `y`, whose masks start at `first`, to the sums of the open rows.

    With `inverted` the sums already hold the weights of all neurons at all steps, and silence is subtracted. A neuron
    that fires in most steps adds to the sum that all steps share and is subtracted in the others.
    """
    tables = arrays.tables
    every = uint64((1 << steps) - 1)
    flip = every if inverted else uint64(0)
    stride = uint64(layer.stride)
    adding, subtracting = uint64(0), uint64(layer.buckets)
    if inverted:
        adding, subtracting = subtracting, adding
    room = uint64(LISTED)
    empty(layer, arrays.listed)
    for chunk in range(0, layer.row, 64):
        word = differing(masks, uint64(first + chunk), np.uint16(flip))
        if chunk + 64 > layer.row:
            word &= (uint64(1) << uint64(layer.row - chunk)) - uint64(1)
        if room < uint64(layer.most_listed):
            flush(layer, arrays, sums, y)
            room = uint64(LISTED)
        room -= ones(word) * uint64(layer.most_listed // 64)
        while word:
            n = uint64(chunk) + lowest(word)
            word &= word - uint64(1)
            mask = uint64(masks[uint64(first) + n]) ^ flip
            x = uint64(tables[uint64(layer.columns) + n])
            channel = n - x * uint64(layer.channels)
            into = uint64(0)
            if layer.group_out:
                into = channel // uint64(layer.group_in) * uint64(layer.group_out)
            turned = ones(mask) * uint64(2) > uint64(steps + 1)
            for run in range(tables[uint64(layer.column_ends) + x], tables[uint64(layer.column_ends) + x + uint64(1)]):
                at = uint64(layer.column_runs) + uint64(run) * uint64(3)
                target = uint64(tables[at]) + into
                start = uint64(layer.weight) + channel * uint64(layer.channel_stride) + tables[at + uint64(1)]
                bucket = uint64(tables[at + uint64(2)])
                if turned:
                    list_events(arrays, bucket + adding, uint64(1), target + uint64(16) * stride, start, stride)
                    list_events(arrays, bucket + subtracting, mask ^ every, target, start, stride)
                else:
                    list_events(arrays, bucket + adding, mask, target, start, stride)
    flush(layer, arrays, sums, y)


@njit(nogil=True, error_model="numpy")
def spread_dense(layer, arrays, sums, masks, steps, inverted):
    """Do for a dense layer what `spread` does, step by step, so that sums can stay in registers."""
    every = uint64((1 << steps) - 1)
    flip = every if inverted else uint64(0)
    stride = uint64(layer.stride)
    sixteens = uint64(arrays.tables[layer.bucket_sixteens])
    straight = turned = uint64(0)
    for chunk in range(0, layer.row, 64):
        word = differing(masks, uint64(chunk), np.uint16(flip))
        if chunk + 64 > layer.row:
            word &= (uint64(1) << uint64(layer.row - chunk)) - uint64(1)
        while word:
            n = uint64(chunk) + lowest(word)
            word &= word - uint64(1)
            mask = uint64(masks[n]) ^ flip
            start = uint64(layer.weight) + n * uint64(layer.channel_stride)
            if ones(mask) * uint64(2) > uint64(steps + 1):
                arrays.turned_starts[turned] = start
                arrays.turned_masks[turned] = mask ^ every
                turned += uint64(1)
            else:
                arrays.straight_starts[straight] = start
                arrays.straight_masks[straight] = mask
                straight += uint64(1)
    apply_steps(
        sums, arrays, arrays.straight_starts, arrays.straight_masks, straight, steps, stride, sixteens, not inverted
    )
    if turned:
        apply_step(sums, uint64(16) * stride, arrays.weights, arrays.turned_starts, turned, sixteens, not inverted)
        apply_steps(
            sums, arrays, arrays.turned_starts, arrays.turned_masks, turned, steps, stride, sixteens, inverted
        )  # fmt: skip


@njit(nogil=True, error_model="numpy")
def apply_step(sums, target, weights, starts, count, sixteens, adding):
    """Add rows of weights to a row of sums, or subtract them."""
    if adding:
        add_rows(sums, target, weights, starts, count, sixteens)
    else:
        subtract_rows(sums, target, weights, starts, count, sixteens)


@njit(nogil=True, error_model="numpy")
def apply_steps(sums, arrays, starts, masks, count, steps, stride, sixteens, adding):
    """Apply to the sums of each step the rows of weights whose mask has that step."""
    for step in range(uint64(steps)):
        chosen = uint64(0)
        for i in range(count):
            arrays.starts[chosen] = starts[i]
            chosen += uint64(masks[i]) >> step & uint64(1)
        apply_step(sums, step * stride, arrays.weights, arrays.starts, chosen, sixteens, adding)


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


_fire = _make_fire(False, False)
_fire_split = _make_fire(False, True)
_fire_memory = _make_fire(True, False)
_fire_memory_split = _make_fire(True, True)


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
            _fire_memory_split(layer, sums, slot, row, u, v, bias, masks, steps, fresh)
        else:
            _fire_memory(layer, sums, slot, row, u, v, bias, masks, steps, fresh)
    elif layer.voltage_split:
        _fire_split(layer, sums, slot, row, u, v, bias, masks, steps, fresh)
    else:
        _fire(layer, sums, slot, row, u, v, bias, masks, steps, fresh)


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
