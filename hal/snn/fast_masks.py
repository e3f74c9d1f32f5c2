"""The state of a network whose spikes fit into masks, on which `hal.snn.fast_kernels` works."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Optional

import numpy as np

from hal.snn.fast_fire import draw_trains
from hal.snn.fast_kernels import run
from hal.snn.fast_layout import BLOCK, Result
from hal.snn.fast_tables import SUMMING, aligned, join
from hal.snn.network import DECAY_UNITY, THRESHOLD_SHIFT, Lif

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.fast_tables import Tables
    from hal.snn.network import Encoder, Layer

    Integers = NDArray[np.int64]

# A table of the spikes of every input that a picture can bring, as far as it stays small.
TRAINS_LIMIT = 1 << 14
TRAIN_BLOCKS = 4
# Steps evaluated at once where the run may end early.
MARGIN_BLOCK = 4
# The kernels read this many masks at once, past the last if need be.
MASK_READ = 64
# They write this many events at once.
LIST_WRITE = 8


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


class MaskState:
    """Keeps what one image at a time has reached."""

    def __init__(self, tables: Tables) -> None:
        first, last = tables.network.layers[0], tables.network.layers[-1]
        bias = np.zeros(first.size, np.int64) if first.bias is None else first.bias.ravel().astype(np.int64)
        self._input, columns = _input(first, tables.network.encoder, bias)
        trains = np.zeros((TRAIN_BLOCKS, columns), np.int32)
        draw_trains(self._input, trains)
        longest = max(layer.delay for layer in tables.network.layers)
        # The spikes under way and those of the block share 64 bits.
        self._block = next(block for block in (16, 8, 4, 2, 1) if longest + block <= 64)
        self._tables = tables
        active = tables.sizes["active"]
        lists = 2 * int(tables.records["buckets"].max())
        listed = lists * int(tables.records["list_size"].max()) + LIST_WRITE
        self._arrays = Arrays(
            layers=tables.records,
            tables=tables.joined_tables(),
            weights=tables.joined_weights(),
            set_bits=_set_bits(),
            targets=np.zeros(listed, np.uint32),
            starts=np.zeros(max(listed, active), np.uint32),
            listed=np.zeros(lists, np.uint64),
            straight_starts=np.zeros(active, np.uint32),
            straight_masks=np.zeros(active, np.uint32),
            turned_starts=np.zeros(active, np.uint32),
            turned_masks=np.zeros(active, np.uint32),
            all_on=join(tables.all_on, np.int16),
            sums=aligned(tables.ring[0], np.int16),
            wide_sums=aligned(tables.ring[1], np.int32),
            masks=aligned(tables.sizes["masks"] + MASK_READ, np.uint16),
            arriving=aligned(tables.sizes["arriving"] + MASK_READ, np.uint16),
            pending=np.zeros(tables.sizes["pending"], np.uint64),
            u=aligned(tables.sizes["state"], np.int32),
            v=aligned(tables.sizes["state"], np.int32),
            bias=join(tables.biases, np.int32),
            totals=np.zeros(tables.sizes["totals"], np.int64),
            series=np.zeros((BLOCK, tables.places[-1].size), np.int64),
            input_positions=tables.offsets[0] + tables.places[0].positions(first.shape),
            input_bias=bias,
            input_v=np.zeros(first.size, np.int64),
            trains=trains,
            score_positions=tables.places[-1].positions(last.shape),
        )

    def advance(
        self, bias: Integers, start: int, stop: int, margin: Optional[int], result: Result, *, direct: bool
    ) -> bool:
        """Run images from step `start` to `stop`, and tell whether the margin ended the last of them."""
        if margin is None:
            return bool(run(self._arrays, self._input, bias, start, stop, self._block, -1, direct, result))
        block = min(self._block, MARGIN_BLOCK)
        return bool(run(self._arrays, self._input, bias, start, stop, block, margin, direct, result))

    def look(self, index: int) -> tuple[Integers, Integers, Integers]:
        """Give spikes, u and v of a layer in (C, H, W) order after a run of one step."""
        tables, arrays = self._tables, self._arrays
        positions = tables.places[index].positions(tables.network.layers[index].shape)
        spikes = arrays.masks[tables.offsets[index] + positions].astype(np.int64)
        if index == 0:
            return spikes, np.zeros_like(spikes), arrays.input_v.copy()
        record = tables.records[index - 1]
        if record["kind"] == SUMMING:
            return spikes, arrays.totals[record["totals"] + positions], np.zeros_like(spikes)
        at = record["state"] + positions
        return spikes, arrays.u[at].astype(np.int64), arrays.v[at].astype(np.int64)


def _input(layer: Layer, encoder: Encoder, bias: Integers) -> tuple[Input, int]:
    """Give the numbers of the input neurons, and how many different biases pictures can bring."""
    neuron = layer.neuron
    if not isinstance(neuron, Lif):
        raise TypeError(f"{layer.name}: the input layer is a {type(neuron).__name__}, a Lif is needed")
    ends = sorted(int(np.trunc(sign * encoder.scale + encoder.offset)) for sign in (-1, 1))
    lowest, highest = ends[0] + int(bias.min()), ends[1] + int(bias.max())
    numbers = Input(
        neuron.threshold << THRESHOLD_SHIFT, neuron.reset == "subtract", neuron.initial_voltage,
        DECAY_UNITY - neuron.voltage_decay, neuron.bias_exponent, lowest,
    )  # fmt: skip
    return numbers, min(highest - lowest + 1, TRAINS_LIMIT)


def _set_bits() -> NDArray[np.uint32]:
    """Give for each byte the positions of the bits that are set, eight entries each."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return np.argsort(1 - bits, axis=1, kind="stable").astype(np.uint32).ravel()
