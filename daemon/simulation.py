"""A discrete-event simulation of the daemon: the real router and budget, simulated devices, clock and requests.

It evaluates the router (`python -m tests.bench.router`), and tells what another policy would have cost
(`jouled energy --replay`).

What the dispatcher does with its event loop happens here in the same order: a request is decided, waits for the budget,
queues at its device, runs, is settled, and whoever waits first is woken. Energies and times of a request vary around
the means of its point; the budget is settled with what it took, and learns of it when it has ended. Devices power down
and up as the daemon's own machine decides. What happened is audited by the code that audits a journal.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np

from daemon.audit import ANSWERED
from daemon.budget import Budget, Limit, Reservation
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.errors import STATUS, DeadlinePassed, NoCandidate, OverBudget, Overloaded, Unavailable
from daemon.health import LONGEST_PAUSE_NANOSECONDS
from daemon.history import History, Requests, Session
from daemon.points import Point
from daemon.power import Power, Supply, Switch
from daemon.router import Constraints, Dispatch, Router, Wait
from daemon.switchboard import STEP_SECONDS
from daemon.waiting import NOTHING, WaitingLine
from daemon.windows import Reign, Spending
from hal.device import Cost

DEADLINE_NANOSECONDS = NANO // 10
# Standard deviations of a request's energy and time against the mean of its point; nothing varies by more than three.
ENERGY_SPREAD = 0.3
SECONDS_SPREAD = 0.2
SPREADS_LIMIT = 3.0
# What a model adds to its figure once the meter is dead.
MODEL_UNCERTAINTY = 0.25
MISSED = STATUS[DeadlinePassed]
REFUSED = {
    "constraints": STATUS[NoCandidate],
    "lost": STATUS[Unavailable],
    "deadline": STATUS[Overloaded],
    "load": STATUS[Overloaded],
    "budget": STATUS[OverBudget],
}


class Policy(NamedTuple):
    """A named policy with its limit as the budget takes it."""

    name: str
    config: PolicyConfig
    limit: Limit


@dataclass(eq=False)
class Request:
    """A request, and how far its energy and time are from the mean of any point, in spreads.

    With `share` its energy is that multiple of the mean of any point, instead.
    `reign` is that of its last dispatch, `turn` counts its waits, `worked_nanoseconds` is what deciding and bookkeeping
    took by the real clock.
    """

    number: int
    wanted: Constraints
    energy: float
    seconds: float
    share: float | None = None
    spent_nanojoules: int = 0
    reign: int = 0
    tried: set[str] = field(default_factory=set)
    turn: int = 0
    worked_nanoseconds: int = 0

    @property
    def priority(self) -> int:
        """Give its priority."""
        return self.wanted.priority


class End(NamedTuple):
    """How a request ended: its terminal status, when, and the point that answered it."""

    request: Request
    status: str
    at: int
    point: Point | None


@dataclass(eq=False)
class Job:
    """A request at a device. `started` is zero while it is queued."""

    request: Request
    point: Point
    reservation: Reservation
    expected_seconds: float
    started: int = 0


@dataclass
class Lane:
    """A device: its queue, what runs, until when it is lost."""

    queue: deque[Job | Switch] = field(default_factory=deque)
    running: Job | Switch | None = None
    backlog_seconds: float = 0.0
    rests_until: int = 0
    broken: bool = False

    @property
    def idle(self) -> bool:
        """Tell whether nothing runs or waits."""
        return self.running is None and not self.queue


class Simulation:
    """One run of a trace. Call `at` for what is to happen besides, then `run`, then read the results.

    `reopening` says of devices that can be powered down what powering them up costs; a policy says which may be.
    """

    def __init__(
        self,
        points: list[Point],
        static_watts: Mapping[str, float],
        policy: Policy,
        *,
        reopening: Mapping[str, Cost] | None = None,
        longest_window_nanoseconds: int = 0,
    ) -> None:
        self.points = [replace(point) for point in points]
        self.ends: list[End] = []
        self._meter_dead = False
        self._now = 0
        self._reopening = reopening or {}
        self._lanes = {device: Lane() for device in static_watts}
        self.budget = Budget(
            policy.limit, static_watts=sum(static_watts.values()), longest_window_nanoseconds=longest_window_nanoseconds
        )
        self.power = Power(
            self.budget,
            [Supply(device, watts, self._reopening.get(device)) for device, watts in static_watts.items()],
        )
        self.router = Router(policy.name, policy.config, self.budget, self._load, self.power)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._waiting = WaitingLine[Request]()
        self._spent: list[tuple[int, int, int]] = []
        self._reigns: list[Reign] = []
        self._last_end: list[int] = []
        self._begin_reign()

    def at(self, when: int, event: Callable[[], None]) -> None:
        """Let `event` happen at a moment."""
        self._count += 1
        heapq.heappush(self._events, (when, self._count, event))

    def run(self, arrivals: Iterable[int], rng: np.random.Generator) -> None:
        """Let requests arrive at these moments, in order, and go on until nothing is left to do."""
        moments = list(arrivals)
        energies = np.clip(rng.standard_normal(len(moments)), -SPREADS_LIMIT, SPREADS_LIMIT).tolist()
        times = np.clip(rng.standard_normal(len(moments)), -SPREADS_LIMIT, SPREADS_LIMIT).tolist()
        self.play(
            (int(moment), Request(number, Constraints(int(moment) + DEADLINE_NANOSECONDS), energy, seconds))
            for number, (moment, energy, seconds) in enumerate(zip(moments, energies, times, strict=True), 1)
        )

    def play(self, arrivals: Iterable[tuple[int, Request]], until: int = 0) -> None:
        """Let these requests arrive, in order, and go on until nothing is left to do, or `until` if that is later."""
        requests = list(arrivals)
        if self._reopening:
            for moment in range(0, max(requests[-1][0], until), round(STEP_SECONDS * NANO)):
                self.at(moment, self._step)
        self.at(until, lambda: None)
        for moment, request in requests:
            while self._events and self._events[0][0] <= moment:
                self._next()
            self._now = moment
            self._decide(request)
        while self._events:
            self._next()

    def _next(self) -> None:
        self._now, _, event = heapq.heappop(self._events)
        event()

    def set_policy(self, policy: Policy) -> None:
        """Switch the policy: what is queued or waits for the budget is decided again."""
        self.router.name, self.router.policy = policy.name, policy.config
        self.budget.change_limit(policy.limit, self._now)
        self._begin_reign()
        recalled = [(lane, job) for lane in self._lanes.values() for job in lane.queue if isinstance(job, Job)]
        for lane, job in recalled:
            self._call_off(lane, job)
        self._step()
        for _, job in recalled:
            self._decide(job.request)
        self._wake()

    def kill_meter(self) -> None:
        """Settle with the model's mean and its uncertainty from now on."""
        self._meter_dead = True

    def set_broken(self, device: str, broken: bool) -> None:
        """Let every run on a device fail from now on, or no longer."""
        self._lanes[device].broken = broken

    def _step(self) -> None:
        """Look at the devices' power states, as the daemon does now and then."""
        self.power.step(self._now, self.router.policy, lambda device: self._lanes[device].idle)
        self._carry_out()

    def _carry_out(self) -> None:
        """Let devices do the switches that are due, behind what they have to do already."""
        while self.power.switches:
            switch = self.power.switches.pop(0)
            self._draw()
            lane = self._lanes[switch.device]
            lane.queue.append(switch)
            if lane.running is None:
                self._start(lane)

    def _end_switch(self, lane: Lane, switch: Switch, began: int, reign: int) -> None:
        lane.running = None
        if lane.broken:
            spent = self.power.failed(switch.device, switch.on, self._now)
            lane.rests_until = self._now + LONGEST_PAUSE_NANOSECONDS
        else:
            spent = self.power.done(switch.device, switch.on, self._now)
        if spent:
            self._spent.append((began, self._now, spent))
            self._last_end[reign] = self._now
        self._draw()
        self._carry_out()
        if lane.queue and lane.running is None:
            self._start(lane)
        self._wake()

    def _draw(self) -> None:
        """Begin another reign where static power has changed."""
        if self.power.drawn_watts != self._reigns[-1].static_watts:
            self._begin_reign()

    def history(self) -> History:
        """Give what an audit looks at."""
        ends = [*(reign.began for reign in self._reigns[1:]), self._now]
        lasts = np.maximum.accumulate(self._last_end).tolist()
        reigns = [
            replace(reign, ended=max(end, last)) for reign, end, last in zip(self._reigns, ends, lasts, strict=True)
        ]
        rows = [
            (
                end.request.number, end.at, end.request.wanted.deadline, sequence,
                reigns[end.request.reign].limit_nanojoules, end.request.spent_nanojoules,
            )
            for sequence, end in enumerate(self.ends, 1)
        ]  # fmt: skip
        numbers, ended, deadlines, sequences, limits, nanojoules = np.array(rows, np.int64).reshape(-1, 6).T
        statuses = np.array([end.status for end in self.ends], np.str_)
        requests = Requests(numbers, np.ones_like(numbers), statuses, ended, deadlines, sequences, limits, nanojoules)
        columns = np.array(self._spent, np.int64).reshape(-1, 3)
        spending = Spending(columns[:, 0], columns[:, 1], columns[:, 2])
        return History([Session(1, ended=True)], reigns, requests, spending)

    def _begin_reign(self) -> None:
        limit = self.budget.limit
        self._reigns.append(Reign(
            self.router.name, limit.nanojoules, limit.window_nanoseconds, self.power.drawn_watts, self._now, self._now,
            limit.burst_nanojoules, limit.burst_watts,
        ))  # fmt: skip
        self._last_end.append(0)

    def _load(self, device: str, _priority: int) -> float | None:
        lane = self._lanes[device]
        return None if self._now < lane.rests_until else lane.backlog_seconds

    def _decide(self, request: Request) -> None:
        """Decide as the dispatcher does."""
        if self._now >= request.wanted.deadline:
            self._leave_line(request)
            self._end(request, MISSED)
            return
        points = [point for point in self.points if point.device not in request.tried] if request.tried else self.points
        began = perf_counter_ns()
        ahead = self._waiting.before(request) if self._waiting else NOTHING
        in_line = request in self._waiting
        decision = self.router.decide(points, request.wanted, self._now, ahead, in_line=in_line)
        request.worked_nanoseconds += perf_counter_ns() - began
        if isinstance(decision, Wait):
            if not in_line:
                self._waiting.join(request, decision.work)
            request.turn += 1
            self.at(decision.until, partial(self._end_wait, request, request.turn))
            return
        self._leave_line(request)
        if isinstance(decision, Dispatch):
            point, reservation = decision
            self._carry_out()
            request.reign = len(self._reigns) - 1
            self._submit(Job(request, point, reservation, point.service_seconds * request.wanted.images))
        else:
            self._end(request, REFUSED[decision.reason])

    def _end(self, request: Request, status: str, point: Point | None = None) -> None:
        self.ends.append(End(request, status, self._now, point))

    def _end_wait(self, request: Request, turn: int) -> None:
        if request.turn == turn and request in self._waiting:
            self._decide(request)
            if request not in self._waiting:
                self._wake()

    def _leave_line(self, request: Request) -> None:
        if request in self._waiting:
            self._waiting.leave(request)

    def _wake(self) -> None:
        """Let the first in line try, then those behind it, until one has to go on waiting."""
        while first := self._waiting.first:
            self._decide(first)
            if first in self._waiting:
                break

    def _submit(self, job: Job) -> None:
        lane = self._lanes[job.point.device]
        lane.queue.append(job)
        lane.backlog_seconds += job.expected_seconds
        if lane.running is None:
            self._start(lane)
        else:
            self.at(job.request.wanted.deadline, partial(self._expire, lane, job))

    def _start(self, lane: Lane) -> None:
        job = lane.running = lane.queue.popleft()
        if isinstance(job, Switch):
            took = self._reopening[job.device].seconds if job.on else 0.0
            reign = len(self._reigns) - 1
            self.at(self._now + round(took * NANO), partial(self._end_switch, lane, job, self._now, reign))
            return
        job.started = self._now
        seconds = job.point.seconds * job.request.wanted.images * (1 + SECONDS_SPREAD * job.request.seconds)
        self.at(self._now + max(round(seconds * NANO), 1), partial(self._land, lane, job))

    def _expire(self, lane: Lane, job: Job) -> None:
        """Call a job off that is still queued at its deadline."""
        if job in lane.queue:
            self._call_off(lane, job)
            self._end(job.request, MISSED)
            self._wake()

    def _call_off(self, lane: Lane, job: Job) -> None:
        lane.queue.remove(job)
        self._leave(lane, job)
        self.budget.cancel(job.reservation)

    def _leave(self, lane: Lane, job: Job) -> None:
        busy = lane.queue or lane.running
        lane.backlog_seconds = lane.backlog_seconds - job.expected_seconds if busy else 0.0

    def _land(self, lane: Lane, job: Job) -> None:
        """Settle what has run and go on; on a broken device it took all it might and is tried elsewhere."""
        request, point, lane.running = job.request, job.point, None
        self._leave(lane, job)
        upper, mean = job.reservation.nanojoules, point.dynamic_nanojoules
        spread = min(ENERGY_SPREAD, (upper / mean - 1) / SPREADS_LIMIT)
        spent = upper if lane.broken else int(mean * (1 + spread * request.energy))
        if request.share is not None and not lane.broken:
            spent = min(round(mean * request.share), upper)
        known = min(round(mean * (1 + MODEL_UNCERTAINTY)), upper) if self._meter_dead and not lane.broken else spent
        self._spent.append((job.started, self._now, spent))
        request.spent_nanojoules += spent
        self._last_end[request.reign] = self._now
        began = perf_counter_ns()
        self.budget.settle(job.reservation, known, self._now)
        request.worked_nanoseconds += perf_counter_ns() - began
        if lane.broken:
            lane.rests_until = self._now + LONGEST_PAUSE_NANOSECONDS
            request.tried.add(point.device)
            self._decide(request)
        elif self._now > request.wanted.deadline:
            self._end(request, MISSED)
        else:
            point.observe((self._now - job.started) / NANO)
            self._end(request, ANSWERED, point)
        if lane.queue and lane.running is None:
            self._start(lane)
        self._wake()
