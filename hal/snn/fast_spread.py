"""The compiled loops of the fast engine that add the weights of spikes to the sums of the neurons they reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import uint64

from hal.snn.fast_compile import compiled
from hal.snn.fast_lanes import differing, load8, load16, load32, load64, lowest, ones, splat8, store, widen

if TYPE_CHECKING:
    from hal.snn.fast_masks import Arrays


@compiled
def _add(sums: Any, weights: Any) -> Any:
    return sums + weights


@compiled
def _subtract(sums: Any, weights: Any) -> Any:
    return sums - weights


def _make_runs(combine: Any) -> Any:
    """Make the loop that applies runs of weights, each `sixteens` times sixteen long, to the sums at `targets`."""

    @compiled
    def apply_runs(
        sums: Any, offset: int, targets: Any, weights: Any, row: int, starts: Any, first: int, end: int, sixteens: int
    ) -> None:
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

    return apply_runs


def _make_rows(combine: Any) -> Any:
    """Make the loop that applies `count` rows of weights to one row of sums, which stays in registers in pieces."""

    @compiled
    def apply_rows(sums: Any, target: Any, weights: Any, starts: Any, count: Any, sixteens: int) -> None:
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

    return apply_rows


add_runs, subtract_runs = _make_runs(_add), _make_runs(_subtract)
add_rows, subtract_rows = _make_rows(_add), _make_rows(_subtract)


@compiled
def flush(layer: Any, arrays: Arrays, sums: Any, y: int) -> None:
    """Apply the listed events to all open rows that input row `y` reaches, and empty the lists."""
    for bucket in range(uint64(layer.buckets)):
        sixteens = uint64(arrays.tables[uint64(layer.bucket_sixteens) + bucket])
        adding = bucket * uint64(layer.list_size)
        subtracting = (bucket + uint64(layer.buckets)) * uint64(layer.list_size)
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


@compiled
def empty(layer: Any, listed: Any) -> None:
    """Empty the lists of events."""
    for bucket in range(2 * layer.buckets):
        listed[bucket] = bucket * layer.list_size


@compiled
def list_events(arrays: Arrays, bucket: int, mask: Any, target: int, start: int, stride: int) -> None:
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


@compiled
def spread(layer: Any, arrays: Arrays, sums: Any, masks: Any, first: int, y: int, steps: int, inverted: bool) -> None:
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
    room = uint64(layer.list_size)
    empty(layer, arrays.listed)
    for chunk in range(0, layer.row, 64):
        word = differing(masks, uint64(first + chunk), np.uint16(flip))
        if chunk + 64 > layer.row:
            word &= (uint64(1) << uint64(layer.row - chunk)) - uint64(1)
        if room < uint64(layer.most_listed):
            flush(layer, arrays, sums, y)
            room = uint64(layer.list_size)
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


@compiled
def spread_dense(layer: Any, arrays: Arrays, sums: Any, masks: Any, first: int, steps: int, inverted: bool) -> None:
    """Do for a dense layer what `spread` does, step by step, so that sums can stay in registers."""
    every = uint64((1 << steps) - 1)
    flip = every if inverted else uint64(0)
    stride = uint64(layer.stride)
    sixteens = uint64(arrays.tables[layer.bucket_sixteens])
    straight = turned = uint64(0)
    for chunk in range(0, layer.row, 64):
        word = differing(masks, uint64(first + chunk), np.uint16(flip))
        if chunk + 64 > layer.row:
            word &= (uint64(1) << uint64(layer.row - chunk)) - uint64(1)
        while word:
            n = uint64(chunk) + lowest(word)
            word &= word - uint64(1)
            mask = uint64(masks[uint64(first) + n]) ^ flip
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


@compiled
def apply_step(sums: Any, target: int, weights: Any, starts: Any, count: Any, sixteens: int, adding: bool) -> None:
    """Add rows of weights to a row of sums, or subtract them."""
    if adding:
        add_rows(sums, target, weights, starts, count, sixteens)
    else:
        subtract_rows(sums, target, weights, starts, count, sixteens)


@compiled
def apply_steps(
    sums: Any, arrays: Arrays, starts: Any, masks: Any, count: Any, steps: int, stride: int, sixteens: int, adding: bool
) -> None:
    """Apply to the sums of each step the rows of weights whose mask has that step."""
    for step in range(uint64(steps)):
        chosen = uint64(0)
        for i in range(count):
            arrays.starts[chosen] = starts[i]
            chosen += uint64(masks[i]) >> step & uint64(1)
        apply_step(sums, step * stride, arrays.weights, arrays.starts, chosen, sixteens, adding)
