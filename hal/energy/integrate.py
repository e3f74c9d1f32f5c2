"""A meter made of a power sensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Optional

from hal.device import Provenance
from hal.energy.meter import Fault, MeterError, Reading

if TYPE_CHECKING:
    from hal.energy.meter import Clock, MeterBoundary

# Microwatts times nanoseconds are femtojoules; a trapezoid's two sides add up to twice its height.
HALF_FEMTOJOULES_PER_NANOJOULE = 2_000_000
# Samples that may be missing before the power between two of them counts as unknown.
MISSING_SAMPLES = 5


class Integrated:
    """Counts the joules under the samples of a power sensor, which each `read` adds one to, by trapezoids.

    Where samples are further apart than `MISSING_SAMPLES` intervals the counter stands still and begins another run.
    """

    provenance = Provenance.MEASURED
    range_nanojoules: Optional[int] = None

    def __init__(
        self,
        name: str,
        boundary: MeterBoundary,
        microwatts: Callable[[], int],
        clock: Clock,
        *,
        update_nanoseconds: int,
        watts_limit: float,
        relative_uncertainty: float,
    ) -> None:
        """Integrate `microwatts()`, which raises `MeterError`, sampled and updated every `update_nanoseconds`."""
        self.name = name
        self.boundary = boundary
        self.watts_limit = watts_limit
        self.update_nanoseconds = update_nanoseconds
        self.relative_uncertainty = relative_uncertainty
        self.inside: frozenset[str] = frozenset()
        self._microwatts = microwatts
        self._clock = clock
        self._gap = MISSING_SAMPLES * update_nanoseconds
        self._last: Optional[tuple[int, int]] = None
        self._half_femtojoules = 0
        self._run = 0

    def read(self) -> Reading:
        """Take a sample and give the joules so far."""
        microwatts, at = self._microwatts(), self._clock()
        watts = microwatts / 1e6
        if not 0 <= watts <= self.watts_limit:
            raise MeterError(self.name, Fault.MALFORMED, f"{watts:g} W are not within 0 and {self.watts_limit:g} W")
        if self._last is not None:
            elapsed = at - self._last[0]
            if elapsed > self._gap:
                self._run += 1
            else:
                self._half_femtojoules += (self._last[1] + microwatts) * elapsed
        self._last = at, microwatts
        return Reading(at, self._half_femtojoules // HALF_FEMTOJOULES_PER_NANOJOULE, self._run)
