"""Lay a network out for the kernels of the fast engine: flat tables, padded rows, weights in the order of their use.

Neurons lie in rows: (y, x, channel) with each y row padded to a multiple of 32. The neurons of a layer that feeds a
dense layer, and of a dense layer, lie in a single row in (C, H, W) order. Every synapse is a cross-correlation: a
dense layer is one with a kernel as large as its input.

A spike at (y, x, channel) adds to a few *runs* of neighbouring neurons. Its *row runs* are the pairs (ky, y') of kernel
row and output row, the same for a whole y. Its *column runs* are contiguous stretches of x' and output channels with
their weights in that very order, the same for a whole x; weights are stored once for each distinct stretch, padded
with zeros to a multiple of sixteen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hal.snn.network import Conv, Dense, SumPool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.network import Network, Synapse

LANES = 16
ROW = 32
BLOCK = 16
"""The most steps that the kernels evaluate at once: one bit each in a 16-bit mask."""


class Result(NamedTuple):
    """What a run fills: `scores` (N, classes), `steps` (N,), `events` (layers, 2), all int64.

    The events of a layer are its spikes and the synaptic operations that they cause in the next layer.
    """

    scores: NDArray[np.int64]
    steps: NDArray[np.int64]
    events: NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Where the neurons of a layer lie: `height` rows of `width` columns of `channels` neurons, `stride` apart."""

    height: int
    width: int
    channels: int

    @property
    def stride(self) -> int:
        """Give the length of a padded row; the last sixteen elements of a run may reach into the padding."""
        return -(-(self.width * self.channels + LANES - 1) // ROW) * ROW

    @property
    def size(self) -> int:
        """Count the elements of all rows, padding included."""
        return self.height * self.stride

    def positions(self, shape: tuple[int, int, int]) -> NDArray[np.int64]:
        """Give the element of each neuron, which come in (C, H, W) order."""
        channels, height, width = shape
        if self.height == 1 and self.width == 1:
            return np.arange(channels * height * width)
        row = np.arange(height)[None, :, None] * self.stride + np.arange(width)[None, None, :] * channels
        return (row + np.arange(channels)[:, None, None]).ravel()


@dataclass(frozen=True)
class Runs:
    """The synapses between two layers as the module's docstring explains them.

    `weight` is (input channels, kH, stretch). `columns` has for each x the (offset in the output row, offset in the
    stretch, length in sixteens) of its runs, `rows` for each y its (ky, y').
    """

    weight: NDArray[np.int16]
    columns: list[list[tuple[int, int, int]]]
    rows: list[list[tuple[int, int]]]
    fan_columns: NDArray[np.int64]
    group_in: int
    group_out: int
    opens: list[int]
    closes: list[int]

    @property
    def open_rows(self) -> int:
        """Count the output rows that may be under way at once when the input rows come in order."""
        opened = np.searchsorted(self.opens, self.closes, side="right")
        return int((opened - np.arange(len(opened))).max())


def place(network: Network) -> list[Rows]:
    """Choose the rows of every layer."""
    rows = []
    for layer, after in zip(network.layers, (*network.layers[1:], None)):
        channels, height, width = layer.shape
        flat = isinstance(layer.synapse, Dense) or (
            layer.synapse is None and after is not None and isinstance(after.synapse, Dense)
        )
        rows.append(Rows(1, 1, layer.size) if flat else Rows(height, width, channels))
    return rows


def as_conv(synapse: Synapse, shape: tuple[int, int, int], source: Rows) -> Conv:
    """Give any synapse from a layer of `shape` that lies in `source` as a cross-correlation."""
    if isinstance(synapse, Conv):
        return synapse
    if isinstance(synapse, SumPool):
        weight = np.full((shape[0], 1, *synapse.kernel), synapse.weight, np.int16)
        return Conv(weight, synapse.stride, (0, 0), (1, 1), shape[0])
    if source.height == source.width == 1:
        return Conv(synapse.weight.reshape(len(synapse.weight), -1, 1, 1))
    return Conv(synapse.weight.reshape(len(synapse.weight), *shape))


def trace_runs(conv: Conv, source: Rows, target: Rows) -> Runs:
    """Find the runs of a cross-correlation."""
    outputs, group_in, kernel_height, kernel_width = conv.weight.shape
    group_out = outputs // conv.groups
    reached = [
        _reached(x, target.width, kernel_width, conv.stride[1], conv.padding[1], conv.dilation[1])
        for x in range(source.width)
    ]
    stretches: dict[tuple[int, ...], int] = {}
    columns = []
    length = 0
    for taps in reached:
        runs = []
        for stretch in _contiguous(taps) if conv.groups == 1 else [[tap] for tap in taps]:
            order = tuple(tap for tap, _ in stretch)
            sixteens = -(-len(order) * group_out // LANES)
            if order not in stretches:
                stretches[order] = length
                length += -(-sixteens * LANES // ROW) * ROW
            runs.append((stretch[0][1] * outputs, stretches[order], sixteens))
        columns.append(runs)
    weight = np.zeros((source.channels, kernel_height, length), np.int16)
    # (group, out, in, ky, kx) becomes (group, in, ky, kx, out).
    parts = conv.weight.reshape(conv.groups, group_out, group_in, kernel_height, kernel_width).transpose(0, 2, 3, 4, 1)
    flat = parts.reshape(source.channels, kernel_height, kernel_width, group_out)
    for order, offset in stretches.items():
        chosen = flat[:, :, list(order), :].reshape(source.channels, kernel_height, -1)
        weight[:, :, offset : offset + chosen.shape[2]] = chosen
    step, pad, gap = conv.stride[0], conv.padding[0], conv.dilation[0]
    rows = [_reached(y, target.height, kernel_height, step, pad, gap) for y in range(source.height)]
    last = source.height - 1
    return Runs(
        weight, columns, rows, np.array([len(taps) for taps in reached]), group_in, group_out,
        [min(max(y * step - pad, 0), last) for y in range(target.height)],
        [min(max(y * step - pad + (kernel_height - 1) * gap, 0), last) for y in range(target.height)],
    )  # fmt: skip


def _reached(place: int, extent: int, kernel: int, stride: int, padding: int, dilation: int) -> list[tuple[int, int]]:
    """Give (tap, output) of one axis for an input at `place`, by ascending output."""
    taps = np.arange(kernel)[::-1]
    outputs, rest = np.divmod(place + padding - taps * dilation, stride)
    hit = (rest == 0) & (outputs >= 0) & (outputs < extent)
    return list(zip(taps[hit].tolist(), outputs[hit].tolist()))


def _contiguous(taps: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Split where the outputs are not neighbours."""
    stretches: list[list[tuple[int, int]]] = []
    for tap in taps:
        if stretches and stretches[-1][-1][1] + 1 == tap[1]:
            stretches[-1].append(tap)
        else:
            stretches.append([tap])
    return stretches


def sum_bounds(synapse: Synapse) -> tuple[int, int]:
    """Give the lowest and the highest sum that binary spikes can bring to a neuron."""
    if isinstance(synapse, SumPool):
        total = synapse.weight * synapse.kernel[0] * synapse.kernel[1]
        return min(total, 0), max(total, 0)
    weight = synapse.weight.reshape(len(synapse.weight), -1).astype(np.int64)
    return int(np.minimum(weight, 0).sum(axis=1).min()), int(np.maximum(weight, 0).sum(axis=1).max())
