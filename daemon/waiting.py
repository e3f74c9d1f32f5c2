"""The line of requests that wait for room in the budget: by priority, then in the order in which they came."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, NamedTuple, Protocol, TypeVar

# Priorities as Triton has them: a smaller number goes first, 0 stands for the default one.
FIRST_PRIORITY, DEFAULT_PRIORITY, LAST_PRIORITY = 1, 5, 9


class Work(NamedTuple):
    """What requests are expected to take: of the budget, and of a device's time."""

    nanojoules: int
    nanoseconds: int


NOTHING = Work(0, 0)


class Waiter(Protocol):
    """What is needed of one who waits."""

    @property
    def priority(self) -> int:
        """Tell its priority."""
        ...


T = TypeVar("T", bound=Waiter)


class WaitingLine(Generic[T]):
    """Those who wait, each with the work that it is expected to be; its length is how many they are."""

    def __init__(self) -> None:
        self._levels = [OrderedDict[T, Work]() for _ in range(LAST_PRIORITY + 1)]
        # The work of each level.
        self._sums = [NOTHING for _ in self._levels]
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __contains__(self, waiter: T) -> bool:
        return waiter in self._levels[waiter.priority]

    @property
    def first(self) -> T | None:
        """Tell who is the first in line."""
        return next((next(iter(level)) for level in self._levels if level), None)

    def join(self, waiter: T, work: Work) -> None:
        """Go to the end of the line, but before all of a lower priority."""
        self._levels[waiter.priority][waiter] = work
        self._add(waiter.priority, work.nanojoules, work.nanoseconds)
        self._length += 1

    def leave(self, waiter: T) -> None:
        """Leave the line."""
        work = self._levels[waiter.priority].pop(waiter)
        self._add(waiter.priority, -work.nanojoules, -work.nanoseconds)
        self._length -= 1

    def _add(self, priority: int, nanojoules: int, nanoseconds: int) -> None:
        work = self._sums[priority]
        self._sums[priority] = Work(work.nanojoules + nanojoules, work.nanoseconds + nanoseconds)

    def before(self, waiter: T) -> Work:
        """Add up the work of all who come before one in line, or before one who would join it now."""
        if waiter is self.first:
            return NOTHING
        level = self._levels[waiter.priority]
        ahead = self._sums[: waiter.priority]
        if waiter in self:
            for other, work in level.items():
                if other is waiter:
                    break
                ahead.append(work)
        else:
            ahead.append(self._sums[waiter.priority])
        return Work(sum(work.nanojoules for work in ahead), sum(work.nanoseconds for work in ahead))
