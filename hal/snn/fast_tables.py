"""Fill the arrays that the kernels of the fast engine work on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hal.snn.fast_kernels import FIRING, LAYER, SUMMING, Arrays, Input, draw_trains
from hal.snn.fast_layout import BLOCK, Rows, Runs, as_conv, place, sum_bounds, trace_runs
from hal.snn.network import DECAY_UNITY, STATE_LIMIT, THRESHOLD_SHIFT, Lif

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.network import Encoder, Layer, Network, Synapse

    Integers = NDArray[np.int64]

# Sums up to here keep a current within one fold of 24 bits and every state within 32 bits.
SUM_LIMIT = 1 << 18
TRAINS_LIMIT = 1 << 14
TRAIN_BLOCKS = 4
MASK_READ = 64


class Filler:
    """Collects the tables, weights and neurons of all layers, one layer after the other."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.places = place(network)
        self.offsets: list[int] = []
        self.tables: list[NDArray[np.uint32]] = []
        self.weights: list[NDArray[np.int16]] = []
        self.all_on: list[NDArray[np.int16]] = []
        self.biases: list[NDArray[np.int32]] = []
        self.sizes = {name: 0 for name in ("tables", "weights", "all_on", "state", "totals", "masks", "pending", "arriving")}
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
        assert layer.synapse is not None
        runs = trace_runs(as_conv(layer.synapse, before.shape, source), source, target)
        record["source"], record["source_stride"] = self.offsets[index - 1], source.stride
        record["height"], record["row"], record["channels"] = source.height, source.width * source.channels, source.channels
        record["neurons"], record["out_rows"], record["stride"] = self.offsets[index], target.height, target.stride
        record["slot"], record["ring"] = (BLOCK + 1) * target.stride, runs.open_rows
        record["delay"] = layer.delay
        if layer.delay:
            record["pending"] = self._reserve("pending", source.size)
            self.sizes["arriving"] = max(self.sizes["arriving"], source.size)
        self._fill_synapses(record, runs, source, layer.synapse, first=index == 1)
        self._fill_neurons(record, layer, target)

    def _fill_synapses(self, record: Any, runs: Runs, source: Rows, synapse: Synapse, *, first: bool) -> None:
        lowest, highest = sum_bounds(synapse)
        halved = not (runs.weight & 1).any()
        record["wide"] = not (-(1 << 15) <= lowest >> halved and highest >> halved < 1 << 15)
        record["shift"] = halved and not record["wide"]
        self.ring[record["wide"]] = max(self.ring[record["wide"]], int(record["ring"] * record["slot"]))
        weight = runs.weight >> record["shift"]
        record["weight"] = self._reserve("weights", weight.size)
        self.weights.append(weight.ravel())
        record["channel_stride"] = weight.shape[1] * weight.shape[2]
        width = np.arange(source.width)
        record["columns"] = self._table(np.repeat(width, source.channels))
        record["fans"] = self._table(np.repeat(runs.fan_columns, source.channels) * runs.group_out)
        record["column_runs"] = self._table([part for column in runs.columns for run in column for part in run])
        record["column_ends"] = self._table(np.cumsum([0, *(len(column) for column in runs.columns)]))
        rows = [
            (tap * weight.shape[2], output % record["ring"] * record["slot"]) for row in runs.rows for tap, output in row
        ]
        record["row_runs"] = self._table(rows)
        record["row_ends"] = self._table(np.cumsum([0, *(len(row) for row in runs.rows)]))
        record["opens"], record["closes"] = self._table(runs.opens), self._table(runs.closes)
        grouped = runs.group_in != source.channels
        record["group_in"], record["group_out"] = runs.group_in, runs.group_out if grouped else 0
        record["all_on"] = -1
        if first and not record["wide"] and not record["delay"]:
            record["all_on"] = self._reserve("all_on", int(record["out_rows"] * record["stride"]))
            self.all_on.append(_all_on(record, runs, weight).ravel())

    def _fill_neurons(self, record: Any, layer: Layer, target: Rows) -> None:
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
        record["kind"] = FIRING
        record["threshold"] = neuron.threshold << THRESHOLD_SHIFT
        record["soft"] = neuron.reset == "subtract"
        record["initial"] = neuron.initial_voltage
        record["current_memory"] = neuron.current_decay != DECAY_UNITY
        record["current_kept"] = DECAY_UNITY - neuron.current_decay
        kept, shift = DECAY_UNITY - neuron.voltage_decay, 12
        while kept % 2 == 0 and shift:
            kept, shift = kept // 2, shift - 1
        record["voltage_kept"], record["voltage_shift"] = kept, shift
        record["voltage_split"] = kept * (STATE_LIMIT + 1) + (1 << shift) > np.iinfo(np.int32).max
        if record["voltage_split"]:
            record["voltage_kept"] = DECAY_UNITY - neuron.voltage_decay

    def arrays(self) -> tuple[Arrays, Input]:
        """Give the arrays, and the numbers of the input neurons."""
        first, last = self.network.layers[0], self.network.layers[-1]
        bias = np.zeros(first.size, np.int64) if first.bias is None else first.bias.ravel().astype(np.int64)
        neuron, columns = _input(first, self.network.encoder, bias)
        trains = np.zeros((TRAIN_BLOCKS, columns), np.int32)
        draw_trains(neuron, trains)
        arrays = Arrays(
            layers=self.records,
            tables=_join(self.tables, np.uint32),
            weights=_join(self.weights, np.int16),
            all_on=_join(self.all_on, np.int16),
            sums=np.zeros(self.ring[0], np.int16),
            wide_sums=np.zeros(self.ring[1], np.int32),
            masks=np.zeros(self.sizes["masks"] + MASK_READ, np.uint16),
            arriving=np.zeros(self.sizes["arriving"] + MASK_READ, np.uint16),
            pending=np.zeros(self.sizes["pending"], np.uint64),
            u=np.zeros(self.sizes["state"], np.int32),
            v=np.zeros(self.sizes["state"], np.int32),
            bias=_join(self.biases, np.int32),
            totals=np.zeros(self.sizes["totals"], np.int64),
            series=np.zeros((BLOCK, self.places[-1].size), np.int64),
            input_positions=self.offsets[0] + self.places[0].positions(first.shape),
            input_bias=bias,
            input_v=np.zeros(first.size, np.int64),
            trains=trains,
            score_positions=self.places[-1].positions(last.shape),
            events=np.zeros((len(self.network.layers), 2), np.int64),
        )
        return arrays, neuron

    def state(self, arrays: Arrays, index: int) -> tuple[Integers, Integers, Integers]:
        """Give spikes, u and v of a layer after a run of one step."""
        layer = self.network.layers[index]
        positions = self.places[index].positions(layer.shape)
        spikes = arrays.masks[self.offsets[index] + positions].astype(np.int64)
        if index == 0:
            return spikes, np.zeros_like(spikes), arrays.input_v.copy()
        record = self.records[index - 1]
        if record["kind"] == SUMMING:
            return spikes, arrays.totals[record["totals"] + positions], np.zeros_like(spikes)
        at = record["state"] + positions
        return spikes, arrays.u[at].astype(np.int64), arrays.v[at].astype(np.int64)


def _join(parts: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)


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


def _input(layer: Layer, encoder: Encoder, bias: Integers) -> tuple[Input, int]:
    """Give the numbers of the input neurons, and how many different biases pictures can bring."""
    neuron = layer.neuron
    assert isinstance(neuron, Lif)
    ends = sorted(int(np.trunc(sign * encoder.scale + encoder.offset)) for sign in (-1, 1))
    lowest, highest = ends[0] + int(bias.min()), ends[1] + int(bias.max())
    numbers = Input(
        neuron.threshold << THRESHOLD_SHIFT, neuron.reset == "subtract", neuron.initial_voltage,
        DECAY_UNITY - neuron.voltage_decay, neuron.bias_exponent, lowest,
    )  # fmt: skip
    return numbers, min(highest - lowest + 1, TRAINS_LIMIT)
