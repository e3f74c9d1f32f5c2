"""Measure a network on images: its accuracy, and the mean counts that its energy is priced from.

Spiking networks run in the daemon's own engine, on as many threads as there are cores.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hal.artifact import OperatingPoint
from hal.energy.loihi import Events, dynamic_joules, sum_events
from hal.snn import fast, reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hal.snn.network import Network

    Integers = NDArray[np.int64]

# What one thread takes at a time.
BATCH = 32


@dataclass(frozen=True)
class Outcome:
    """What a network did with N images: `scores` (N, classes), `steps` (N,) taken, and the events of each layer."""

    scores: Integers
    steps: Integers
    layers: tuple[Events, ...]


class Bench:
    """A spiking network ready to run on many images at once."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._engines = [fast.compile_network(network) for _ in range(os.cpu_count() or 1)]

    def encode(self, pictures: NDArray[np.floating]) -> Integers:
        """Give the input's bias currents (N, C, H, W) for pictures in [0, 1]."""
        return reference.encode(self.network.encoder, pictures.reshape(len(pictures), *self.network.layers[0].shape))

    def run(self, bias: Integers, steps: int, margin: int = 0) -> Outcome:
        """Run N images for `steps` steps, or with a `margin` until the best score leads by it."""
        starts = range(0, len(bias), BATCH)
        free = list(self._engines)

        def work(start: int) -> fast.Run:
            engine = free.pop()
            try:
                return engine.run(bias[start : start + BATCH], steps, margin=margin or None)
            finally:
                free.append(engine)

        with ThreadPoolExecutor(len(free)) as pool:
            runs = list(pool.map(work, starts))
        return Outcome(
            np.concatenate([run.scores for run in runs]),
            np.concatenate([run.steps for run in runs]),
            tuple(sum_events(parts) for parts in zip(*(run.layers for run in runs), strict=True)),
        )


def accuracy(scores: NDArray[np.generic], labels: NDArray[np.int64]) -> float:
    """Give the share of images whose first largest score is that of their label."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def snn_points(
    network: Network, pictures: NDArray[np.float64], labels: NDArray[np.int64], ways: Sequence[tuple[int, int]]
) -> tuple[OperatingPoint, ...]:
    """Run (N, ...) pictures in [0, 1], once for each (steps, margin)."""
    bench = Bench(network)
    bias = bench.encode(pictures)
    return tuple(point(bench.run(bias, steps, margin), labels, steps, margin) for steps, margin in ways)


def point(outcome: Outcome, labels: NDArray[np.int64], steps: int, margin: int = 0) -> OperatingPoint:
    """Give an outcome as an operating point, with means per image."""
    total, images = sum_events(outcome.layers), len(labels)
    return OperatingPoint(
        accuracy=accuracy(outcome.scores, labels),
        steps=steps,
        margin=margin,
        mean_steps=float(outcome.steps.mean()) if margin else 0.0,
        synaptic_operations=total.synaptic_operations / images,
        active_updates=total.active_updates / images,
        inactive_updates=total.inactive_updates / images,
    )


def joules(measured: OperatingPoint) -> float:
    """Price the mean counts of an operating point: dynamic joules per image on the Loihi model."""
    return dynamic_joules(Events(measured.synaptic_operations, measured.active_updates, measured.inactive_updates))


def lead(network: Network, pictures: NDArray[np.floating], steps: int, share: float) -> int:
    """Give the margin by which the best score leads the second after `steps` steps on that share of pictures."""
    bench = Bench(network)
    ordered = np.sort(bench.run(bench.encode(pictures), steps).scores, axis=1)
    return int(np.quantile(ordered[:, -1] - ordered[:, -2], 1 - share))
