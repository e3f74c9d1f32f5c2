"""Choose an operating point for a request: by policy and constraints, within deadline and budget.

The router decides and never acts: no I/O, no waiting, time is an argument. What it needs to know of the devices, it
asks through `Load`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from daemon.budget import Budget, Reservation
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.points import Point
from daemon.price import Demand


class Constraints(NamedTuple):
    """What a request asks for beyond its model. `deadline` is in the clock's nanoseconds."""

    deadline: int
    images: int = 1
    max_energy_nanojoules: int | None = None
    min_accuracy: float = 0.0


class Dispatch(NamedTuple):
    """Run the request at `point`; its energy is reserved."""

    point: Point
    reservation: Reservation


class Wait(NamedTuple):
    """Ask again at `until`, or earlier when something was settled."""

    until: int


class Refuse(NamedTuple):
    """The request cannot be served. `reason` is constraints, lost, load or budget."""

    reason: str
    retry_nanoseconds: int = 0


Decision = Dispatch | Wait | Refuse
# The seconds of work queued at a device, or None while it is lost.
Load = Callable[[str], float | None]


class Router:
    """The policy in force, the budget, and the decision for each request."""

    def __init__(self, name: str, policy: PolicyConfig, budget: Budget, load: Load) -> None:
        self.name = name
        self.policy = policy
        self.budget = budget
        self._load = load
        self._demand = Demand()

    def decide(self, points: Sequence[Point], wanted: Constraints, now: int) -> Decision:
        """Decide for one request among the operating points of its model.

        1. Leave out what breaks a constraint of the request or the policy.
        2. Leave out what cannot finish before the deadline behind the queue of its device.
        3. Take, in the strategy's order, the first whose upper bound the budget still holds.
        4. Else wait for the budget where the deadline allows it, or refuse and say when to retry.
        """
        allowed = [point for point in points if self._allows(point, wanted)]
        if not allowed:
            return Refuse("constraints")
        loads = {point.device: self._load(point.device) for point in allowed}
        living = [point for point in allowed if loads[point.device] is not None]
        if not living:
            return Refuse("lost")
        backlogs = [(point, (loads[point.device] or 0.0) + point.service_seconds * wanted.images) for point in living]
        left = (wanted.deadline - now) / NANO
        timely = [point for point, seconds in backlogs if seconds <= left]
        if not timely:
            return Refuse("load", round((min(seconds for _, seconds in backlogs) - left) * NANO))
        for point in self._order(timely, wanted.images, now):
            reservation = self.budget.reserve(point.upper_nanojoules * wanted.images, now)
            if reservation is not None:
                self._count(living, wanted, now)
                return Dispatch(point, reservation)
        cheapest = min(timely, key=lambda point: point.upper_nanojoules)
        frees = self.budget.frees_at(cheapest.upper_nanojoules * wanted.images, now)
        if frees is None:
            return Refuse("budget", self.budget.limit.window_nanoseconds)
        if frees + round(cheapest.service_seconds * NANO) * wanted.images <= wanted.deadline:
            return Wait(frees)
        self._count(living, wanted, now)
        return Refuse("budget", frees - now)

    def _count(self, points: list[Point], wanted: Constraints, now: int) -> None:
        """Count a request for the price, once its fate is decided: who waits asks again."""
        self._demand.count(points, wanted.images, now, self.budget.limit.window_nanoseconds)

    def _allows(self, point: Point, wanted: Constraints) -> bool:
        policy = self.policy
        if point.accuracy < max(wanted.min_accuracy, policy.min_accuracy):
            return False
        energy = wanted.max_energy_nanojoules
        if energy is not None and point.dynamic_nanojoules * wanted.images > energy:
            return False
        return policy.strategy != "pin" or policy.pin in (point.device, point.kind.value)

    def _order(self, points: list[Point], images: int, now: int) -> list[Point]:
        strategy = self.policy.strategy
        if strategy == "saver":
            return sorted(points, key=lambda point: (point.dynamic_nanojoules, -point.accuracy))
        if strategy == "latency":
            return sorted(points, key=lambda point: (self._load(point.device) or 0.0) + point.service_seconds * images)
        if strategy == "balanced":
            price = self._demand.price(self.budget.steady_watts(now), now)
            return sorted(
                points,
                key=lambda point: (price * point.dynamic_nanojoules - point.accuracy, point.dynamic_nanojoules),
            )
        return sorted(points, key=lambda point: (-point.accuracy, point.dynamic_nanojoules))
