"""From a reservation to what was spent: in the budget, in the books, in the journal of attempts that failed."""

from __future__ import annotations

import math
from collections.abc import Callable

import structlog

from daemon.attribution import Row
from daemon.books import Books, Closed
from daemon.budget import Budget, Reservation
from daemon.clock import NANO, Clock
from daemon.journal import FailedAttempt, Journal
from daemon.ledger import Energy, provisional, row_id
from daemon.tasks import Job
from hal.device import Inference

log = structlog.get_logger()


class Settlement:
    """Settles attempts when they have landed, or where a meter counts their joules when these are known.

    `overruns` counts how often what the meters counted did not fit the budget any more. `settled` is called when late
    figures have changed the budget.
    """

    def __init__(
        self, budget: Budget, books: Books, journal: Journal, clock: Clock, settled: Callable[[], None]
    ) -> None:
        self.overruns = 0
        self._budget = budget
        self._books = books
        self._journal = journal
        self._clock = clock
        self._settled = settled
        self._unsettled: dict[int, Reservation] = {}

    def answered(self, request_id: int, job: Job, inference: Inference, static_watts: float) -> Energy:
        """Settle an attempt that the device answered; give its provisional figure."""
        device, images = job.point.device, len(job.images)
        energy = provisional(job.point, inference, static_watts, job.first, images)
        number, nanojoules = row_id(request_id), energy.dynamic_nanojoules
        if self._books.measured(device):
            self._unsettled[number] = job.reservation
        else:
            self._budget.settle(job.reservation, nanojoules, job.ended)
        # A simulator is busy for longer than what it simulates.
        seconds = inference.seconds if job.point.simulated and not self._books.measured(device) else math.inf
        self._books.ran(device, _row(number, job, seconds, nanojoules, energy.uncertainty_nanojoules))
        return energy

    def failed(self, request_id: int, number: int, reign: int, job: Job) -> None:
        """Settle a request's attempt that failed, the `number`th: it may have spent all that was reserved."""
        nanojoules = job.reservation.nanojoules
        self._budget.settle(job.reservation, nanojoules, job.ended)
        attempt = FailedAttempt(request_id, number, reign, job.point, job.started, job.ended, nanojoules)
        self._journal.failed(attempt)
        self._books.ran(job.point.device, _row(row_id(request_id, number), job, math.inf, nanojoules, nanojoules))

    def close(self, closed: Closed) -> None:
        """Settle what waited for its final figure, and spend what a meter counted and nobody asked for."""
        if not (self._unsettled or closed.unasked):
            return
        now, budget = self._clock(), self._budget
        before = budget.room_nanojoules(now)
        for final in closed.finals:
            reservation = self._unsettled.pop(final.row_id, None)
            if reservation is not None:
                budget.settle(reservation, final.dynamic_nanojoules, now)
        for ended, nanojoules in closed.unasked:
            budget.spend(nanojoules, ended)
        after = budget.room_nanojoules(now)
        if after < 0 <= before:
            self.overruns += 1
            log.error("the meters counted more than the budget allows", over_nanojoules=-after)
        self._settled()


def _row(number: int, job: Job, seconds: float, nanojoules: int, uncertainty_nanojoules: int) -> Row:
    """Enter a job for as long as it ran, or for `seconds` of that; nothing takes less than a nanosecond."""
    ended = job.ended
    if seconds < (ended - job.started) / NANO:
        ended = job.started + round(seconds * NANO)
    return Row(number, min(job.started, ended - 1), ended, nanojoules, uncertainty_nanojoules, 0, len(job.images))
