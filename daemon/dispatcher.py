"""Take a request to an answer: decide, dispatch, settle, record. The one place that joins router, fleet and journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from daemon.background import repeat
from daemon.budget import Budget
from daemon.clock import NANO, Clock
from daemon.config import PolicyConfig
from daemon.errors import (
    STATUS,
    DeadlinePassed,
    NoCandidate,
    NotFound,
    OverBudget,
    Overloaded,
    PolicyRefused,
    RequestError,
    Unavailable,
)
from daemon.fleet import Fleet
from daemon.flight import Answer, Flight, record
from daemon.journal import Journal, Record
from daemon.lane import Outcome
from daemon.ledger import Energy, with_failures
from daemon.metering import Metering
from daemon.points import Model
from daemon.policies import check
from daemon.power import Power, Supply
from daemon.router import Constraints, Dispatch, Refuse, Router, Wait
from daemon.settlement import Settlement
from daemon.switchboard import STEP_SECONDS, Switchboard
from daemon.tasks import Job
from daemon.waiting import NOTHING, WaitingLine
from hal.device import Inference
from hal.errors import DeviceUnavailable
from hal.names import near

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from daemon.journal_store import Store


class _Recalled(Exception):
    """A policy switch took a queued request back: it is decided again."""


class Dispatcher:
    """Serves requests under the policy in force. Everything runs on the event loop.

    Each of the `listeners` is called once for every request that has ended, with its record as the journal has it. They
    are on the way of every answer: they add up and return, and they never raise.
    """

    def __init__(
        self,
        fleet: Fleet,
        journal: Journal,
        metering: Metering,
        policies: dict[str, PolicyConfig],
        start: str,
        clock: Clock,
        unix: Clock,
    ) -> None:
        """Put the start policy in force. Raises `PolicyRefused` for a policy that this host cannot keep."""
        self.policies = policies
        self.fleet = fleet
        self.listeners: list[Callable[[Record], None]] = []
        self._journal = journal
        self._clock = clock
        self._unix = unix
        self._loop = asyncio.get_running_loop()
        self._waiting = WaitingLine[Flight]()
        self._flying: dict[Job, Flight] = {}
        supplies = [
            Supply(lane.name, lane.static_watts, lane.reopening, since=clock()) for lane in fleet.lanes.values()
        ]
        policy = policies[start]
        longest = max(each.limit.window_nanoseconds for each in policies.values())
        self.budget = Budget(policy.limit, static_watts=fleet.static_watts, longest_window_nanoseconds=longest)
        self.power = Power(self.budget, supplies)
        for name, each in policies.items():
            self._check(name, each)
        self.router = Router(start, policy, self.budget, fleet.load_seconds, self.power)
        self.switchboard = Switchboard(self.power, fleet, journal, self, clock, unix)
        for lane in fleet.lanes.values():
            lane.landed = self._landed
            lane.gave_up = partial(self._take_back, lane.name)
        fleet.came_up = self.switchboard.found
        self._books = metering.books
        self.settlement = Settlement(self.budget, self._books, journal, clock, self._wake)
        metering.closed = self.settlement.close
        self._closed_before = metering.early
        self.reign = 0
        self.static_changed()

    def recover(self, store: Store, boot: str) -> None:
        """Enter what earlier daemons left in the journal of limits, static power and what was spent.

        So is what meters counted while this one opened its devices. Those that there is no room for are powered down.
        """
        now, unix = self._clock(), self._unix()
        past = store.recent_reigns(boot, now, unix, self.budget.longest_window_nanoseconds)
        self.budget.seed(past, now)
        self.seed(store.recent(boot, now, unix, self.budget.longest_window_nanoseconds))
        while self._closed_before:
            self.settlement.close(self._closed_before.popleft())
        if past:
            self.power.resume(now, past[-1].static_watts, self.router.policy)
            self.switchboard.carry_out()

    def seed(self, spent: list[tuple[int, int]]) -> None:
        """Enter what was spent before this daemon started, as (end, nanojoules), oldest first."""
        for ended, nanojoules in spent:
            self.budget.spend(nanojoules, ended)

    def fill(self) -> None:
        """Count a whole window of any policy as spent, where nothing is known of what was."""
        self.budget.spend(max(policy.limit.nanojoules for policy in self.policies.values()), self._clock())

    def set_policy(self, name: str) -> str:
        """Put another policy in force at once, on the ledger as it stands; give the name of the one before.

        What is queued and not yet running is taken back and decided again. Raises `NotFound`, or `PolicyRefused` where
        the host cannot keep the policy any more.
        """
        if name not in self.policies:
            raise NotFound(f"no policy {name!r}{near(name, self.policies)}")
        previous, policy = self.router.name, self.policies[name]
        self._check(name, policy)
        self.router.name, self.router.policy = name, policy
        self.budget.change_limit(policy.limit, self._clock())
        self.static_changed()
        for job in list(self._flying):
            self._recall(job)
        self.switchboard.step(policy)
        self._wake()
        return previous

    def check_policies(self, policies: dict[str, PolicyConfig]) -> None:
        """Raise `PolicyRefused` where these cannot replace the policies while the daemon runs."""
        kept = self.budget.longest_window_nanoseconds
        for name, policy in policies.items():
            self._check(name, policy)
            if policy.limit.window_nanoseconds > kept:
                raise PolicyRefused(
                    f"policy.{name}.window_seconds: {policy.window_seconds:g} exceeds the {kept / NANO:g} s of which "
                    "the running daemon knows what was spent; restart it"
                )

    def replace_policies(self, policies: dict[str, PolicyConfig], start: str) -> None:
        """Take other policies, checked ones; the one in force stays so, by its name, or `start` follows it."""
        name = self.router.name if self.router.name in policies else start
        self.policies = policies
        if name != self.router.name or policies[name] != self.router.policy:
            self.set_policy(name)

    def _check(self, name: str, policy: PolicyConfig) -> None:
        """Refuse a policy that this host cannot keep; what a device could do that is not there nobody knows."""
        check(name, policy, self.power.supplies.values(), self.fleet.points() if self.fleet.complete else [])

    def static_changed(self) -> None:
        """Begin another reign: the policy or static power has changed."""
        delay_seconds = self.router.policy.batch_delay_seconds
        now = self._clock()
        self.reign = self._journal.reign(self.router.name, self.budget.limit, self.fleet.static_watts, now)
        for lane in self.fleet.lanes.values():
            self._books.change_static(lane.name, lane.static_watts, now)
            lane.wait_for_batches(delay_seconds)

    def settled(self) -> None:
        """Let those who wait look again: the budget has settled something."""
        self._wake()

    async def watch_power(self) -> None:
        """Power idle devices down and others up, for ever."""
        await repeat("power", lambda: self.switchboard.step(self.router.policy), STEP_SECONDS)

    async def classify(self, model: Model, images: NDArray[np.generic], wanted: Constraints) -> Answer:
        """Answer a checked request for a model. Raises a `RequestError`.

        Either way the journal has the request's end first.
        """
        number, landing = self._journal.next_request_id(), self._loop.create_future()
        flight = Flight(
            number, model, self._unix(), self._clock(), len(images), wanted.deadline, wanted.priority, landing
        )  # fmt: skip
        try:
            return await self._serve(flight, images, wanted)
        except RequestError as error:
            flight.ended_as = STATUS[type(error)]
            self._end([flight])
            raise
        except asyncio.CancelledError:
            if not flight.ended_as:
                flight.ended_as = "deadline" if self._clock() >= wanted.deadline else "cancelled"
                if flight.job is None:
                    self._end([flight])
            raise
        finally:
            self._pass_on(flight)

    async def _serve(self, flight: Flight, images: NDArray[np.generic], wanted: Constraints) -> Answer:
        points, tried = flight.model.points, set[str]()
        while True:
            flight.policy, flight.reign = self.router.name, self.reign
            now = self._clock()
            if now >= wanted.deadline:
                raise DeadlinePassed
            candidates = [point for point in points if point.device not in tried] if tried else points
            ahead = self._waiting.before(flight) if self._waiting else NOTHING
            decision = self.router.decide(candidates, wanted, now, ahead, in_line=flight.turn is not None)
            if isinstance(decision, Dispatch):
                if self.power.switches:
                    self.switchboard.carry_out()
                self._pass_on(flight)
                try:
                    return await self._fly(flight, decision, images, wanted.deadline, now)
                except _Recalled:
                    continue
                except DeviceUnavailable:
                    tried.add(decision.point.device)
            elif isinstance(decision, Wait):
                await self._wait(flight, decision, now)
            else:
                raise self._refusal(decision, (wanted.deadline - now) / NANO, bool(tried))

    def _refusal(self, refuse: Refuse, left_seconds: float, failed_over: bool) -> RequestError:
        if refuse.reason == "deadline":
            return DeadlinePassed(refuse.needed_seconds)
        retry_seconds = max(refuse.retry_nanoseconds / NANO, 1e-3)
        if refuse.reason == "budget":
            joules = refuse.needed_nanojoules / NANO
            return OverBudget(self.router.name, joules, refuse.needed_seconds, left_seconds, retry_seconds)
        if refuse.reason == "load":
            return Overloaded(refuse.needed_seconds, left_seconds, retry_seconds)
        if refuse.reason == "lost" or failed_over:
            return Unavailable("every device that could serve the request is lost")
        return NoCandidate(f"no operating point meets the constraints under policy {self.router.name!r}")

    async def _fly(
        self, flight: Flight, dispatch: Dispatch, images: NDArray[np.generic], deadline: int, now: int
    ) -> Answer:
        """Make one attempt. Raises `DeviceUnavailable`, `DeadlinePassed`, `_Recalled`."""
        point, reservation = dispatch
        flight.reserved_nanojoules = reservation.nanojoules
        if flight.landing.done():
            flight.landing = self._loop.create_future()
        expected_seconds = point.service_seconds * len(images)
        job = flight.job = Job(point, images, deadline, reservation, expected_seconds, flight.priority)
        self._flying[job] = flight
        self._journal.reserved(flight.request_id, flight.reign, point, reservation.nanojoules, now)
        self.fleet.lanes[point.device].submit(job)
        timer = self._loop.call_later((deadline - now) / NANO, self._expire, job)
        try:
            return await flight.landing
        except asyncio.CancelledError:
            self._call_off(job)
            raise
        finally:
            timer.cancel()

    def _landed(self, jobs: list[Job], outcome: Outcome) -> None:
        """Settle a batch that ended on its device, record it with one write, then let its requests go on."""
        ended, answered = [], []
        for job in jobs:
            flight = self._flying.pop(job)
            flight.job, flight.landed = None, job
            flight.energy = energy = self._settle(flight, job, outcome)
            if flight.ended_as:
                ended.append(flight)
            elif flight.landing.done():
                # Cancelled or expired in this turn of the loop: its request is about to end and records what it spent.
                continue
            elif not isinstance(outcome, Inference) or job.ended > job.deadline:
                failure = outcome if isinstance(outcome, DeviceUnavailable) else DeadlinePassed()
                flight.landing.set_exception(failure)
            elif energy is not None:
                flight.ended_as = "ok"
                flight.device_seconds = outcome.seconds * flight.images / len(outcome.scores)
                ended.append(flight)
                answered.append((flight, job, outcome, energy))
        journaled = self._end(ended) if ended else True
        for flight, job, inference, energy in answered:
            scores = inference.scores[job.first : job.first + flight.images]
            queued = (job.started - flight.accepted) / NANO
            flight.landing.set_result(
                Answer(
                    flight.request_id, scores, inference.steps, job.point, flight.policy,
                    with_failures(energy, flight.failed_nanojoules), flight.device_seconds, queued, journaled,
                )
            )  # fmt: skip
        self._wake()

    def _end(self, flights: list[Flight]) -> bool:
        """Record how requests ended, with one write; tell of those of which no attempt runs any more.

        False when the journal could not take it.
        """
        records, now = [], self._clock()
        for flight in flights:
            flight.sequence = flight.sequence or self._journal.next_sequence()
            records.append(record(flight, now))
        journaled = self._journal.finished(records)
        for flight, ended in zip(flights, records, strict=True):
            if flight.job is None:
                for listener in self.listeners:
                    listener(ended)
        return journaled

    def _settle(self, flight: Flight, job: Job, outcome: Outcome) -> Energy | None:
        """Turn a reservation into what was spent; an attempt that never ran gives it back."""
        if isinstance(outcome, Inference):
            static_watts = self.fleet.lanes[job.point.device].static_watts
            return self.settlement.answered(flight.request_id, job, outcome, static_watts)
        if outcome is None:
            self.budget.cancel(job.reservation)
        else:
            flight.failures += 1
            flight.failed_nanojoules += job.reservation.nanojoules
            self.settlement.failed(flight.request_id, flight.failures, flight.reign, job)
        return None

    def _expire(self, job: Job) -> None:
        """The deadline passed: a queued attempt is called off, a running one is not waited for."""
        flight = self._flying.get(job)
        self._call_off(job)
        if flight is not None and not flight.landing.done():
            flight.landing.set_exception(DeadlinePassed())

    def _recall(self, job: Job) -> None:
        """Take a queued attempt back to be decided again."""
        flight = self._flying[job]
        if self._call_off(job):
            # Should the daemon die before it is dispatched again, it spent nothing here.
            self._journal.reserved(flight.request_id, flight.reign, job.point, 0, self._clock())
            if not flight.landing.done():
                flight.landing.set_exception(_Recalled())

    def _take_back(self, device: str) -> None:
        """Let everything that waits for a lost device be decided again."""
        for job in list(self._flying):
            if job.point.device == device:
                self._recall(job)

    def _call_off(self, job: Job) -> bool:
        """Take an attempt out of its queue and give its reservation back, unless it runs or has landed."""
        flight = self._flying.get(job)
        if flight is None or not self.fleet.lanes[job.point.device].call_off(job):
            return False
        del self._flying[job]
        flight.job = None
        self.budget.cancel(job.reservation)
        self._wake()
        return True

    async def _wait(self, flight: Flight, wait: Wait, now: int) -> None:
        """Wait in line for a turn: as the first, when something makes room, or at the latest when the wait says.

        One that waited in vain keeps its place.
        """
        if flight.turn is None:
            self._waiting.join(flight, wait.work)
        turn = flight.turn = self._loop.create_future()
        timer = self._loop.call_later((wait.until - now) / NANO, _give, turn)
        try:
            await turn
        finally:
            timer.cancel()

    def _wake(self) -> None:
        """Give the first in line its turn."""
        if self._waiting and (first := self._waiting.first) and first.turn:
            _give(first.turn)

    def _pass_on(self, flight: Flight) -> None:
        """Let the next in line try as well, now that this one has what it waited for, or never will."""
        if flight.turn is not None:
            flight.turn = None
            self._waiting.leave(flight)
            self._wake()


def _give(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
