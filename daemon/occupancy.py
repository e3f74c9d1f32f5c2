"""When a device is busy: its thread sees runs begin and end, the event loop sees them land a moment later."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from daemon.clock import Clock

if TYPE_CHECKING:
    from hal.energy.modelled import ModelledDevice

# The place of a run whose beginning is not known yet.
ABOUT_TO_BEGIN = 0


class Occupancy:
    """The runs of one device that have not landed. `model` counts its joules where no meter does."""

    def __init__(self, clock: Clock) -> None:
        self.model: ModelledDevice | None = None
        self._clock = clock
        self._begun: deque[int] = deque()
        self._given_up: set[int] = set()

    def begin(self) -> int:
        """Note on the device's thread that a run begins, and give the time."""
        # First of all, so that whoever looks in between knows that something may run.
        self._begun.append(ABOUT_TO_BEGIN)
        now = self._begun[-1] = self._clock()
        if self.model is not None:
            self.model.begin(now)
        return now

    def end(self, began: int, dynamic_nanojoules: int) -> int:
        """Note on the device's thread that the run ended, which cost this much, and give the time."""
        now = self._clock()
        if began in self._given_up:
            self._given_up.discard(began)
        elif self.model is not None:
            self.model.end(dynamic_nanojoules)
        return now

    def give_up(self, began: int, dynamic_nanojoules: int) -> None:
        """Note on the event loop that a run which does not end counts as ended now, and cost this much."""
        self._given_up.add(began)
        if self.model is not None:
            self.model.end(dynamic_nanojoules)
        self.land()

    def land(self) -> None:
        """Note on the event loop that the oldest run is known from beginning to end. Runs land in their order."""
        self._begun.popleft()

    @property
    def known_until(self) -> int | None:
        """Tell until when all runs are known, None for now."""
        return self._begun[0] if self._begun else None
