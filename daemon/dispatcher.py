"""Take a request to an answer: decide, dispatch, settle, record. The one place that joins router, fleet and journal."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from daemon.budget import Budget, Reservation, limit_of
from daemon.clock import NANO, Clock
from daemon.config import PolicyConfig
from daemon.errors import (
    DeadlinePassed,
    NoCandidate,
    NotFound,
    OverBudget,
    Overloaded,
    PolicyRefused,
    RequestError,
    Unavailable,
)
from daemon.fleet import Fleet, Job, Outcome
from daemon.journal import Journal, Record
from daemon.ledger import Energy, provisional
from daemon.points import Point
from daemon.router import Constraints, Dispatch, Refuse, Router, Wait
from hal.device import Inference

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATUS = {
    DeadlinePassed: "deadline",
    NoCandidate: "no_candidate",
    OverBudget: "over_budget",
    Overloaded: "overloaded",
    Unavailable: "unavailable",
}


@dataclass(frozen=True)
class Answer:
    """What a request came to. `scores` is (N, classes)."""

    request_id: int
    scores: NDArray[np.float32]
    steps: int
    point: Point
    policy: str
    energy: Energy
    device_seconds: float
    queue_seconds: float
    journaled: bool


@dataclass(eq=False)
class _Flight:
    """A request under way: what its record needs, and the attempt that runs now."""

    request_id: int
    accepted_unix: int
    accepted: int
    images: int
    reserved_nanojoules: int = 0
    failed_nanojoules: int = 0
    policy: str = ""
    reign: int = 0
    reservation: Reservation | None = None
    landing: asyncio.Future[tuple[Job, Outcome, Energy | None]] | None = None
    left: str = ""


class _Recalled(Exception):
    """A policy switch took a queued request back: it is decided again."""


class Dispatcher:
    """Serves requests under the policy in force. Everything runs on the event loop."""

    def __init__(
        self, fleet: Fleet, journal: Journal, policies: dict[str, PolicyConfig], start: str, clock: Clock, unix: Clock
    ) -> None:
        """Put the start policy in force. Raises `PolicyRefused` for a policy that this host cannot keep."""
        self.policies = policies
        self.fleet = fleet
        self._journal = journal
        self._clock = clock
        self._unix = unix
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._queued: dict[Job, _Flight] = {}
        for name in policies:
            self._check_limit(name)
        policy = policies[start]
        longest = max(round(each.window_seconds * NANO) for each in policies.values())
        limit = limit_of(policy.budget_watts, policy.window_seconds)
        self.budget = Budget(limit, static_watts=fleet.static_watts, longest_window_nanoseconds=longest)
        self.router = Router(start, policy, self.budget, fleet.load_seconds)
        self._reign = journal.reign(start, limit, fleet.static_watts, clock())

    def seed(self, spent: list[tuple[int, int]]) -> None:
        """Enter what was spent before this daemon started, as (end, nanojoules), oldest first."""
        for ended, nanojoules in spent:
            self.budget.spend(nanojoules, ended)

    def set_policy(self, name: str) -> str:
        """Put another policy in force at once, on the ledger as it stands; give the name of the one before.

        What is queued and not yet running is taken back and decided again. Raises `NotFound`.
        """
        if name not in self.policies:
            raise NotFound(f"no policy {name!r}; known are {', '.join(self.policies)}")
        previous, policy = self.router.name, self.policies[name]
        self.router.name, self.router.policy = name, policy
        self.budget.limit = limit_of(policy.budget_watts, policy.window_seconds)
        self._reign = self._journal.reign(name, self.budget.limit, self.budget.static_watts, self._clock())
        for job, flight in list(self._queued.items()):
            self._recall(job, flight)
        self._wake()
        return previous

    def _check_limit(self, name: str) -> None:
        """Refuse a limit that static power alone breaks; zero means to serve nothing."""
        watts, static = self.policies[name].budget_watts, self.fleet.static_watts
        if 0 < watts < static:
            raise PolicyRefused(f"policy.{name}.budget_watts: {watts} is below the static power of {static:.3f} W")

    async def classify(self, points: list[Point], images: NDArray[np.generic], wanted: Constraints) -> Answer:
        """Answer a checked request for a model of these points. Raises a `RequestError`.

        Either way the journal has the request's end first.
        """
        accepted = self._clock()
        flight = _Flight(self._journal.next_request_id(), self._unix(), accepted, len(images))
        try:
            return await self._serve(flight, points, images, wanted)
        except RequestError as error:
            flight.left = STATUS.get(type(error), "error")
            self._record(flight)
            raise
        except asyncio.CancelledError:
            flight.left = "deadline" if self._clock() >= wanted.deadline else "cancelled"
            if flight.reservation is None:
                self._record(flight)
            raise

    async def _serve(
        self, flight: _Flight, points: list[Point], images: NDArray[np.generic], wanted: Constraints
    ) -> Answer:
        tried: set[str] = set()
        while True:
            now = self._clock()
            if now >= wanted.deadline:
                raise DeadlinePassed
            flight.policy, flight.reign = self.router.name, self._reign
            candidates = [point for point in points if point.device not in tried] if tried else points
            decision = self.router.decide(candidates, wanted, now)
            if isinstance(decision, Dispatch):
                try:
                    job, outcome, energy = await self._fly(flight, decision, images, wanted.deadline, now)
                except _Recalled:
                    continue
                if isinstance(outcome, Inference) and energy is not None:
                    return self._answer(flight, job, outcome, energy)
                if outcome is None:
                    raise DeadlinePassed
                tried.add(decision.point.device)
            elif isinstance(decision, Wait):
                await self._wait(decision.until, now)
            else:
                raise self._refusal(decision, bool(tried))

    def _refusal(self, refuse: Refuse, failed_over: bool) -> RequestError:
        retry_seconds = max(refuse.retry_nanoseconds / NANO, 1e-3)
        if refuse.reason == "budget":
            return OverBudget(self.router.name, retry_seconds)
        if refuse.reason == "load":
            return Overloaded(retry_seconds)
        if refuse.reason == "lost" or failed_over:
            return Unavailable("every device that could serve the request is lost")
        return NoCandidate(f"no operating point meets the constraints under policy {self.router.name!r}")

    async def _fly(
        self, flight: _Flight, dispatch: Dispatch, images: NDArray[np.generic], deadline: int, now: int
    ) -> tuple[Job, Outcome, Energy | None]:
        """Queue one attempt and wait for its end. Raises `_Recalled`, `DeadlinePassed`."""
        point, reservation = dispatch.point, dispatch.reservation
        self._journal.reserved(flight.request_id, flight.reign, point, reservation.nanojoules, now)
        landing: asyncio.Future[tuple[Job, Outcome, Energy | None]] = self._loop.create_future()
        flight.landing, flight.reservation = landing, reservation
        flight.reserved_nanojoules = reservation.nanojoules
        expected = point.service_seconds * len(images)
        job = Job(point, images, deadline, reservation, lambda job, out: self._landed(flight, job, out), expected)
        self._queued[job] = flight
        self.fleet.lanes[point.device].submit(job)
        timer = self._loop.call_later((deadline - now) / NANO, self._expire, flight, job)
        try:
            return await landing
        except asyncio.CancelledError:
            self._call_off(flight, job)
            raise
        finally:
            timer.cancel()

    def _landed(self, flight: _Flight, job: Job, outcome: Outcome) -> None:
        """Settle an attempt that ended on its device: the reservation becomes what was spent."""
        del self._queued[job]
        reservation, energy = job.reservation, None
        if isinstance(outcome, Inference):
            energy = provisional(job.point, outcome, self.fleet.lanes[job.point.device].static_watts)
            self.budget.settle(reservation, energy.dynamic_nanojoules, job.ended)
            energy = _with_failures(energy, flight.failed_nanojoules)
        elif outcome is None:
            self.budget.cancel(reservation)
        else:
            self.budget.settle(reservation, reservation.nanojoules, job.ended)
            flight.failed_nanojoules += reservation.nanojoules
        flight.reservation = None
        self._wake()
        if flight.left:
            self._record(flight, job, energy)
        elif flight.landing is not None and not flight.landing.done():
            flight.landing.set_result((job, outcome, energy))

    def _answer(self, flight: _Flight, job: Job, inference: Inference, energy: Energy) -> Answer:
        flight.left = "ok"
        journaled = self._record(flight, job, energy, inference.seconds)
        return Answer(
            flight.request_id, inference.scores, inference.steps, job.point, flight.policy, energy,
            inference.seconds, (job.started - flight.accepted) / NANO, journaled,
        )  # fmt: skip

    def _expire(self, flight: _Flight, job: Job) -> None:
        """The deadline passed: a queued attempt is called off, a running one is not waited for."""
        self._call_off(flight, job)
        if flight.landing is not None and not flight.landing.done():
            flight.landing.set_exception(DeadlinePassed())

    def _recall(self, job: Job, flight: _Flight) -> None:
        if self._call_off(flight, job) and flight.landing is not None and not flight.landing.done():
            flight.landing.set_exception(_Recalled())

    def _call_off(self, flight: _Flight, job: Job) -> bool:
        """Take an attempt out of its queue and give its reservation back, unless it already runs."""
        if not self.fleet.lanes[job.point.device].call_off(job):
            return False
        del self._queued[job]
        if flight.reservation is not None:
            self.budget.cancel(flight.reservation)
        flight.reservation = None
        self._wake()
        return True

    def _record(
        self, flight: _Flight, job: Job | None = None, energy: Energy | None = None, device_seconds: float = 0.0
    ) -> bool:
        """Write the request's end. While an attempt still runs, its reservation stands for what it spends."""
        held = flight.reservation.nanojoules if flight.reservation else 0
        if energy is None and held + flight.failed_nanojoules:
            energy = Energy(held + flight.failed_nanojoules, 0, 0, "modelled", "accelerator")
        return self._journal.finished(
            Record(
                flight.request_id, flight.reign, flight.left, flight.images, flight.accepted_unix, flight.accepted,
                job.ended if job else self._clock(), job.point if job else None, job.started if job else 0,
                flight.reserved_nanojoules, energy, device_seconds,
            )
        )  # fmt: skip

    async def _wait(self, until: int, now: int) -> None:
        """Wait until `until`, or until a settlement makes room and this request is the first in line."""
        turn: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later((until - now) / NANO, _set, turn)
        self._waiting.append(turn)
        try:
            await turn
        finally:
            timer.cancel()
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return


def _set(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)


def _with_failures(energy: Energy, failed_nanojoules: int) -> Energy:
    """Add what failed attempts may have spent, of which nothing more is known than the bound."""
    if not failed_nanojoules:
        return energy
    return replace(
        energy,
        dynamic_nanojoules=energy.dynamic_nanojoules + failed_nanojoules,
        uncertainty_nanojoules=energy.uncertainty_nanojoules + failed_nanojoules,
    )
