"""Retention: sums and audit of a sealed journal are those of the whole one, whenever the daemon dies."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from daemon.audit import audit
from daemon.budget import Limit
from daemon.clock import NANO
from daemon.history import read_journal
from daemon.journal import Journal, Record
from daemon.journal_seals import DAY_NANOSECONDS
from daemon.journal_store import Store
from daemon.journal_sums import EVER, STRETCH_NANOSECONDS
from daemon.ledger import Energy
from tests.daemon.builders import ManualClock, make_point
from tests.daemon.test_journal_sums import FROM, HOUR, History, rounded

if TYPE_CHECKING:
    from pathlib import Path

SPANS = [(0, EVER), (FROM, FROM + HOUR), (FROM + STRETCH_NANOSECONDS, FROM + 2 * HOUR)]
STEPS = [0, STRETCH_NANOSECONDS, HOUR]
REQUESTS = 300
NUMBERS = range(1, REQUESTS + 1)
# Seals a store, and dies after so many tens of SQLite's instructions, in the middle of a transaction.
DYING = """
import os, pathlib, signal, sys
from daemon.journal_store import Store
store, left = Store(pathlib.Path(sys.argv[1])), int(sys.argv[2])
def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
store._database.set_progress_handler(step, 10)
while store.seal(int(sys.argv[3])):
    pass
"""


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """Give the store of a session that ended in order: requests of two hours, answered in another order."""
    clock = ManualClock()
    journal = Journal(tmp_path, "boot", clock, clock)
    points = [make_point(device=device) for device in ("chip", "stick")]
    for each in points:
        journal.register(each)
    reign = journal.reign("all", Limit(10**12, 10 * NANO), 0.1, clock())
    numbers = [journal.next_request_id() for _ in range(REQUESTS)]
    for place, number in enumerate(sorted(numbers, key=lambda number: number % 7)):
        at = FROM + number * 2 * HOUR // REQUESTS
        point = None if number % 5 == 0 else points[number % 2]
        energy = Energy(number, 2, 1, "simulated", "accelerator", "exclusive")
        status = "ok" if point else "over_budget"
        record = Record(
            number, reign, status, 1, at, at, at + 3, point, at + 1, 2 * number, energy if point else None, 0.5,
            deadline=at + 9, sequence=place + 1,
        )  # fmt: skip
        assert journal.finished([record])
    journal.close()
    return tmp_path / "journal.db"


def ask(store: Path, statement: str) -> list[tuple[int, ...]]:
    """Carry a statement out on a store that nobody else has open."""
    with closing(sqlite3.connect(store, isolation_level=None)) as database:
        return database.execute(statement).fetchall()


def violations(store: Path) -> dict[str, list[str]]:
    """Audit a store; give the promises that are broken."""
    return {finding.invariant: finding.violations for finding in audit(read_journal(store)) if finding.violations}


def seal(store: Store, until: int) -> None:
    """Seal all there is."""
    while store.seal(until):
        pass


@pytest.mark.parametrize("seed", range(3))
def test_sums_stay_what_they_are(tmp_path: Path, seed: int) -> None:
    """Whatever is sealed in between, and whatever comes late, questions are answered as if nothing were."""
    journals = [Journal(tmp_path / name, "boot", ManualClock(), lambda: 0) for name in ("whole", "sealed")]
    histories = [History(journal, seed) for journal in journals]
    whole, sealed = (journal.store for journal in journals)
    for turn in range(4):
        for history in histories:
            history.go_on(60)
        seal(sealed, FROM + HOUR + turn * STRETCH_NANOSECONDS)
        sealed.sum_up(FROM + 2 * HOUR)
        for span in SPANS:
            for step in STEPS:
                assert rounded(sealed.summary(*span, step)) == rounded(whole.summary(*span, step)), (span, step)
    (left,) = sealed._database.execute("SELECT COUNT(*) FROM requests").fetchone()
    assert 0 < left < 240
    for journal in journals:
        journal.close()


def test_a_sealed_stretch_is_told_whole(ended: Path) -> None:
    """A span that begins within ten minutes that are sealed takes all of them, one that begins behind them nothing."""
    store = Store(ended)
    seal(store, FROM + STRETCH_NANOSECONDS)
    found = store.summary(FROM + STRETCH_NANOSECONDS - 1, FROM + STRETCH_NANOSECONDS, 60 * NANO)
    assert sum(row.requests for row in found) == REQUESTS // 12 - 1
    assert {row.begin_unix_nanoseconds for row in found} == {FROM}
    later = store.summary(FROM + STRETCH_NANOSECONDS)
    assert sum(row.requests for row in later) == REQUESTS - REQUESTS // 12 + 1
    store.close()


def test_the_audit_misses_nothing(ended: Path) -> None:
    """Sealed records are not missed; one that is gone besides is, and so is a sealed one that comes back."""
    store = Store(ended)
    seal(store, FROM + HOUR)
    store.close()
    found = {finding.invariant: finding.figures for finding in audit(read_journal(ended))}
    assert violations(ended) == {}
    assert (found["I1"]["sealed"], found["I1"]["requests"]) == (REQUESTS // 2 - 1, REQUESTS // 2 + 1)
    assert found["I5"]["acknowledged"] == REQUESTS
    ask(ended, "CREATE TABLE kept AS SELECT * FROM requests WHERE id = 200")
    ask(ended, "DELETE FROM requests WHERE id = 200")
    assert violations(ended) == {
        "I1": ["session 1: 1 requests are neither recorded nor sealed"],
        "I5": [f"session 1: of the terminal records {REQUESTS // 2} are not there, and {REQUESTS // 2 - 1} are sealed"],
    }
    ask(ended, "UPDATE kept SET id = 3, sequence = (SELECT sequence FROM kept)")
    ask(ended, "INSERT INTO requests SELECT * FROM kept")
    ask(ended, "UPDATE kept SET id = 200")
    ask(ended, "UPDATE kept SET id = 4, sequence = 0")
    ask(ended, "INSERT INTO requests SELECT * FROM kept")
    assert violations(ended) == {"I1": ["session 1: 1 sealed requests are there too"]}


def test_a_late_answer_stays_one(ended: Path) -> None:
    """What broke a promise is not forgotten with its record."""
    ask(ended, "UPDATE requests SET ended = deadline + 1 WHERE id = 3")
    store = Store(ended)
    seal(store, FROM + HOUR)
    store.close()
    assert violations(ended) == {"I2": ["session 1: 1 sealed answers came after their deadlines"]}


def test_numbers_are_not_given_again(ended: Path) -> None:
    """Requests are numbered on from the last one, even if its record is sealed."""
    store = Store(ended)
    seal(store, FROM + 3 * HOUR)
    assert store.next_ids()[0] == REQUESTS + 1
    assert ask(ended, "SELECT COUNT(*) FROM requests") == [(0,)]
    store.close()
    assert violations(ended) == {}


def test_a_sealed_number_is_found_in_the_sum_of_its_time(ended: Path) -> None:
    """Each number that was sealed, and no other, has the ten minutes in which it was accepted."""
    store = Store(ended)
    begins = [FROM + number * 2 * HOUR // REQUESTS // STRETCH_NANOSECONDS * STRETCH_NANOSECONDS for number in NUMBERS]
    seal(store, FROM + HOUR)
    found = [store.sealed(number) for number in NUMBERS]
    assert found == [[begin] if begin < FROM + HOUR else [] for begin in begins]
    assert store.sealed(REQUESTS + 1) == []
    store.close()


def test_after_a_clock_was_set_back_a_number_may_be_in_two_sums(ended: Path) -> None:
    """Ten minutes that come twice have numbers around those in between, whose sum may then be either."""
    ask(ended, "UPDATE requests SET accepted_unix = (SELECT MIN(accepted_unix) FROM requests) WHERE id = 300")
    store = Store(ended)
    seal(store, FROM + 3 * HOUR)
    assert store.sealed(1) == [FROM]
    assert store.sealed(REQUESTS // 2) == [FROM, FROM + HOUR]
    store.close()


def test_a_kill_leaves_the_old_state_or_the_new_one(ended: Path) -> None:
    """Killed in the middle of a transaction, sums and audit are what they were, and the next one goes on."""
    store = Store(ended)
    before = rounded(store.summary(0))
    store.close()
    for left in (10, 100, 500, 10**9):
        command = [sys.executable, "-c", DYING, str(ended), str(left), str(FROM + HOUR)]
        ended_as = subprocess.run(command, check=False).returncode
        assert ended_as == (0 if left == 10**9 else -signal.SIGKILL)
        store = Store(ended)
        assert rounded(store.summary(0)) == before
        store.close()
        assert violations(ended) == {}
        remaining = REQUESTS if ended_as else REQUESTS // 2 + 1
        assert ask(ended, "SELECT COUNT(*) FROM requests") == [(remaining,)]


def test_a_journal_seals_what_is_older_than_its_retention(ended: Path) -> None:
    """In whole ten minutes, and anew when ten more have passed; without a retention all is kept."""
    now = FROM + DAY_NANOSECONDS
    for days, unix, left in ((None, now + HOUR, 300), (1, now + HOUR, 151), (1, now + HOUR + STRETCH_NANOSECONDS, 126)):
        journal = Journal(ended.parent, "boot", ManualClock(), lambda unix=unix: unix, days)  # type: ignore[misc]
        while journal._seal():
            pass
        journal._tidy()
        journal.close()
        assert ask(ended, "SELECT COUNT(*) FROM requests") == [(left,)]
