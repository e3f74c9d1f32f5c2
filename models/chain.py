"""A trained classifier as data: a chain of linear maps and poolings, most of them with a rectifier behind.

All arrays are float64. Images and activations are in (C, H, W) order; a flat vector of n values is (n, 1, 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Shape = tuple[int, int, int]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Dense:
    """An affine map of the flattened values: `weight` (out, in), `bias` (out, 1, 1)."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True)
class Conv:
    """Cross-correlation: `weight` (O, I / groups, kH, kW); pairs are (y, x).

    `bias` is (O, 1, 1), or (O, H, W) where it differs from place to place.
    """

    weight: Floats
    bias: Floats
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


Weighted = Dense | Conv


@dataclass(frozen=True)
class Pool:
    """The average or the largest of each window, channel by channel."""

    kind: Literal["average", "max"]
    kernel: Pair
    stride: Pair


@dataclass(frozen=True)
class Rectifier:
    """Negative values become 0, values above `ceiling` become `ceiling`.

    With `levels` above zero the rest is rounded to so many equal steps between 0 and `ceiling`, as quantisation-clip-
    floor-shift activations do (T. Bu et al., "Optimal ANN-SNN Conversion", ICLR 2022).
    """

    ceiling: float = math.inf
    levels: int = 0


@dataclass(frozen=True)
class Stage:
    """One operation, named after its node, with the rectifier behind it. `shape` is (C, H, W) of its values."""

    name: str
    operation: Weighted | Pool
    shape: Shape
    rectifier: Rectifier | None = None

    @property
    def size(self) -> int:
        """Count the values."""
        return math.prod(self.shape)

    @property
    def multiplies(self) -> int:
        """Count the multiply-accumulates of one image."""
        if isinstance(self.operation, Dense):
            return self.operation.weight.size
        if isinstance(self.operation, Conv):
            return math.prod(self.operation.weight.shape[1:]) * self.size
        return 0


@dataclass(frozen=True)
class Chain:
    """A classifier of pictures of `shape` (C, H, W). The last stage gives the scores and has no rectifier."""

    name: str
    shape: Shape
    stages: tuple[Stage, ...]

    @property
    def classes(self) -> int:
        """Count the scores."""
        return self.stages[-1].size

    @property
    def multiplies(self) -> int:
        """Count the multiply-accumulates of one image."""
        return sum(stage.multiplies for stage in self.stages)
