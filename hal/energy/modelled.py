"""Meters of what has no sensor: the joules come from a model, and the label says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Optional

from hal.device import Provenance
from hal.energy.meter import NANO, MeterBoundary, Reading

if TYPE_CHECKING:
    from hal.energy.meter import Clock

# A host draws about a tenth of its processors' rated power when idle, and the rest with the cube of its load.
HOST_IDLE_SHARE = 0.1
HOST_LOAD_SHARE = 0.9
# An assumption, as wide as that formula is rough.
HOST_RELATIVE_UNCERTAINTY = 0.5


class ModelledDevice:
    """An accelerator without a sensor: the static power of its power state, and the model's joules of each run.

    What a run cost is known when it ends. A reading is therefore as of the last moment of which all is known: now, or
    while something runs the moment at which it began. The device does one thing at a time; any thread may call.
    """

    boundary = MeterBoundary.DEVICE
    range_nanojoules: Optional[int] = None
    watts_limit = float("inf")
    # The joules of each run carry their own.
    relative_uncertainty = 0.0

    def __init__(
        self, name: str, clock: Clock, *, provenance: Provenance, static_watts: float, update_nanoseconds: int
    ) -> None:
        """Begin now, in a power state that draws `static_watts`."""
        self.name = name
        self.provenance = provenance
        self.update_nanoseconds = update_nanoseconds
        self.inside: frozenset[str] = frozenset()
        self._clock = clock
        self._lock = threading.Lock()
        self._at = clock()
        self._static_nanowatts = _nanowatts(static_watts)
        self._changes: list[tuple[int, int]] = []
        self._attojoules = 0
        self._dynamic_nanojoules = 0
        self._running_since: Optional[int] = None

    def begin(self, at: int) -> None:
        """Begin a run."""
        with self._lock:
            self._running_since = at

    def end(self, dynamic_nanojoules: int) -> None:
        """End the run, which cost this much above static power. Raises `ValueError` for a negative figure."""
        if dynamic_nanojoules < 0:
            raise ValueError(f"{self.name}: a run cannot cost {dynamic_nanojoules} nJ")
        with self._lock:
            self._running_since = None
            self._dynamic_nanojoules += dynamic_nanojoules

    def change(self, at: int, static_watts: float) -> None:
        """Enter another power state. Changes come in the order of their times."""
        with self._lock:
            self._changes.append((at, _nanowatts(static_watts)))

    def read(self) -> Reading:
        """Give the joules up to the last moment of which all is known."""
        with self._lock:
            now = self._clock()
            self._advance(now if self._running_since is None else min(now, self._running_since))
            return Reading(self._at, self._attojoules // NANO + self._dynamic_nanojoules)

    def _advance(self, until: int) -> None:
        """Add the static energy up to `until`, one stretch of constant power after the other."""
        while self._changes and self._changes[0][0] <= until:
            at, nanowatts = self._changes.pop(0)
            self._stretch(at)
            self._static_nanowatts = nanowatts
        self._stretch(until)

    def _stretch(self, until: int) -> None:
        if until > self._at:
            self._attojoules += self._static_nanowatts * (until - self._at)
            self._at = until


class ModelledHost:
    """A host without RAPL: rated power * (0.1 + 0.9 load^3), the load from CPU seconds of the daemon's processes."""

    provenance = Provenance.MODELLED
    boundary = MeterBoundary.HOST
    range_nanojoules: Optional[int] = None
    relative_uncertainty = HOST_RELATIVE_UNCERTAINTY

    def __init__(
        self,
        clock: Clock,
        *,
        rated_watts: float,
        cores: int,
        cpu_nanoseconds: Callable[[], int],
        update_nanoseconds: int,
    ) -> None:
        """Model processors of `rated_watts` (TDP) with `cores`, on which processes use `cpu_nanoseconds()` so far."""
        self.name = "modelled:host"
        self.watts_limit = 2 * rated_watts
        self.static_watts = HOST_IDLE_SHARE * rated_watts
        self.update_nanoseconds = update_nanoseconds
        self.inside: frozenset[str] = frozenset()
        self._clock = clock
        self._rated_watts = rated_watts
        self._cores = cores
        self._cpu_nanoseconds = cpu_nanoseconds
        self._last = clock(), cpu_nanoseconds()
        self._nanojoules = 0

    def read(self) -> Reading:
        """Add the joules since the last reading."""
        (before, used_before), used = self._last, self._cpu_nanoseconds()
        now = self._clock()
        if now > before:
            load = min(max(used - used_before, 0) / (self._cores * (now - before)), 1.0)
            watts = self._rated_watts * (HOST_IDLE_SHARE + HOST_LOAD_SHARE * load**3)
            self._nanojoules += round(watts * (now - before))
            self._last = now, used
        return Reading(now, self._nanojoules)


def _nanowatts(watts: float) -> int:
    if not 0 <= watts < float("inf"):
        raise ValueError(f"a static power of {watts} W is not possible")
    return round(watts * NANO)
