"""The power budget: in every window, wherever it starts, the energy stays within the limit.

An exact sliding ledger. Every dispatch reserves an upper bound of its energy first and settles it when the figure is
known. An entry counts in full from its reservation until a window after its end, since its joules may fall anywhere
between the two. The check at a dispatch therefore covers every window that holds this dispatch as its last one.
Static power of what is switched on counts in every window. All energies are whole nanojoules, all times nanoseconds.

A second, short limit may stand beside it: a bucket that drains at a stated power. It holds what is reserved in full,
and what was settled from its end on, so it bounds every stretch of time by the same argument.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from daemon.clock import NANO

# Old entries are cut off the front of the ledger in runs of at least this many, so that the cut costs little each.
TRIM = 4096
# At how many moments of the coming window the steady power is checked.
STEPS_AHEAD = 10


@dataclass(frozen=True)
class Limit:
    """At most `nanojoules` in any `window_nanoseconds`.

    Where `burst_nanojoules` is given, also at most that and `burst_watts` times its length in any stretch of time.
    """

    nanojoules: int
    window_nanoseconds: int
    burst_nanojoules: int | None = None
    burst_watts: float = 0.0


class Reservation:
    """The upper bound set aside for one dispatch, until it is settled or cancelled."""

    __slots__ = ("nanojoules",)

    def __init__(self, nanojoules: int) -> None:
        self.nanojoules = nanojoules


class Budget:
    """The ledger of all that was and may be spent, under the limit in force."""

    def __init__(self, limit: Limit, *, static_watts: float, longest_window_nanoseconds: int) -> None:
        """Begin empty. The ledger keeps what the longest window of any policy may ask for."""
        self.static_watts = static_watts
        self.reserved_nanojoules = 0
        self.longest_window_nanoseconds = max(longest_window_nanoseconds, limit.window_nanoseconds)
        self._ends: list[int] = []
        # _totals[i] is the sum of all settled entries before entry i, ever.
        self._totals: list[int] = [0]
        # Until when static power was how high, before it was what it is now.
        self._static_past: list[tuple[int, float]] = []
        self.limit = limit

    @property
    def limit(self) -> Limit:
        """The limit in force. Another one applies to the ledger as it stands."""
        return self._limit

    @limit.setter
    def limit(self, limit: Limit) -> None:
        self._limit = limit
        self._filled, self._filled_at = 0.0, 0
        if limit.burst_nanojoules is not None:
            for index, ended in enumerate(self._ends):
                self._fill(self._totals[index + 1] - self._totals[index], ended)

    @property
    def static_nanojoules(self) -> int:
        """Give the static energy of one window at the present static power."""
        return round(self.static_watts * self._limit.window_nanoseconds)

    def change_static(self, watts: float, now: int) -> None:
        """Note that static power changes now. Before it rises, ask `static_fits`."""
        self._fill(0, now)
        self._static_past = [past for past in self._static_past if past[0] > now - self.longest_window_nanoseconds]
        self._static_past.append((now, self.static_watts))
        self.static_watts = watts

    def seed_static(self, past: list[tuple[int, float]]) -> None:
        """Enter how high static power was until when, before this ledger began, oldest first."""
        self._static_past = [*past, *self._static_past]

    def static_fits(self, watts: float, now: int, nanojoules: int = 0) -> bool:
        """Tell whether static power may become `watts` now, and `nanojoules` be reserved, within the limit."""
        limit = self._limit
        more = nanojoules + math.ceil((watts - self.static_watts) * limit.window_nanoseconds)
        bursts = limit.burst_nanojoules is None or (watts <= limit.burst_watts and nanojoules <= self._burst_room(now))
        return bursts and more <= self._window_room(now)

    def _static_held(self, now: int) -> int:
        """Bound the static energy of any window that holds now: what was drawn, but nothing below what is drawn now.

        A window that began `t` ago holds what was drawn since, and the rest of its length at the present power.
        """
        held = self.static_watts * self._limit.window_nanoseconds
        since = now - self._limit.window_nanoseconds
        for until, watts in self._static_past:
            if until > since:
                held += max(watts - self.static_watts, 0.0) * (until - since)
                since = until
        return round(held)

    def _fill(self, nanojoules: int, at: int) -> None:
        """Enter energy into the bucket, after what drained until then."""
        self._filled = self._filled_nanojoules(at) + nanojoules
        self._filled_at = max(at, self._filled_at)

    def _filled_nanojoules(self, now: int) -> float:
        """Tell what the bucket holds. Static power takes its part of the drain."""
        drain_watts = self._limit.burst_watts - self.static_watts
        return max(self._filled - drain_watts * max(now - self._filled_at, 0), 0.0)

    def used_nanojoules(self, now: int) -> int:
        """Give what a window that ends now holds: what was spent, and static power."""
        return self.spent_nanojoules(now) + self.static_nanojoules

    def spent_nanojoules(self, now: int) -> int:
        """Give the settled energy of the window that ends now, static power left out."""
        return self._totals[-1] - self._totals[bisect_right(self._ends, now - self._limit.window_nanoseconds)]

    def _window_room(self, now: int) -> int:
        static = self._static_held(now) if self._static_past else self.static_nanojoules
        return self._limit.nanojoules - static - self.reserved_nanojoules - self.spent_nanojoules(now)

    def room_nanojoules(self, now: int) -> int:
        """Give what may be reserved now; negative after a cut."""
        room = self._window_room(now)
        return room if self._limit.burst_nanojoules is None else min(room, self._burst_room(now))

    def _burst_room(self, now: int) -> int:
        burst = self._limit.burst_nanojoules or 0
        return burst - self.reserved_nanojoules - math.ceil(self._filled_nanojoules(now))

    def steady_watts(self, now: int) -> float:
        """Give the largest power that could be spent steadily from now on, static power left out.

        Each joule of the window comes back a window after it was spent. So until any moment ahead, no more can be spent
        than there is room now and will have come back by then.
        """
        window = self._limit.window_nanoseconds
        start = bisect_right(self._ends, now - window)
        room = self._window_room(now) - self._totals[start]
        least = math.inf
        for step in range(1, STEPS_AHEAD + 1):
            ahead = window * step // STEPS_AHEAD
            start = bisect_right(self._ends, now - window + ahead, start)
            least = min(least, (room + self._totals[start]) / ahead)
        if self._limit.burst_nanojoules is not None:
            drain_watts = self._limit.burst_watts - self.static_watts
            least = min(least, drain_watts + (self.room_nanojoules(now)) / window)
        return least

    def reserve(self, nanojoules: int, now: int) -> Reservation | None:
        """Set an upper bound aside, or give None where it does not fit."""
        if nanojoules > self.room_nanojoules(now):
            return None
        self.reserved_nanojoules += nanojoules
        return Reservation(nanojoules)

    def claim(self, nanojoules: int) -> Reservation:
        """Set an upper bound aside whether or not it fits: until it does, there is no room for anything else."""
        self.reserved_nanojoules += nanojoules
        return Reservation(nanojoules)

    def settle(self, reservation: Reservation, nanojoules: int, ended: int) -> None:
        """Replace a reservation by the energy spent. A failed run settles its whole reservation."""
        self.reserved_nanojoules -= reservation.nanojoules
        self.spend(nanojoules, ended)

    def cancel(self, reservation: Reservation) -> None:
        """Give a reservation back that was never dispatched."""
        self.reserved_nanojoules -= reservation.nanojoules

    def spend(self, nanojoules: int, ended: int) -> None:
        """Enter energy that ended at `ended`, at or after the last entry."""
        ended = max(ended, self._ends[-1]) if self._ends else ended
        self._ends.append(ended)
        self._totals.append(self._totals[-1] + nanojoules)
        if self._limit.burst_nanojoules is not None:
            self._fill(nanojoules, ended)
        past = bisect_right(self._ends, ended - self.longest_window_nanoseconds)
        if past >= TRIM:
            del self._ends[:past]
            del self._totals[:past]

    def frees_at(self, nanojoules: int, now: int, ahead: int = 0) -> int | None:
        """Tell when `nanojoules` will fit behind others that spend `ahead` as soon as they may, or None for never.

        Nothing else is dispatched until then. What is under way counts as spent at its upper bound from now on, static
        power of the past as long as it may.
        """
        wanted = nanojoules + ahead
        if wanted <= self.room_nanojoules(now):
            return now
        most = self._limit.nanojoules - self.static_nanojoules
        if nanojoules > most or ahead > most == 0:
            return None
        drained = self._drained_at(nanojoules, ahead, now)
        if drained is None:
            return None
        # Each window lets as much through as it holds: what is beyond that comes so many windows later.
        window = self._limit.window_nanoseconds
        windows = -(-(wanted - most) // most) if wanted > most else 0
        wanted -= windows * most
        room, frees = self._window_room(now), now
        if wanted > room:
            start = bisect_right(self._ends, now - window)
            index = bisect_left(self._totals, self._totals[start] + wanted - room)
            frees = window + (self._ends[index - 1] if index < len(self._totals) else now)
        return max(frees + windows * window, drained)

    def _drained_at(self, nanojoules: int, ahead: int, now: int) -> int | None:
        """Tell when the bucket takes `nanojoules` behind `ahead`, or None where it never will."""
        burst = self._limit.burst_nanojoules
        if burst is None:
            return now
        excess = nanojoules + ahead + self.reserved_nanojoules + self._filled_nanojoules(now) - burst
        drain_watts = self._limit.burst_watts - self.static_watts
        if excess <= 0:
            return now
        if nanojoules > burst or drain_watts <= 0:
            return None
        return now + math.ceil(excess / drain_watts) + 1


def limit_of(budget_watts: float, window_seconds: float, burst_joules: float = 0.0, burst_watts: float = 0.0) -> Limit:
    """Turn watts over a window into a limit, with a burst above a power where `burst_joules` is not 0."""
    return Limit(
        round(budget_watts * window_seconds * NANO),
        round(window_seconds * NANO),
        round(burst_joules * NANO) or None,
        burst_watts,
    )
