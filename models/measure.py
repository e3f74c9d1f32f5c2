"""Measure a network on images it has not seen: its accuracy, and the mean counts that its energy is priced from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hal.artifact import OperatingPoint
from hal.energy.loihi import sum_events
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
    network: Network, pictures: NDArray[np.float64], labels: NDArray[np.int64], ways: Sequence[tuple[int, int]]
) -> tuple[OperatingPoint, ...]:
    """Run (N, ...) pictures in [0, 1] through the reference engine, once for each (steps, margin)."""
    bias = reference.encode(network.encoder, pictures.reshape(len(pictures), *network.layers[0].shape))
    return tuple(_snn_point(network, bias, labels, steps, margin) for steps, margin in ways)


def lead(network: Network, pictures: NDArray[np.float64], steps: int, share: float) -> int:
    """Give the margin by which the best score leads the second after `steps` steps on that share of pictures."""
    bias = reference.encode(network.encoder, pictures.reshape(len(pictures), *network.layers[0].shape))
    ordered = np.sort(reference.run(network, bias, steps).scores, axis=1)
    return int(np.quantile(ordered[:, -1] - ordered[:, -2], 1 - share))


def _snn_point(
    network: Network, bias: NDArray[np.int64], labels: NDArray[np.int64], steps: int, margin: int
) -> OperatingPoint:
    taken = reference.steps_until(network, bias, steps, margin) if margin else np.full(len(bias), steps)
    right, events = 0, []
    for count in np.unique(taken).tolist():
        chosen = np.flatnonzero(taken == count)
        for start in range(0, len(chosen), BATCH):
            part = chosen[start : start + BATCH]
            run = reference.run(network, bias[part], count)
            right += int((run.scores.argmax(axis=1) == labels[part]).sum())
            events.append(run.events)
    total = sum_events(events)
    return OperatingPoint(
        accuracy=right / len(bias),
        steps=steps,
        margin=margin,
        mean_steps=float(taken.mean()) if margin else 0.0,
        synaptic_operations=total.synaptic_operations / len(bias),
        active_updates=total.active_updates / len(bias),
        inactive_updates=total.inactive_updates / len(bias),
    )
