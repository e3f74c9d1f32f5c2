"""Sums over time: whatever was summed before, the answer is that of all records."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from daemon import journal_sums
from daemon.attribution import Final
from daemon.budget import Limit
from daemon.clock import NANO
from daemon.journal import FailedAttempt, Journal, Record
from daemon.journal_sums import EVER, STRETCH_NANOSECONDS, SummaryRow
from daemon.ledger import Energy, row_id
from hal.device import Provenance
from tests.daemon.builders import ManualClock, make_point

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOUR = 3600 * NANO
FROM = 400 * HOUR
SPANS = [(0, EVER), (FROM, FROM + HOUR), (FROM + 7 * NANO, FROM + HOUR - 13), (FROM + 100 * NANO, FROM + 160 * NANO)]
STEPS = [0, STRETCH_NANOSECONDS, HOUR, 60 * NANO, 7 * NANO]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Open a journal whose wall clock stands, so that it sums only what a test tells it to."""
    opened = Journal(tmp_path, "boot", ManualClock(), lambda: 0)
    yield opened
    opened.close()


class History:
    """Random requests over two hours, some of which fail, and figures that become final later."""

    def __init__(self, journal: Journal, seed: int) -> None:
        self.journal = journal
        self.chances = random.Random(seed)  # noqa: S311 (nobody guesses these)
        self.points = [make_point(device=device) for device in ("chip", "stick")]
        for point in self.points:
            journal.register(point)
        self.reigns = [journal.reign(policy, Limit(1000, 10 * NANO), 0.1, 0) for policy in ("tight", "loose")]
        self.open: list[int] = []

    def go_on(self, requests: int) -> None:
        """Let so many requests end, in any order of their acceptance, and half of the open figures become final."""
        for _ in range(requests):
            number, point = self.journal.next_request_id(), self.chances.choice(self.points)
            reign, accepted = self.chances.choice(self.reigns), FROM + self.chances.randrange(2 * HOUR)
            if self.chances.random() < 0.2:
                self.journal.failed(FailedAttempt(number, 1, reign, point, 1, 2, self.chances.randrange(500)))
                self.open.append(row_id(number, 1))
            if self.chances.random() < 0.2:
                self.journal.finished([Record(number, reign, "over_budget", 1, accepted, 1, 2)])
                continue
            energy = Energy(self.chances.randrange(1000), 3, 1, "simulated", "accelerator", "exclusive")
            self.journal.finished([Record(number, reign, "ok", 1, accepted, 1, 3, point, 2, 900, energy, 0.001)])
            self.open.append(row_id(number))
        self.chances.shuffle(self.open)
        done, self.open = self.open[: len(self.open) // 2], self.open[len(self.open) // 2 :]
        self.journal.settled(
            [Final(each, False, self.chances.randrange(1000), 7, 1, Provenance.MEASURED, "shared") for each in done], []
        )
        self.journal.move()


def by_records(journal: Journal, since: int, until: int, step: int) -> list[SummaryRow]:
    """Sum the records themselves."""
    rows = journal.store._database.execute(journal_sums.RECORDS, (since, until, step or EVER)).fetchall()
    return sorted((SummaryRow(*row) for row in rows), key=lambda row: row.kind)


def rounded(rows: list[SummaryRow]) -> list[tuple[object, ...]]:
    """Give rows without the last digits of their seconds, which depend on the order of adding."""
    return [(*row.kind, row.requests, row.dynamic_nanojoules, row.static_nanojoules, round(row.device_seconds, 9),
             row.provisional_requests, row.provisional_dynamic_nanojoules, row.provisional_static_nanojoules)
            for row in rows]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_those_of_the_records(journal: Journal, seed: int) -> None:
    """Late requests, failed attempts and late final figures all find their way into sums that were made before."""
    history = History(journal, seed)
    for turn in range(4):
        history.go_on(60)
        journal.store.sum_up(FROM + (turn + 1) * HOUR // 2)
        for since, until in SPANS:
            for step in STEPS:
                found = journal.store.summary(since, until, step)
                assert rounded(found) == rounded(by_records(journal, since, until, step)), (since, until, step)


def test_only_what_changed_is_summed_anew(journal: Journal) -> None:
    """A stretch that is summed stays so until one of its records changes."""
    history = History(journal, 0)
    history.go_on(200)
    journal.store.sum_up(FROM + 2 * HOUR)
    database = journal.store._database
    assert database.execute("SELECT COUNT(*), SUM(summed) FROM stretches WHERE number > 0").fetchone() == (12, 12)
    history.open.clear()
    history.go_on(1)
    assert database.execute("SELECT COUNT(*) FROM stretches WHERE number > 0 AND summed = 0").fetchone() == (1,)


def test_what_has_not_passed_is_not_summed(journal: Journal) -> None:
    """The stretch that is going on is looked at record by record."""
    History(journal, 0).go_on(50)
    journal.store.sum_up(FROM + STRETCH_NANOSECONDS - 1)
    assert journal.store._database.execute("SELECT COUNT(*) FROM sums").fetchone() == (0,)
