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
from daemon.power import Power
from daemon.price import Demand
from daemon.waiting import DEFAULT_PRIORITY, NOTHING, Work

# How much longer than expected, relative, a queue may take. Filled up to the last deadline, an overloaded device would
# give each of its answers just in time or just too late.
QUEUE_MARGIN = 0.25
# How late the event loop may give a turn to who waits for one.
TURN_SECONDS = 0.005


class Constraints(NamedTuple):
    """What a request asks for beyond its model. `deadline` is in the clock's nanoseconds."""

    deadline: int
    images: int = 1
    max_energy_nanojoules: int | None = None
    min_accuracy: float = 0.0
    priority: int = DEFAULT_PRIORITY


class Dispatch(NamedTuple):
    """Run the request at `point`; its energy is reserved."""

    point: Point
    reservation: Reservation


class Wait(NamedTuple):
    """Wait in line, where this is expected to be `work`; ask again at `until`, or earlier as the first in line."""

    until: int
    work: Work


class Refuse(NamedTuple):
    """The request cannot be served. `reason` is constraints, lost, deadline, load or budget.

    `needed_seconds` is the time in which the quickest operating point would answer: for `deadline` with nothing before
    it, for `load` and `budget` with all that is, `needed_nanojoules` what it needs of the budget; 0 where none would.
    """

    reason: str
    retry_nanoseconds: int = 0
    needed_seconds: float = 0.0
    needed_nanojoules: int = 0


Decision = Dispatch | Wait | Refuse
# The seconds of work at a device before a request of a priority, or None while it is lost.
Load = Callable[[str, int], float | None]


class Router:
    """The policy in force, the budget, and the decision for each request."""

    def __init__(self, name: str, policy: PolicyConfig, budget: Budget, load: Load, power: Power | None = None) -> None:
        """Begin with a policy. Without `power`, all devices are always on."""
        self.name = name
        self.policy = policy
        self.budget = budget
        self._load = load
        self._power = power or Power(budget)
        self._demand = Demand()

    def decide(
        self, points: Sequence[Point], wanted: Constraints, now: int, ahead: Work = NOTHING, *, in_line: bool = False
    ) -> Decision:
        """Decide for one request among the operating points of its model, behind those `ahead` in line for the budget.

        1. Leave out what breaks a constraint of the request or the policy.
        2. Leave out what cannot finish before the deadline behind the queue of its device.
        3. Take, in the strategy's order, the first whose upper bound the budget still holds.
        4. Else wait for the budget where its turn will come in time, or refuse and say when to retry. Who is in line
           already stays there as long as there is any time left.
        """
        if not points:
            return Refuse("lost")
        allowed = self._allowed(points, wanted)
        if not allowed:
            return Refuse("constraints")
        power, images = self._power, wanted.images
        loads = {
            point.device: load
            for point in allowed
            if (load := self._load(point.device, wanted.priority)) is not None
        }  # fmt: skip
        if not loads:
            return Refuse("lost")
        living, waits = [point for point in allowed if point.device in loads], loads
        if power.unready:
            waits = {device: load + power.delay_seconds(device, now) for device, load in loads.items()}
        left = (wanted.deadline - now) / NANO
        latest = {device: waits[device] + QUEUE_MARGIN * load for device, load in loads.items()}
        timely = [point for point in living if latest[point.device] + point.service_seconds * images <= left]
        if power.unready:
            order = self._order_with_down(timely, living, waits, wanted, now)
        else:
            order = self._order(timely, waits, images, now)
        if not timely:
            return _too_late(living, latest, images, left)
        for point in order:
            if ahead.nanojoules and self._needed(point, images) + ahead.nanojoules > self.budget.room_nanojoules(now):
                continue
            reservation = power.reserve(point.device, point.upper_nanojoules * images, now)
            if reservation is not None:
                power.chosen(point.device, now)
                self._count(living, wanted, now)
                return Dispatch(point, reservation)
        return self._without_room(timely, living, wanted, now, ahead, in_line)

    def _needed(self, point: Point, images: int) -> int:
        """Give the nanojoules for which there must be room before a point is taken."""
        return point.upper_nanojoules * images + self._power.opening_nanojoules(point.device)

    def _without_room(
        self, timely: list[Point], living: list[Point], wanted: Constraints, now: int, ahead: Work, in_line: bool
    ) -> Decision:
        """Wait for the budget where there is time for it, or refuse and say when to retry.

        There is time if there is even where those ahead take longer than expected, so that who joins the line will be
        served.
        """
        images = wanted.images
        cheapest = min(timely, key=lambda point: self._needed(point, images))
        nanojoules = self._needed(cheapest, images)
        alone = self.budget.frees_at(nanojoules, now)
        frees = self.budget.frees_at(nanojoules, now, ahead.nanojoules)
        if alone is None or frees is None or frees <= now:
            return Refuse("budget", self.budget.limit.window_nanoseconds, 0.0, nanojoules)
        own = round(cheapest.service_seconds * images * NANO)
        takes = own + round((self._power.delay_seconds(cheapest.device, now) + TURN_SECONDS) * NANO)
        behind = frees - alone + ahead.nanoseconds
        until, last = alone + round(behind * (1 + QUEUE_MARGIN)), wanted.deadline - takes
        if until <= last or (in_line and now < last):
            return Wait(min(until, last), Work(cheapest.dynamic_nanojoules * images, own))
        self._count(living, wanted, now)
        return Refuse("budget", alone + behind - now, (until + takes - now) / NANO, nanojoules)

    def _count(self, points: list[Point], wanted: Constraints, now: int) -> None:
        """Count a request for the price, once its fate is decided: who waits asks again."""
        self._demand.count(points, wanted.images, now, self.budget.limit.window_nanoseconds)

    def _allowed(self, points: Sequence[Point], wanted: Constraints) -> list[Point]:
        """Leave out what breaks a constraint."""
        policy, energy = self.policy, wanted.max_energy_nanojoules
        accuracy = max(wanted.min_accuracy, policy.min_accuracy)
        allowed = [point for point in points if point.accuracy >= accuracy]
        if energy is not None:
            allowed = [point for point in allowed if point.dynamic_nanojoules * wanted.images <= energy]
        if policy.strategy == "pin":
            pin = policy.pin
            allowed = [point for point in allowed if pin in {point.device, point.kind.value, point.fallback_of}]
        return allowed

    def _order(
        self, points: list[Point], waits: dict[str, float], images: int, now: int, rise_watts: float = 0.0
    ) -> list[Point]:
        """Order points by the strategy, as if static power were higher by `rise_watts`."""
        if len(points) < 2:
            return points
        strategy = self.policy.strategy
        if strategy == "saver":
            # What may be powered down stays down as long as anything else will do.
            spared = self.policy.power_down
            return sorted(points, key=lambda point: (point.device in spared, point.dynamic_nanojoules, -point.accuracy))
        if strategy == "latency":
            return sorted(points, key=lambda point: waits[point.device] + point.service_seconds * images)
        if strategy == "balanced":
            price = self._demand.price(self.budget.steady_watts(now) - rise_watts, now)
            return sorted(
                points,
                key=lambda point: (price * point.dynamic_nanojoules - point.accuracy, point.dynamic_nanojoules),
            )
        return sorted(points, key=lambda point: (-point.accuracy, point.dynamic_nanojoules))

    def _order_with_down(
        self, timely: list[Point], living: list[Point], waits: dict[str, float], wanted: Constraints, now: int
    ) -> list[Point]:
        """Order points while devices are down: theirs come last, but for one that were first if its device were on.

        Where its device cannot be on in time, it is noted that the request wanted it.
        """
        power, images = self._power, wanted.images
        down = [point for point in timely if power.is_down(point.device)]
        up = [point for point in timely if not power.is_down(point.device)]
        order = [*self._order(up, waits, images, now), *self._order(down, waits, images, now)]
        ready = {device: wait - power.opening_seconds(device) for device, wait in waits.items()}
        left = (wanted.deadline - now) / NANO
        able = [
            point for point in living
            if power.is_down(point.device) and ready[point.device] + point.service_seconds * images <= left
        ]  # fmt: skip
        if not able:
            return order
        rise_watts = power.rise_watts({point.device for point in able})
        first = self._order([*up, *able], ready, images, now, rise_watts)[0]
        if not power.is_down(first.device):
            return order
        if first in down:
            return [first, *(point for point in order if point is not first)]
        power.want(first.device, now)
        return order


def _too_late(living: list[Point], waits: dict[str, float], images: int, left: float) -> Refuse:
    """Refuse what no operating point can answer in time.

    What even an idle device cannot do is not worth a retry. A service time learned in a bad moment is forgotten bit by
    bit, or an idle device to which it lets nothing through would never be tried again.
    """
    needed = min(point.seconds * images for point in living)
    if needed > left:
        return Refuse("deadline", needed_seconds=needed)
    soonest = min(waits[point.device] + point.service_seconds * images for point in living)
    for point in living:
        if waits[point.device] == 0.0:
            point.observe(point.seconds)
    return Refuse("load", round((soonest - left) * NANO), soonest)
