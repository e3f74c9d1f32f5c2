"""From readings to epochs: what a meter counted between two readings that can be believed.

Epochs and gaps follow each other without a hole, from the moment the meter was opened. An epoch holds joules that were
counted; a gap is time of which the meter says nothing. A reading that is rejected extends the epoch, and no joule is
ever counted that the meter did not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Optional, Union

from hal.energy.meter import Fault, MeterError, Reading

if TYPE_CHECKING:
    from hal.device import Provenance
    from hal.energy.meter import Clock, Meter


class Epoch(NamedTuple):
    """Joules between two accepted readings, in the clock's nanoseconds."""

    began: int
    ended: int
    nanojoules: int
    provenance: Provenance


class Gap(NamedTuple):
    """Time that no two readings enclose; `reason` says why, for people."""

    began: int
    ended: int
    reason: str


Span = Union[Epoch, Gap]


class Epochs:
    """The epochs of one meter.

    `fault` is why it cannot be read now, None while it can; `resets` and `rejected` count since the start.
    """

    def __init__(self, meter: Meter, clock: Clock, *, pause_nanoseconds: int, patience_nanoseconds: int) -> None:
        """Begin now, with a first reading yet to come.

        `pause_nanoseconds`, larger than the time between two calls of `advance`, tells a suspended host or a stopped
        process. `patience_nanoseconds` is how long an epoch stays open for a meter that gives no usable reading.
        """
        self.meter = meter
        self.fault: Optional[MeterError] = None
        self.resets = 0
        self.rejected = 0
        self._clock = clock
        self._pause = pause_nanoseconds
        self._patience = patience_nanoseconds
        self._until = self._called = clock()
        self._base: Optional[Reading] = None
        self._suspect: Optional[Reading] = None

    def advance(self) -> list[Span]:
        """Read the meter; give the spans that this closes, which may be none."""
        called, self._called = self._called, self._clock()
        try:
            reading = self.meter.read()
        except MeterError as error:
            self.fault = error
            return self._overdue(error.detail)
        except Exception as error:  # noqa: BLE001 (whatever it is, the other meters are read all the same)
            self.fault = MeterError(self.meter.name, Fault.MALFORMED, repr(error))
            return self._overdue(self.fault.detail)
        self.fault = None
        base = self._base
        # 1. The first reading, or the first after a gap, only opens an epoch.
        if base is None:
            return self._rebase(reading, "there was no reading before")
        # 2. A modelled meter knows nothing new yet.
        if reading.at <= base.at and reading.run == base.run:
            return []
        # 3. The counter says itself that it lost touch, or the host slept.
        if reading.run != base.run:
            self.resets += 1
            return self._rebase(reading, "the counter was interrupted")
        if self._called - called > self._pause:
            return self._rebase(reading, f"nothing was read for {(self._called - called) / 1e9:.1f} s")
        # 4. It grew by what can be believed.
        joules = self._growth(base, reading)
        if joules is not None:
            return [self._close(base, reading, joules)]
        # 5. It did not; but it did so from where an earlier reading could not be believed either: it was reset there.
        suspect = self._suspect
        joules = self._growth(suspect, reading) if suspect is not None else None
        if suspect is not None and joules is not None:
            self.resets += 1
            return [*self._rebase(suspect, "the counter was reset"), self._close(suspect, reading, joules)]
        # 6. A reading that fits nothing is rejected and extends the epoch.
        self.rejected += 1
        self._suspect = reading
        return self._overdue("its readings contradict each other")

    def finish(self) -> list[Span]:
        """Read a last time; give the spans up to now, a gap at their end where the meter says nothing of it."""
        spans = self.advance()
        return spans + self._gap(self._clock(), "nothing was read any more")

    def _growth(self, earlier: Reading, later: Reading) -> Optional[int]:
        """Give the joules between two readings, one wrap corrected, or None where they cannot be told."""
        most = self.meter.watts_limit * (later.at - earlier.at)
        grown, wraps_at = later.nanojoules - earlier.nanojoules, self.meter.range_nanojoules
        if wraps_at is not None and most >= wraps_at:
            return None
        if grown < 0 and wraps_at is not None:
            grown += wraps_at
        return grown if later.at > earlier.at and 0 <= grown <= most else None

    def _close(self, earlier: Reading, later: Reading, joules: int) -> Epoch:
        self._base, self._suspect, self._until = later, None, later.at
        return Epoch(earlier.at, later.at, joules, self.meter.provenance)

    def _rebase(self, reading: Reading, reason: str) -> list[Span]:
        self._base, self._suspect = reading, None
        return self._gap(reading.at, reason)

    def _overdue(self, reason: str) -> list[Span]:
        if self._called - self._until < self._patience:
            return []
        # A reading that is suspect stays so: the one after it may show that it was the beginning of something new.
        self._base = self._suspect
        self._suspect = None
        return self._gap(self._base.at if self._base is not None else self._called, reason)

    def _gap(self, ended: int, reason: str) -> list[Span]:
        if ended <= self._until:
            return []
        began, self._until = self._until, ended
        return [Gap(began, ended, reason)]
