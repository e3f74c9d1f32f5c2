"""Measure a network on images it has not seen: its accuracy, and the mean counts that its energy is priced from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hal.artifact import OperatingPoint
from hal.snn import reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hal.snn.network import Network

BATCH = 256


def accuracy(scores: NDArray[np.generic], labels: NDArray[np.int64]) -> float:
    """Give the share of images whose first largest score is that of their label."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def snn_points(
    network: Network, pictures: NDArray[np.float64], labels: NDArray[np.int64], steps: Sequence[int]
) -> tuple[OperatingPoint, ...]:
    """Run (N, ...) pictures in [0, 1] through the reference engine, once for each number of steps."""
    bias = reference.encode(network.encoder, pictures.reshape(len(pictures), *network.layers[0].shape))
    return tuple(_snn_point(network, bias, labels, count) for count in steps)


def _snn_point(
    network: Network, bias: NDArray[np.int64], labels: NDArray[np.int64], steps: int
) -> OperatingPoint:  # fmt: skip
    runs = [reference.run(network, bias[start : start + BATCH], steps) for start in range(0, len(bias), BATCH)]
    return OperatingPoint(
        accuracy=accuracy(np.concatenate([run.scores for run in runs]), labels),
        steps=steps,
        synaptic_operations=sum(run.events.synaptic_operations for run in runs) / len(bias),
        active_updates=sum(run.events.active_updates for run in runs) / len(bias),
        inactive_updates=sum(run.events.inactive_updates for run in runs) / len(bias),
    )
