"""The power budget: in every window, wherever it starts, the energy stays within the limit.

An exact sliding ledger. Every dispatch reserves an upper bound of its energy first and settles it when the figure is
known. An entry counts in full from its reservation until a window after its end, since its joules may fall anywhere
between the two. The check at a dispatch therefore covers every window that holds this dispatch as its last one.
Static power of what is switched on counts in every window. All energies are whole nanojoules, all times nanoseconds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from daemon.clock import NANO

# Old entries are cut off the front of the ledger in runs of at least this many, so that the cut costs little each.
TRIM = 4096


@dataclass(frozen=True)
class Limit:
    """At most `nanojoules` in any `window_nanoseconds`."""

    nanojoules: int
    window_nanoseconds: int


class Reservation:
    """The upper bound set aside for one dispatch, until it is settled or cancelled."""

    __slots__ = ("nanojoules",)

    def __init__(self, nanojoules: int) -> None:
        self.nanojoules = nanojoules


class Budget:
    """The ledger of all that was and may be spent, under the limit in force."""

    def __init__(self, limit: Limit, *, static_watts: float, longest_window_nanoseconds: int) -> None:
        """Begin empty. The ledger keeps what the longest window of any policy may ask for."""
        self.limit = limit
        self.static_watts = static_watts
        self.reserved_nanojoules = 0
        self._longest = max(longest_window_nanoseconds, limit.window_nanoseconds)
        self._ends: list[int] = []
        # _totals[i] is the sum of all settled entries before entry i, ever.
        self._totals: list[int] = [0]

    @property
    def static_nanojoules(self) -> int:
        """Give the static energy of one window."""
        return round(self.static_watts * self.limit.window_nanoseconds)

    def spent_nanojoules(self, now: int) -> int:
        """Give the settled energy of the window that ends now, static power left out."""
        return self._totals[-1] - self._totals[bisect_right(self._ends, now - self.limit.window_nanoseconds)]

    def room_nanojoules(self, now: int) -> int:
        """Give what may be reserved now; negative after a cut."""
        held = self.static_nanojoules + self.reserved_nanojoules + self.spent_nanojoules(now)
        return self.limit.nanojoules - held

    def reserve(self, nanojoules: int, now: int) -> Reservation | None:
        """Set an upper bound aside, or give None where it does not fit."""
        if nanojoules > self.room_nanojoules(now):
            return None
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
        self._ends.append(max(ended, self._ends[-1]) if self._ends else ended)
        self._totals.append(self._totals[-1] + nanojoules)
        past = bisect_right(self._ends, ended - self._longest)
        if past >= TRIM:
            del self._ends[:past]
            del self._totals[:past]

    def frees_at(self, nanojoules: int, now: int) -> int | None:
        """Tell when `nanojoules` will fit if nothing else is dispatched, or None where it never will.

        What is under way counts as spent at its upper bound from now on.
        """
        room = self.room_nanojoules(now)
        if nanojoules <= room:
            return now
        if nanojoules > self.limit.nanojoules - self.static_nanojoules:
            return None
        window = self.limit.window_nanoseconds
        start = bisect_right(self._ends, now - window)
        needed = self._totals[start] + nanojoules - room
        index = bisect_left(self._totals, needed)
        if index < len(self._totals):
            return self._ends[index - 1] + window
        return now + window


def limit_of(budget_watts: float, window_seconds: float) -> Limit:
    """Turn watts over a window into a limit."""
    return Limit(round(budget_watts * window_seconds * NANO), round(window_seconds * NANO))
