"""Place a network on Loihi 1: how many cores each layer takes, and which limit of the chip stands in the way.

A layer is cut into a grid of blocks of neighbouring channels, rows and columns, one block to a core, into as few as the
limits of a core allow. Dense weights are stored once per synapse, the kernel of a convolution once per core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np

from hal.errors import CapacityError
from hal.snn.network import Conv, Dense, Layer, Lif, Network, SumPool, Synapse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Shape = tuple[int, int, int]
    Counts = NDArray[np.int64]

# Loihi 1. Cores: M. Davies et al., "Loihi", IEEE Micro 38(1), 2018. A core's limits: nengo-loihi 1.1, block.py
# (MAX_COMPARTMENTS, MAX_IN_AXONS, MAX_OUT_AXONS, MAX_SYNAPSE_BITS), and alike in NxTF (B. Rueckauer et al., 2021).
CORES_PER_CHIP = 128
COMPARTMENTS_PER_CORE = 1024
AXONS_IN_PER_CORE = 4096
AXONS_OUT_PER_CORE = 4096
SYNAPSE_BYTES_PER_CORE = 128 * 1024
BYTES_PER_WEIGHT = 1
# Reset by subtraction is done by a second compartment that inhibits the first.
COMPARTMENTS_PER_SOFT_RESET_NEURON = 2


@dataclass(frozen=True)
class PlacedLayer:
    """A layer's share of the chip: `grid` blocks along channels, rows and columns, each on a core of its own."""

    name: str
    grid: tuple[int, int, int]

    @property
    def cores(self) -> int:
        """Count the layer's cores."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class Placement:
    """Where a network's layers are. No two layers share a core."""

    layers: tuple[PlacedLayer, ...]

    @property
    def cores(self) -> int:
        """Count the cores that are used."""
        return sum(layer.cores for layer in self.layers)

    @property
    def chips(self) -> int:
        """Count the chips that are used, each filled before the next."""
        return -(-self.cores // CORES_PER_CHIP)


def place(network: Network, chips: int = 1) -> Placement:
    """Assign the layers to cores. Raises `CapacityError` that names the layer and the limit that it breaks."""
    placed: list[PlacedLayer] = []
    targets = _no_targets(network.layers[-1].shape)
    for index in reversed(range(len(network.layers))):
        layer = network.layers[index]
        source = network.layers[index - 1].shape if index else (0, 0, 0)
        block = _Block(layer, source, targets)
        placed.insert(0, PlacedLayer(layer.name, _grid(block, CORES_PER_CHIP * chips)))
        targets = block.targets_of_sources(placed[0].grid)
    used = 0
    for part in placed:
        used += part.cores
        if used > CORES_PER_CHIP * chips:
            raise CapacityError(part.name, used, CORES_PER_CHIP * chips, "cores for this layer and those before it")
    return Placement(tuple(placed))


def _grid(block: _Block, cores: int) -> Shape:
    """Find the grid of fewest blocks that fit a core each, and among those the one with the fewest axons."""
    block.check(block.layer.shape)
    fewest = -(-block.compartments((1, 1, 1)) // COMPARTMENTS_PER_CORE)
    for count in range(fewest, cores + 1):
        fitting = [grid for grid in _grids(count, block.layer.shape) if block.fits(grid)]
        if fitting:
            return min(fitting, key=block.axons_in)
    raise CapacityError(block.layer.name, max(fewest, cores + 1), cores, "cores or more")


def _grids(count: int, shape: Shape) -> Iterator[Shape]:
    for channels in range(1, min(count, shape[0]) + 1):
        if count % channels:
            continue
        for rows in range(1, min(count // channels, shape[1]) + 1):
            columns, rest = divmod(count // channels, rows)
            if rest == 0 and columns <= shape[2]:
                yield (channels, rows, columns)


class _Block:
    """What the fullest core of a layer needs, by the grid into which the layer is cut.

    A neuron is connected where its channel, its row and its column are, so all counts are products over the axes.
    `targets` has for each index of an axis how many blocks of the layer behind it are reached.
    """

    def __init__(self, layer: Layer, source: Shape, targets: list[Counts]) -> None:
        self.layer = layer
        self._source = source
        self._targets = targets
        self._reach = [_reach(layer.synapse, axis, layer.shape, source) for axis in range(3)]

    def compartments(self, grid: Shape) -> int:
        """Count the compartments of the fullest core."""
        soft = isinstance(self.layer.neuron, Lif) and self.layer.neuron.reset == "subtract"
        neurons = math.prod(-(-extent // blocks) for extent, blocks in zip(self.layer.shape, grid))
        return neurons * (COMPARTMENTS_PER_SOFT_RESET_NEURON if soft else 1)

    def synapse_bytes(self, grid: Shape) -> int:
        """Count the bytes of the weights."""
        channels = -(-self.layer.shape[0] // grid[0])
        return channels * _weights_per_channel(self.layer.synapse) * BYTES_PER_WEIGHT

    def axons_in(self, grid: Shape) -> int:
        """Count the neurons of the layer before that reach the core."""
        return math.prod(int(self._touched(axis, grid).sum(axis=1).max()) for axis in range(3))

    def axons_out(self, grid: Shape) -> int:
        """Count the cores that each neuron reaches, summed over the neurons of the core."""
        return math.prod(
            int(np.add.reduceat(targets, _starts(extent, blocks)).max())
            for targets, extent, blocks in zip(self._targets, self.layer.shape, grid)
        )

    def _needs(self, grid: Shape) -> Iterator[tuple[int, int, str]]:
        yield self.compartments(grid), COMPARTMENTS_PER_CORE, "compartments on one core"
        yield self.synapse_bytes(grid), SYNAPSE_BYTES_PER_CORE, "bytes of synaptic memory on one core"
        yield self.axons_in(grid), AXONS_IN_PER_CORE, "axons into one core"
        yield self.axons_out(grid), AXONS_OUT_PER_CORE, "axons out of one core"

    def fits(self, grid: Shape) -> bool:
        """Tell whether the fullest core is within all limits."""
        return all(figure <= limit for figure, limit, _ in self._needs(grid))

    def check(self, grid: Shape) -> None:
        """Raise `CapacityError` for the first limit that the fullest core breaks."""
        for figure, limit, unit in self._needs(grid):
            if figure > limit:
                raise CapacityError(self.layer.name, figure, limit, unit)

    def _touched(self, axis: int, grid: Shape) -> NDArray[np.bool_]:
        """Tell which sources each block touches along an axis."""
        return np.logical_or.reduceat(self._reach[axis], _starts(self.layer.shape[axis], grid[axis]), axis=0)

    def targets_of_sources(self, grid: Shape) -> list[Counts]:
        """Count for each index of the layer before how many blocks of this one it reaches, axis by axis."""
        return [self._touched(axis, grid).sum(axis=0) for axis in range(3)]


def _no_targets(shape: Shape) -> list[Counts]:
    return [np.zeros(extent, np.int64) for extent in shape]


def _starts(extent: int, blocks: int) -> Counts:
    """Give where each of the blocks begins; they differ by one at most, the larger ones first."""
    sizes = np.full(blocks, extent // blocks)
    sizes[: extent % blocks] += 1
    starts: Counts = np.cumsum(sizes) - sizes
    return starts


def _reach(synapse: Optional[Synapse], axis: int, shape: Shape, source: Shape) -> NDArray[np.bool_]:
    """Tell along one axis which target (first index) is connected to which source."""
    extents = (shape[axis], source[axis])
    if synapse is None or isinstance(synapse, Dense):
        return np.broadcast_to(np.bool_(True), extents)
    target, origin = np.ogrid[: extents[0], : extents[1]]
    if axis == 0:
        groups = synapse.groups if isinstance(synapse, Conv) else shape[0]
        reach: NDArray[np.bool_] = target // (shape[0] // groups) == origin // (source[0] // groups)
        return reach
    side = axis - 1
    if isinstance(synapse, SumPool):
        kernel, padding, gap = synapse.kernel[side], 0, 1
    else:
        kernel, padding, gap = synapse.weight.shape[2 + side], synapse.padding[side], synapse.dilation[side]
    offset = origin - target * synapse.stride[side] + padding
    window: NDArray[np.bool_] = (offset >= 0) & (offset % gap == 0) & (offset // gap < kernel)
    return window


def _weights_per_channel(synapse: Optional[Synapse]) -> int:
    if synapse is None:
        return 0
    if isinstance(synapse, SumPool):
        return math.prod(synapse.kernel)
    return math.prod(synapse.weight.shape[1:])
