"""Arrivals and operating points on which the router is judged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from daemon.clock import NANO
from daemon.points import Point, points_of
from hal import artifact
from hal.device import Cost, Kind
from hal.open import open_device
from tests.daemon.builders import make_point

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RATE = 60.0
ZOO = Path(__file__).parents[2] / "models" / "zoo" / "digits" / "1"


def _poisson(rng: Generator, seconds: float) -> Floats:
    return _thinned(rng, seconds, RATE, lambda at: np.full(len(at), RATE))


def _mmpp(rng: Generator, seconds: float) -> Floats:
    """Two states with rates 1 to 9, left at random after ten seconds in the mean."""
    switches = np.cumsum(rng.exponential(10.0, int(seconds)))
    low = RATE / 5
    return _thinned(rng, seconds, 9 * low, lambda at: np.where(np.searchsorted(switches, at) % 2, 9 * low, low))


def _diurnal(rng: Generator, seconds: float) -> Floats:
    """A sine of 80 % with one period in the trace."""
    return _thinned(rng, seconds, 1.8 * RATE, lambda at: RATE * (1 + 0.8 * np.sin(2 * np.pi * at / seconds)))


def _bursts(rng: Generator, seconds: float) -> Floats:
    """Four times the usual rate in 12 of 60 seconds."""
    usual = RATE / (1 + 3 * 12 / 60)
    return _thinned(rng, seconds, 4 * usual, lambda at: np.where(at % 60 >= 48, 4 * usual, usual))


def _gamma(rng: Generator, seconds: float) -> Floats:
    """Independent gaps between arrivals, of a gamma distribution with a coefficient of variation of 4."""
    variation = 4.0
    gaps = rng.gamma(variation**-2, variation**2 / RATE, int(2 * RATE * seconds) + 1000)
    arrivals = np.cumsum(gaps)
    return arrivals[arrivals < seconds]


def _thinned(rng: Generator, seconds: float, largest: float, rate: Callable[[Floats], Floats]) -> Floats:
    """Draw a Poisson process of a rate that varies, out of one of its largest rate."""
    at = np.sort(rng.uniform(0, seconds, rng.poisson(largest * seconds)))
    kept: Floats = at[rng.uniform(0, largest, len(at)) < rate(at)]
    return kept


TRACES: dict[str, Callable[[Generator, float], Floats]] = {
    "poisson": _poisson, "mmpp": _mmpp, "diurnal": _diurnal, "bursts": _bursts, "gamma": _gamma,
}  # fmt: skip


def arrivals(trace: str, seed: int, seconds: float) -> NDArray[np.int64]:
    """Draw the moments of arrival in nanoseconds, in order."""
    rng = np.random.default_rng([seed, list(TRACES).index(trace)])
    return np.round(TRACES[trace](rng, seconds) * NANO).astype(np.int64)


class Host(NamedTuple):
    """Operating points, and of their devices the static watts, and what powering up costs those that may be down."""

    points: list[Point]
    static_watts: dict[str, float]
    reopening: dict[str, Cost]


def zoo_points() -> Host:
    """Give the shipped digits classifiers on both simulated accelerators."""
    host = Host([], {}, {})
    for driver, variant in (("loihi-sim", "snn"), ("ncs2-sim", "dnn")):
        device = open_device(driver, driver, threads=1, core_watts=1.0, time_limit_seconds=1.0)
        read = artifact.read(ZOO / variant)
        host.points.extend(points_of(read, device, device.load(read)))
        host.static_watts[driver] = device.static_watts()
        if reopening := device.reopening():
            host.reopening[driver] = reopening
        device.close()
    return host


def ladder_points() -> Host:
    """Give eight invented points on three devices whose accuracy has its price.

    Two of them are worth it at no price, as happens. An image may cost 2.5 times the mean.
    """
    figures = [
        ("chip", Kind.SNN, 4, 0.900, 0.4e-3, 1.0e-3),
        ("chip", Kind.SNN, 8, 0.940, 0.8e-3, 2.0e-3),
        ("chip", Kind.SNN, 16, 0.960, 1.6e-3, 3.5e-3),
        ("chip", Kind.SNN, 32, 0.970, 3.2e-3, 6.5e-3),
        ("stick", Kind.DNN, 1, 0.965, 3.0e-3, 2.5e-3),
        ("stick", Kind.DNN, 2, 0.984, 6.0e-3, 5.0e-3),
        ("card", Kind.DNN, 1, 0.980, 10.0e-3, 2.0e-3),
        ("card", Kind.DNN, 2, 0.992, 16.0e-3, 6.0e-3),
    ]
    points = [
        make_point(
            model="ladder", kind=kind, device=device, steps=steps, accuracy=accuracy,
            dynamic_nanojoules=round(joules * NANO), upper_nanojoules=round(2.5 * joules * NANO),
            seconds=seconds, service_seconds=seconds,
        )
        for device, kind, steps, accuracy, joules, seconds in figures
    ]  # fmt: skip
    reopening = {"stick": Cost(0.15, 0.2, 0.5), "card": Cost(0.3, 0.4, 0.8)}
    return Host(points, {"chip": 0.1, "stick": 0.3, "card": 0.6}, reopening)


POINTS = {"zoo": zoo_points, "ladder": ladder_points}
