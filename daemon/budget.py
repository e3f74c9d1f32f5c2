"""The power budget: in every window, wherever it starts, the energy stays within the limit.

An exact sliding ledger. Every dispatch reserves an upper bound of its energy first and settles it when the figure is
known. An entry counts in full from its reservation until a window after its end, since its joules may fall anywhere
between the two. The check at a dispatch therefore covers every window that holds this dispatch as its last one.
Static power of what is switched on counts in every window. All energies are whole nanojoules, all times nanoseconds.

A limit binds the windows of its length that its reign reaches into, held to the largest limit that had a part in them.
So one that was replaced goes on binding until such a window has passed, and what was under way then has ended.

A second, short limit may stand beside it: a bucket that drains at a stated power. It holds what is reserved in full,
and what was settled from its end on, so it bounds every stretch of time by the same argument.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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

    def over(self, window_nanoseconds: int) -> int:
        """Give what it allows in any window of another length: itself as often as its own window fits, rounded up."""
        return self.nanojoules * -(-window_nanoseconds // self.window_nanoseconds)


class Reservation:
    """The upper bound set aside for one dispatch, until it is settled or cancelled. Reigns are numbered from 0 on."""

    __slots__ = ("nanojoules", "reign")

    def __init__(self, nanojoules: int, reign: int = 0) -> None:
        self.nanojoules = nanojoules
        self.reign = reign


@dataclass
class _Replaced:
    """A limit that was replaced and may still bind.

    Its nanojoules are the most that any limit since allows in its window. Its reign was the `reign`th and reaches until
    `until`, or while any of the `under_way` that were reserved by then are.
    """

    limit: Limit
    reign: int
    until: int
    under_way: int = 0

    def frees_at(self, now: int) -> int:
        """Tell when it binds no more, if what is under way ends now."""
        return (max(self.until, now) if self.under_way else self.until) + self.limit.window_nanoseconds


class Past(NamedTuple):
    """A reign of an earlier daemon: until when a limit was in force, and how high static power was."""

    until: int
    static_watts: float
    limit: Limit


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
        # By the length of their windows: of two alike, the later one allows no more and binds no shorter.
        self._replaced: dict[int, _Replaced] = {}
        self._reign = self._under_way = 0
        self._enforce(limit)

    @property
    def limit(self) -> Limit:
        """The limit in force."""
        return self._limit

    def change_limit(self, limit: Limit, now: int) -> None:
        """Put another limit in force at once, on the ledger as it stands."""
        self._replace(self._limit, limit, now, self._under_way)
        self._enforce(limit)

    def _enforce(self, limit: Limit) -> None:
        self._limit = limit
        # One of the same length allows no more than what it replaced does now, and will bind for longer.
        self._replaced.pop(limit.window_nanoseconds, None)
        self._filled, self._filled_at = 0.0, 0
        if limit.burst_nanojoules is not None:
            for index, ended in enumerate(self._ends):
                self._fill(self._totals[index + 1] - self._totals[index], ended)

    def _replace(self, before: Limit, after: Limit, until: int, under_way: int) -> None:
        self._replaced[before.window_nanoseconds] = _Replaced(before, self._reign, until, under_way)
        self._reign += 1
        for window, each in list(self._replaced.items()):
            if each.frees_at(until) <= until:
                del self._replaced[window]
            else:
                each.limit = replace(each.limit, nanojoules=max(each.limit.nanojoules, after.over(window)))

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

    def seed(self, past: Sequence[Past], now: int) -> None:
        """Enter the reigns of earlier daemons that end now at the latest, oldest first, into an empty ledger.

        The ledger keeps from now on what their windows may ask for, too.
        """
        self._static_past = [*((each.until, each.static_watts) for each in past), *self._static_past]
        limits = [*(each.limit for each in past), self._limit]
        for each, after in zip(past, limits[1:], strict=True):
            self._replace(each.limit, after, each.until, 0)
        self._replaced.pop(self._limit.window_nanoseconds, None)
        binding = [window for window, each in self._replaced.items() if each.frees_at(now) > now]
        self.longest_window_nanoseconds = max([self.longest_window_nanoseconds, *binding])

    def static_fits(self, watts: float, now: int, nanojoules: int = 0) -> bool:
        """Tell whether static power may become `watts` now, and `nanojoules` be reserved, within the limit."""
        limit, rise = self._limit, watts - self.static_watts
        bursts = limit.burst_nanojoules is None or (watts <= limit.burst_watts and nanojoules <= self._burst_room(now))
        return bursts and all(
            nanojoules + math.ceil(rise * each.window_nanoseconds) <= self._room_under(each, now)
            for each in self._binding(now)
        )

    def _binding(self, now: int) -> list[Limit]:
        """List the limit in force and those that were replaced and still bind."""
        return [self._limit, *(each.limit for each in self._replaced.values() if each.frees_at(now) > now)]

    def _static_held(self, window: int, now: int) -> int:
        """Bound the static energy of any window that holds now: what was drawn, but nothing below what is drawn now.

        A window that began `t` ago holds what was drawn since, and the rest of its length at the present power.
        """
        held = self.static_watts * window
        since = now - window
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
        return self._spent(self._limit.window_nanoseconds, now)

    def _spent(self, window: int, now: int) -> int:
        return self._totals[-1] - self._totals[bisect_right(self._ends, now - window)]

    def _room_under(self, limit: Limit, now: int) -> int:
        window = limit.window_nanoseconds
        static = self._static_held(window, now) if self._static_past else round(self.static_watts * window)
        return limit.nanojoules - static - self.reserved_nanojoules - self._spent(window, now)

    def _window_room(self, now: int) -> int:
        if not self._replaced:
            return self._room_under(self._limit, now)
        return min(self._room_under(limit, now) for limit in self._binding(now))

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
        least = min([self._steady_under(limit, now) for limit in self._binding(now)])
        if self._limit.burst_nanojoules is not None:
            drain_watts = self._limit.burst_watts - self.static_watts
            least = min(least, drain_watts + self.room_nanojoules(now) / self._limit.window_nanoseconds)
        return least

    def _steady_under(self, limit: Limit, now: int) -> float:
        window = limit.window_nanoseconds
        start = bisect_right(self._ends, now - window)
        room = self._room_under(limit, now) - self._totals[start]
        least = math.inf
        for step in range(1, STEPS_AHEAD + 1):
            ahead = window * step // STEPS_AHEAD
            start = bisect_right(self._ends, now - window + ahead, start)
            least = min(least, (room + self._totals[start]) / ahead)
        return least

    def reserve(self, nanojoules: int, now: int) -> Reservation | None:
        """Set an upper bound aside, or give None where it does not fit."""
        if nanojoules > self.room_nanojoules(now):
            return None
        return self.claim(nanojoules)

    def claim(self, nanojoules: int) -> Reservation:
        """Set an upper bound aside whether or not it fits: until it does, there is no room for anything else."""
        self.reserved_nanojoules += nanojoules
        self._under_way += 1
        return Reservation(nanojoules, self._reign)

    def settle(self, reservation: Reservation, nanojoules: int, ended: int) -> None:
        """Replace a reservation by the energy spent. A failed run settles its whole reservation."""
        self.cancel(reservation)
        for each in self._replaced.values():
            if reservation.reign <= each.reign:
                each.until = max(each.until, ended)
        self.spend(nanojoules, ended)

    def cancel(self, reservation: Reservation) -> None:
        """Give a reservation back: of what was never dispatched, or is entered as spent."""
        self.reserved_nanojoules -= reservation.nanojoules
        self._under_way -= 1
        for each in self._replaced.values():
            each.under_way -= reservation.reign <= each.reign

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
        replaced = [
            min(self._frees_under(each.limit, wanted, now), each.frees_at(now)) for each in self._replaced.values()
        ]
        return max(self._frees_under(self._limit, wanted, now), drained, *replaced)

    def _frees_under(self, limit: Limit, wanted: int, now: int) -> int:
        """Tell when `wanted` will fit one limit.

        Each window lets as much through as it holds: what is beyond that comes so many windows later.
        """
        window = limit.window_nanoseconds
        most = max(limit.nanojoules - round(self.static_watts * window), 1)
        windows = -(-(wanted - most) // most) if wanted > most else 0
        wanted -= windows * most
        room, frees = self._room_under(limit, now), now
        if wanted > room:
            start = bisect_right(self._ends, now - window)
            index = bisect_left(self._totals, self._totals[start] + wanted - room)
            frees = window + (self._ends[index - 1] if index < len(self._totals) else now)
        return frees + windows * window

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
