"""The tables of a network that the kernels of the fast engine read: one record per layer, runs, weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hal.snn.fast_layout import BLOCK, Rows, Runs, as_conv, place, sum_bounds, trace_runs
from hal.snn.network import (
    BIAS_LIMIT,
    DECAY_UNITY,
    STATE_LIMIT,
    SYNAPSE_SHIFT,
    THRESHOLD_SHIFT,
    Accumulator,
    Dense,
    Lif,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.network import Layer, Network, Synapse

    Integers = NDArray[np.int64]

# Sums up to here keep a current within one fold of 24 bits and every state within 32 bits.
SUM_LIMIT = (1 << 17) - 1
# Neurons that only sum have no current: what arrives in a step must fit into 32 bits, their values have 64.
SUMMING_LIMIT = (1 << 31) - 1
# What `plain` neurons may reach as a product, with room for its rounding.
PRODUCT_LIMIT = (1 << 31) - (1 << 12)


LAYER = np.dtype(
    [
        (name, np.int64)
        for name in (
            # Where the spikes come from: offset of the masks, rows of `row` neurons `source_stride` apart.
            "source", "source_stride", "height", "row", "channels", "group_in", "group_out", "delay", "pending",
            # Tables and weights.
            "dense", "weight", "channel_stride", "columns", "column_runs", "column_ends", "buckets", "bucket_sixteens",
            "most_listed", "list_size", "row_runs", "row_ends", "fans", "opens", "closes", "ring", "slot", "all_on",
            "shift",
            # The neurons: `neurons` is the offset of masks, `state` that of voltages, currents and biases.
            "neurons", "out_rows", "stride", "state", "totals", "kind", "wide", "threshold", "soft", "initial",
            "current_kept", "voltage_kept", "voltage_shift",
        )
    ]
)  # fmt: skip
# How the neurons of a layer are advanced; see `hal.snn.fast_fire`.
PLAIN, LEAKY, GENERAL, SUMMING = range(4)
CACHE_LINE = 64
# How many events a list of the kernels holds, at least, before it is applied.
LIST_SIZE = 8192


class Tables:
    """Collects the tables, weights and neurons of all layers, one layer after the other."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.places = place(network)
        self.offsets: list[int] = []
        self.tables: list[NDArray[np.uint32]] = []
        self.weights: list[NDArray[np.int16]] = []
        self.all_on: list[NDArray[np.int16]] = []
        self.biases: list[NDArray[np.int32]] = []
        self.sizes = dict.fromkeys(
            ("tables", "weights", "all_on", "state", "totals", "masks", "pending", "arriving", "active"), 0
        )
        self.ring = [0, 0]
        self.records = np.zeros(len(network.layers) - 1, LAYER)
        for places in self.places:
            self.offsets.append(self._reserve("masks", places.size))
        for index in range(1, len(network.layers)):
            self._fill(index)

    def _reserve(self, name: str, size: int) -> int:
        offset = self.sizes[name]
        self.sizes[name] += size
        return offset

    def _table(self, values: Any) -> int:
        table = np.asarray(values, np.uint32).ravel()
        self.tables.append(table)
        return self._reserve("tables", table.size)

    def _fill(self, index: int) -> None:
        record = self.records[index - 1]
        before, layer = self.network.layers[index - 1 : index + 1]
        source, target = self.places[index - 1 : index + 1]
        if layer.synapse is None:
            raise TypeError(f"{layer.name}: it has no synapses")
        runs = trace_runs(as_conv(layer.synapse, before.shape, source), source, target)
        record["source"], record["source_stride"] = self.offsets[index - 1], source.stride
        record["height"], record["channels"] = source.height, source.channels
        record["row"] = source.width * source.channels
        record["neurons"], record["out_rows"], record["stride"] = self.offsets[index], target.height, target.stride
        record["slot"], record["ring"] = (BLOCK + 1) * target.stride, runs.open_rows
        record["delay"] = layer.delay
        if layer.delay:
            record["pending"] = self._reserve("pending", source.size)
            self.sizes["arriving"] = max(self.sizes["arriving"], source.size)
        self._fill_synapses(record, runs, source, layer.synapse, first=index == 1)
        self._fill_neurons(record, layer, target, sum_bounds(layer.synapse))

    def _fill_synapses(self, record: Any, runs: Runs, source: Rows, synapse: Synapse, *, first: bool) -> None:
        lowest, highest = sum_bounds(synapse)
        halved = not (runs.weight & 1).any()
        record["wide"] = not (lowest >> halved >= -(1 << 15) and highest >> halved < 1 << 15)
        record["shift"] = halved and not record["wide"]
        self.ring[record["wide"]] = max(self.ring[record["wide"]], int(record["ring"] * record["slot"]))
        weight = runs.weight >> record["shift"]
        record["weight"] = self._reserve("weights", weight.size)
        self.weights.append(weight.ravel())
        record["channel_stride"] = weight.shape[1] * weight.shape[2]
        width = np.arange(source.width)
        record["columns"] = self._table(np.repeat(width, source.channels))
        record["fans"] = self._table(np.repeat(runs.fan_columns, source.channels) * runs.group_out)
        lengths = sorted({sixteens for column in runs.columns for _, _, sixteens in column})
        record["buckets"], record["bucket_sixteens"] = len(lengths), self._table(lengths)
        # Of 64 neurons, each may list all steps, the shared sum, and scratch behind the last.
        record["most_listed"] = 64 * 18 * max(len(column) for column in runs.columns)
        record["list_size"] = max(LIST_SIZE, record["most_listed"])
        record["column_runs"] = self._table(
            [(at, stretch, lengths.index(sixteens)) for column in runs.columns for at, stretch, sixteens in column]
        )
        record["column_ends"] = self._table(np.cumsum([0, *(len(column) for column in runs.columns)]))
        rows = [
            (tap * weight.shape[2], output % record["ring"] * record["slot"])
            for row in runs.rows
            for tap, output in row
        ]
        record["row_runs"] = self._table(rows)
        record["row_ends"] = self._table(np.cumsum([0, *(len(row) for row in runs.rows)]))
        record["opens"], record["closes"] = self._table(runs.opens), self._table(runs.closes)
        grouped = runs.group_in != source.channels
        record["group_in"], record["group_out"] = runs.group_in, runs.group_out if grouped else 0
        record["dense"] = isinstance(synapse, Dense) and source.height == source.width == 1
        if record["dense"]:
            self.sizes["active"] = max(self.sizes["active"], source.channels)
        record["all_on"] = -1
        if first and not record["wide"] and not record["delay"]:
            record["all_on"] = self._reserve("all_on", int(record["out_rows"] * record["stride"]))
            self.all_on.append(_all_on(record, runs, weight).ravel())

    def _fill_neurons(self, record: Any, layer: Layer, target: Rows, sums: tuple[int, int]) -> None:
        record["state"] = self._reserve("state", target.size)
        bias: Integers = np.zeros(target.size, np.int64)
        if layer.bias is not None:
            bias[target.positions(layer.shape)] = layer.bias.ravel()
        if not isinstance(layer.neuron, Lif):
            record["kind"] = SUMMING
            record["totals"] = self._reserve("totals", target.size)
            self.biases.append(bias.astype(np.int32))
            return
        neuron = layer.neuron
        bias <<= neuron.bias_exponent
        padding = np.ones(target.size, bool)
        padding[target.positions(layer.shape)] = False
        # Keeps the padding silent whatever the initial voltage.
        bias[padding] = -max(neuron.initial_voltage, 0)
        self.biases.append(bias.astype(np.int32))
        record["threshold"] = neuron.threshold << THRESHOLD_SHIFT
        record["soft"] = neuron.reset == "subtract"
        record["initial"] = neuron.initial_voltage
        record["current_kept"] = DECAY_UNITY - neuron.current_decay
        record["voltage_kept"] = DECAY_UNITY - neuron.voltage_decay
        record["kind"] = GENERAL if record["current_kept"] or record["wide"] else LEAKY
        kept, shift = DECAY_UNITY - neuron.voltage_decay, 12
        while kept % 2 == 0 and shift:
            kept, shift = kept // 2, shift - 1
        deepest = _voltage_bound(neuron, sums, int(np.abs(bias).max()))
        if (
            record["kind"] == LEAKY
            and not record["soft"]
            and deepest <= min(STATE_LIMIT, PRODUCT_LIMIT // max(kept, 1))
        ):
            record["kind"], record["voltage_kept"], record["voltage_shift"] = PLAIN, kept, shift

    def joined_tables(self) -> NDArray[np.uint32]:
        """Give the tables of all layers."""
        return join(self.tables, np.uint32)

    def joined_weights(self) -> NDArray[np.int16]:
        """Give the weights of all layers."""
        return join(self.weights, np.int16)

    def fits(self) -> bool:
        """Tell whether masks and 32-bit states hold every neuron of the network."""
        layers = self.network.layers
        kinds = isinstance(layers[0].neuron, Lif) and all(
            isinstance(layer.neuron, (Lif, Accumulator)) for layer in layers
        )
        biases = [int(np.abs(layer.bias).max()) for layer in layers if layer.bias is not None]
        return kinds and all(_sums_fit(layer) for layer in layers[1:]) and max(biases, default=0) <= BIAS_LIMIT


def _sums_fit(layer: Layer) -> bool:
    """Tell whether no sum that binary spikes can bring is too large for the layer's neurons."""
    if layer.synapse is None:
        return True
    lowest, highest = sum_bounds(layer.synapse)
    return max(-lowest, highest) <= (SUM_LIMIT if isinstance(layer.neuron, Lif) else SUMMING_LIMIT)


def _voltage_bound(neuron: Lif, sums: tuple[int, int], bias: int) -> float:
    """Bound the magnitude of the voltage of a neuron whose current lasts one step and that resets to zero."""
    each_step = (max(-sums[0], sums[1]) << SYNAPSE_SHIFT) + bias
    start = abs(neuron.initial_voltage)
    above = (neuron.threshold << THRESHOLD_SHIFT) + start + each_step
    if not neuron.voltage_decay:
        return math.inf
    return max(above, start + each_step * DECAY_UNITY / neuron.voltage_decay)


def join(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """Put parts one after the other."""
    joined = aligned(sum(part.size for part in parts), dtype)
    if parts:
        np.concatenate(parts, out=joined)
    return joined


def aligned(size: int, dtype: Any) -> NDArray[Any]:
    """Give zeros that begin with a cache line: vectors that lie in two lines take twice as long to store."""
    item = np.dtype(dtype).itemsize
    room = np.zeros(size * item + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE
    return room[start : start + size * item].view(dtype)


def _all_on(record: Any, runs: Runs, weight: NDArray[np.int16]) -> NDArray[np.int16]:
    """Give the sums, in rows, when every source neuron fires."""
    channels, _, length = weight.shape
    groups = channels // runs.group_in
    total = weight.reshape(groups, runs.group_in, *weight.shape[1:]).sum(axis=1, dtype=np.int64)
    across = np.zeros((weight.shape[1], record["stride"] + length), np.int64)
    for column in runs.columns:
        for at, stretch, sixteens in column:
            for group in range(groups):
                start = at + group * runs.group_out
                across[:, start : start + sixteens * 16] += total[group, :, stretch : stretch + sixteens * 16]
    sums = np.zeros((record["out_rows"], record["stride"]), np.int64)
    for row in runs.rows:
        for tap, output in row:
            sums[output] += across[tap, : record["stride"]]
    return sums.astype(np.int16)
