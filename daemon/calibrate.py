"""Measure what devices and their operating points draw: idle, saturated and at half load.

A device with meters is measured: static power while it idles, the rest while it works. One without is asked for its
model, which its figures then reproduce. Images run one at a time, as single requests do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from daemon.calibration import OFF, ON, DeviceFigures, Figures, PointFigures, StaticPower
from daemon.clock import NANO, Clock
from hal import samples
from hal.artifact import Artifact
from hal.device import Device, Program, Provenance
from hal.energy.epochs import Epoch, Epochs
from hal.errors import HalError
from hal.simulation import Pause

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.energy.meter import Meter

# A reservation of 2.5 times the mean never led to a window over its limit in simulated traffic, one of 1.5 times did:
# docs/router.md. No image that was seen may exceed it either.
BOUND_PER_MEAN = 2.5
# So many stretches of a measurement are compared for its spread.
STRETCHES = 10
EPOCHS_PER_STRETCH = 4
# Readings may fail, or the host sleep, for so many sampling intervals before a stretch counts as not seen.
PAUSE_INTERVALS = 20


class Resident(NamedTuple):
    """An artifact on the device, with images to run."""

    artifact: Artifact
    program: Program
    images: NDArray[np.generic]
    inputs: str


class Power:
    """The power of a device's meters, from the epochs that `watch` closes. False where there is no meter."""

    def __init__(self, meters: Sequence[Meter], clock: Clock, sampling_nanoseconds: int) -> None:
        pause = PAUSE_INTERVALS * sampling_nanoseconds
        self.names = tuple(meter.name for meter in meters)
        self.sampling_nanoseconds = sampling_nanoseconds
        self._slowest = max([sampling_nanoseconds, *(meter.update_nanoseconds for meter in meters)])
        self._clock = clock
        self._meters = [Epochs(meter, clock, pause_nanoseconds=pause, patience_nanoseconds=pause) for meter in meters]
        self._spans: list[list[Epoch]] = [[] for _ in self._meters]
        self._watched = clock() - sampling_nanoseconds

    def __bool__(self) -> bool:
        return bool(self._meters)

    def watch(self) -> None:
        """Read the meters, if it is time for it."""
        now = self._clock()
        if now - self._watched < self.sampling_nanoseconds:
            return
        self._watched = now
        for epochs, spans in zip(self._meters, self._spans, strict=True):
            spans += [span for span in epochs.advance() if isinstance(span, Epoch)]

    def watts(self, began: int, ended: int) -> list[float]:
        """Give the mean power of several stretches between two moments, fewer where meters are slow.

        At first a sensor still shows what was before. Raises `HalError` where a meter gave too few figures.
        """
        began = min(began + self._slowest, ended)
        count = max(min((ended - began) // (EPOCHS_PER_STRETCH * self._slowest), STRETCHES), 2)
        edges = [began + (ended - began) * index // count for index in range(count + 1)]
        return [sum(_mean(spans, *stretch) for spans in self._spans) for stretch in pairwise(edges)]


def _mean(spans: Sequence[Epoch], began: int, ended: int) -> float:
    """Give the mean power over the epochs that lie wholly between two moments."""
    inside = [span for span in spans if began <= span.began and span.ended <= ended]
    if not inside:
        raise HalError(f"a meter gave no figure within {(ended - began) / NANO:.3g} s; measure for longer")
    return sum(span.nanojoules for span in inside) / sum(span.ended - span.began for span in inside)


class Bench:
    """A device under measurement. `seconds` is how long each figure is measured; `tell` hears what is measured now."""

    def __init__(
        self, device: Device, power: Power, clock: Clock, pause: Pause, *, seconds: float, tell: Callable[[str], None]
    ) -> None:
        self._device = device
        self._power = power
        self._clock = clock
        self._pause = pause
        self._nanoseconds = round(seconds * NANO)
        self._tell = tell

    def measure(self, driver: str, residents: Sequence[Resident]) -> DeviceFigures:
        """Measure the device with all that is loaded on it. Raises `HalError`."""
        self._tell("idle")
        static = self._static()
        states = {ON: static}
        if self._device.reopening() is not None:
            self._tell("powered down")
            self._device.power(False)
            try:
                states[OFF] = self._static()
            finally:
                self._device.power(True)
        points = tuple(
            self._point(resident, way.steps, way.margin, static.watts)
            for resident in residents
            for way in resident.artifact.manifest.operating_points
        )
        provenance = Provenance.MEASURED if self._power else self._device.provenance
        return DeviceFigures(driver, provenance.value, self._power.names, states, points)

    def _static(self) -> StaticPower:
        if not self._power:
            return StaticPower(self._device.static_watts(), 0.0)
        began = self._clock()
        self._rest(self._nanoseconds)
        means = self._power.watts(began, self._clock())
        return StaticPower(max(statistics.fmean(means), 0.0), statistics.stdev(means) / math.sqrt(len(means)))

    def _point(self, resident: Resident, steps: int, margin: int, static_watts: float) -> PointFigures:
        artifact = resident.artifact
        where = f"{artifact.model}/{artifact.version}/{artifact.variant}"
        self._tell(f"{where} at {steps} steps" + (f", margin {margin}" if margin else ""))
        saturated, largest = self._run(resident, steps, margin, static_watts, rest=0.0)
        half_load, larger = self._run(resident, steps, margin, static_watts, rest=1.0)
        mean = max(saturated.dynamic_joules, half_load.dynamic_joules)
        bound = min(BOUND_PER_MEAN * mean, resident.program.cost(steps, margin).upper_joules)
        return PointFigures(
            artifact.model, artifact.version, artifact.variant, artifact.digest, steps, margin, resident.inputs,
            saturated, half_load, max(bound, largest, larger, mean),
        )  # fmt: skip

    def _run(
        self, resident: Resident, steps: int, margin: int, static_watts: float, *, rest: float
    ) -> tuple[Figures, float]:
        """Run one image after the other, with `rest` times as much rest as work; give the figures and the largest."""
        images = cycle(np.split(resident.images, len(resident.images)))
        seconds: list[float] = []
        joules: list[float] = []
        began = self._clock()
        while not seconds or self._clock() - began < self._nanoseconds or len(seconds) < len(resident.images):
            started = self._clock()
            inference = resident.program(next(images), steps, margin)
            seconds.append(inference.seconds)
            joules.append(inference.dynamic_joules)
            self._power.watch()
            if rest:
                self._rest(round(rest * (self._clock() - started)))
        if self._power:
            ended = self._clock()
            each = (ended - began) / NANO / len(seconds)
            joules = [max(watts - static_watts, 0.0) * each for watts in self._power.watts(began, ended)]
        return Figures(
            len(seconds), statistics.fmean(seconds), statistics.pstdev(seconds), statistics.fmean(joules),
            statistics.pstdev(joules),
        ), max(joules)  # fmt: skip

    def _rest(self, nanoseconds: int) -> None:
        """Let the device idle, with an eye on the meters."""
        until = self._clock() + nanoseconds
        while (left := until - self._clock()) > 0:
            self._pause(min(left, self._power.sampling_nanoseconds) / NANO)
            self._power.watch()


def images_of(artifact: Artifact, given: Mapping[str, NDArray[np.generic]]) -> tuple[NDArray[np.generic], str]:
    """Choose the images to run: those given for the model, else the artifact's samples, else noise; say which."""
    spec = artifact.manifest.input
    if artifact.model in given:
        return given[artifact.model], "the images given"
    found = samples.read(artifact)
    if found is not None:
        return found, "the artifact's samples"
    noise = np.random.default_rng(0).random((8, *spec.shape))
    scaled = noise * 255 if spec.dtype == "uint8" else noise
    return scaled.astype(spec.dtype), "uniform noise, which says little of a spiking network"
