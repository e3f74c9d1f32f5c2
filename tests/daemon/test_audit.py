"""The audit tells a history that keeps every promise from one that breaks any, over restarts and reboots."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.audit import Finding, audit
from daemon.budget import Limit
from daemon.history import History, Requests, Session, read_journal
from daemon.journal import Journal, Record
from daemon.journal_reader import NoJournal
from daemon.journal_schema import VERSION
from daemon.ledger import Energy
from daemon.windows import Reign, Spending, worst_windows
from tests.daemon.builders import ManualClock, make_point

if TYPE_CHECKING:
    from pathlib import Path


def _requests(*rows: tuple[int, int, str, int, int, int, int, int]) -> Requests:
    """Make requests of (number, session, status, ended, deadline, sequence, limit, nanojoules)."""
    numbers, sessions, statuses, *others = zip(*rows, strict=True)
    ended, deadlines, sequences, limits, nanojoules = np.array(others, np.int64)
    return Requests(
        np.array(numbers), np.array(sessions), np.array(statuses), ended, deadlines, sequences, limits, nanojoules
    )


# Two sessions, the first of them killed: request 4 ran then and is lost, request 3 was never dispatched.
KEPT = (
    (1, 1, "ok", 20, 25, 1, 100, 40),
    (2, 1, "over_budget", 21, 30, 2, 100, 0),
    (4, 1, "lost", 50, 0, 0, 100, 30),
    (5, 2, "ok", 60, 60, 1, 100, 30),
    (6, 2, "deadline", 61, 61, 2, 100, 0),
)


def _history(*rows: tuple[int, int, str, int, int, int, int, int], last_ended: bool = True) -> History:
    requests = _requests(*rows)
    spent = requests.nanojoules > 0
    return History(
        [Session(1, ended=False), Session(2, ended=last_ended)],
        [Reign("only", 100, 100, 0.0, 0, 50), Reign("only", 100, 100, 0.0, 50, 100)],
        requests,
        Spending(requests.ended[spent] - 10, requests.ended[spent], requests.nanojoules[spent]),
    )


def _violations(findings: list[Finding]) -> dict[str, list[str]]:
    return {finding.invariant: finding.violations for finding in findings if finding.violations}


def test_a_history_that_keeps_its_promises() -> None:
    """A kill loses what ran and what waited, and breaks no promise; the figures tell of it."""
    findings = audit(_history(*KEPT))
    assert _violations(findings) == {}
    figures = {name: figure for finding in findings for name, figure in finding.figures.items()}
    assert (figures["requests"], figures["ended"], figures["lost_in_a_kill"]) == (5, 5, 1)
    assert (figures["undispatched_at_a_kill"], figures["sessions"], figures["acknowledged"]) == (1, 2, 4)
    assert figures["worst_window_fraction"] == pytest.approx(1.0)
    assert (figures["spent_nanojoules"], figures["answers"]) == (100, 2)


@pytest.mark.parametrize(
    ("place", "row", "invariant", "violation"),
    [
        (4, (5, 2, "deadline", 61, 61, 2, 100, 0), "I1", "request 5: 2 records"),
        (4, (6, 2, "running", 61, 61, 0, 100, 0), "I1", "request 6: 'running' is no terminal status"),
        (0, (1, 1, "running", 20, 25, 1, 100, 40), "I1", "request 1: 'running' is no terminal status"),
        (4, (6, 2, "fine", 61, 61, 2, 100, 0), "I1", "request 6: 'fine' is no terminal status"),
        (4, (7, 2, "deadline", 61, 61, 2, 100, 0), "I1", "request 6: no record, and its session ended in order"),
        (3, (5, 2, "ok", 60, 59, 1, 100, 30), "I2", "request 5: answered 0.000000001 s after its deadline"),
        (3, (5, 2, "ok", 60, 60, 1, 100, 31), "I4", "policy 'only': a window holds 1.0100000 of its limit"),
        (3, (5, 2, "ok", 60, 60, 1, 0, 30), "I4", "request 5: dispatched under a limit of zero"),
        (4, (6, 2, "deadline", 61, 61, 3, 100, 0), "I5", "session 2: terminal record 2 is missing"),
        (0, (1, 1, "ok", 20, 25, 0, 100, 40), "I5", "session 1: terminal record 1 is missing"),
        (4, (6, 2, "deadline", 61, 61, 1, 100, 0), "I5", "session 2: two terminal records are number 1"),
    ],
)
def test_a_broken_promise(
    place: int, row: tuple[int, int, str, int, int, int, int, int], invariant: str, violation: str
) -> None:
    """Each promise is found broken when one row breaks it, and no other is."""
    rows = list(KEPT)
    rows[place] = row
    assert _violations(audit(_history(*rows)))[invariant] == [violation]


def test_many_violations_are_counted() -> None:
    """Of a kind of violation the first are named."""
    history = _history(*((number, 2, "ok", 60, 50, number, 100, 0) for number in range(1, 31)))
    (violations,) = _violations(audit(history)).values()
    assert len(violations) == 6
    assert violations[-1] == "and 25 more like this"


def test_a_session_that_goes_on() -> None:
    """In the last session requests may still be under way, in no other."""
    rows = [*KEPT[:4], (6, 2, "running", 61, 0, 0, 100, 0)]
    assert _violations(audit(_history(*rows, last_ended=False))) == {}
    assert _violations(audit(_history(*rows))) == {"I1": ["request 6: 'running' is no terminal status"]}


def test_bursts_are_checked() -> None:
    """A short limit is held to as well."""
    history = _history(*KEPT)
    reigns = [replace(reign, burst_nanojoules=50, burst_watts=0.5) for reign in history.reigns]
    assert _violations(audit(replace(history, reigns=reigns))) == {}
    reigns = [replace(reign, burst_nanojoules=40, burst_watts=0.5) for reign in history.reigns]
    assert _violations(audit(replace(history, reigns=reigns))) == {
        "I4": ["policy 'only': a burst holds 1.2500000 of its limit"]
    }


def _finished(journal: Journal, request: int, reign: int, started: int, ended: int, nanojoules: int) -> None:
    energy = Energy(nanojoules, 0, 0, "simulated", "accelerator", "exclusive")
    journal.finished(
        [
            Record(
                request, reign, "ok", 1, started, started, ended, make_point(), started, 2 * nanojoules, energy,
                deadline=ended + 1, sequence=journal.next_sequence(),
            )
        ]
    )  # fmt: skip


def _session(folder: Path, boot: str, began: int, unix: int) -> Journal:
    """Run a session of two reigns from `began` on, with a request under each and one that is refused."""
    clock = ManualClock(began)
    journal = Journal(folder, boot, clock, lambda: clock() + unix)
    first = journal.reign("first", Limit(100, 10), 0.25, began)
    number = journal.next_request_id()
    _finished(journal, number, first, began + 5, began + 30, 7)
    second = journal.reign("second", Limit(200, 20, 50, 2.0), 0.25, began + 10)
    _finished(journal, number + 1, second, began + 12, began + 20, 9)
    journal.finished(
        [Record(number + 2, second, "over_budget", 1, 0, began + 13, began + 13, sequence=journal.next_sequence())]
    )
    clock.advance(40)
    return journal


def test_read_journal(tmp_path: Path) -> None:
    """A reign lasts until the end of what was dispatched under it, sessions of a boot share its clock."""
    for began in (1000, 1100):
        _session(tmp_path, "boot", began, unix=5000).close()
    history = read_journal(tmp_path / "journal.db")
    assert history.sessions == [Session(1, ended=True), Session(2, ended=True)]
    assert history.reigns == [
        Reign("first", 100, 10, 0.25, 0, 30),
        Reign("second", 200, 20, 0.25, 10, 40, 50, 2.0),
        Reign("first", 100, 10, 0.25, 100, 130),
        Reign("second", 200, 20, 0.25, 110, 140, 50, 2.0),
    ]
    assert history.spending.started.tolist() == [5, 12, 105, 112]
    assert history.spending.nanojoules.tolist() == [7, 9, 7, 9]
    assert history.requests.statuses.tolist() == ["ok", "ok", "over_budget"] * 2
    assert (history.requests.sequences.tolist(), history.requests.deadlines[0]) == ([1, 2, 3] * 2, 31)
    assert _violations(audit(history)) == {}


@pytest.mark.parametrize(("unix", "began"), [(10_000, 5000), (0, 40)], ids=["wall clock", "wall clock set back"])
def test_a_reboot(tmp_path: Path, unix: int, began: int) -> None:
    """A boot has its place by the wall clock, after the end of the one before whatever the wall clock says."""
    _session(tmp_path, "one", 1000, unix=5000).close()
    _session(tmp_path, "two", 1000, unix=unix).close()
    history = read_journal(tmp_path / "journal.db")
    assert [reign.began for reign in history.reigns] == [0, 10, began, began + 10]
    assert history.spending.started.tolist() == [5, 12, began + 5, began + 12]


def test_windows_go_over_a_restart(tmp_path: Path) -> None:
    """What one session spent and what the next one spends are in one window, and are too much for it together."""
    for began in (1000, 1050):
        clock = ManualClock(began)
        journal = Journal(tmp_path, "boot", clock, clock)
        reign = journal.reign("only", Limit(100, 100), 0.0, began)
        _finished(journal, journal.next_request_id(), reign, began + 1, began + 2, 60)
        clock.advance(2)
        journal.close()
    assert _violations(audit(read_journal(tmp_path / "journal.db"))) == {
        "I4": ["policy 'only': a window holds 1.2000000 of its limit"]
    }


def test_a_killed_session(tmp_path: Path) -> None:
    """What ran at a kill is charged until the restart; the store shows only what was moved before that."""
    clock = ManualClock(1000)
    journal = Journal(tmp_path / "live", "boot", clock, clock)
    journal.register(point := make_point())
    reign = journal.reign("only", Limit(100, 100), 0.0, 1000)
    _finished(journal, journal.next_request_id(), reign, 1001, 1002, 10)
    journal.reserved(journal.next_request_id(), reign, point, 20, 1003)
    journal.move()
    assert _violations(audit(read_journal(tmp_path / "live" / "journal.db"))) == {}
    with journal._moving:
        shutil.copytree(tmp_path / "live", tmp_path / "killed")
    journal.close()
    clock.advance(50)
    Journal(tmp_path / "killed", "boot", clock, clock).close()
    history = read_journal(tmp_path / "killed" / "journal.db")
    assert history.sessions == [Session(1, ended=False), Session(2, ended=True)]
    assert history.reigns == [Reign("only", 100, 100, 0.0, 0, 50)]
    assert (history.spending.started.tolist(), history.spending.ended.tolist()) == ([1, 3], [2, 50])
    assert _violations(audit(history)) == {}


def test_an_empty_journal(tmp_path: Path) -> None:
    """A session in which nothing happened breaks nothing."""
    clock = ManualClock()
    Journal(tmp_path, "boot", clock, clock).close()
    history = read_journal(tmp_path / "journal.db")
    assert (history.reigns, len(history.requests.numbers), len(history.spending.ended)) == ([], 0, 0)
    assert _violations(audit(history)) == {}


def test_request_in_flight_at_a_switch_to_more(tmp_path: Path) -> None:
    """What the larger limit allows while an older request still runs is no violation of the smaller one."""
    clock = ManualClock(1000)
    journal = Journal(tmp_path, "boot", clock, clock)
    small = journal.reign("small", Limit(10, 10), 0.0, 1000)
    _finished(journal, 1, small, 1001, 1040, 1)
    large = journal.reign("large", Limit(100, 10), 0.0, 1020)
    _finished(journal, 2, large, 1022, 1024, 90)
    journal.close()
    history = read_journal(tmp_path / "journal.db")
    assert max(worst_windows(history.reigns, history.spending).values()) <= 1.0


def test_no_journal(tmp_path: Path) -> None:
    """A file that is no journal is named, with what is wrong with it."""
    text, other, old = tmp_path / "text", tmp_path / "other.db", tmp_path / "old.db"
    text.write_text("no database at all" * 100)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE sessions (id INTEGER)")
    database.close()
    clock = ManualClock()
    Journal(tmp_path, "boot", clock, clock).close()
    shutil.copy(tmp_path / "journal.db", old)
    with sqlite3.connect(old) as database:
        database.execute("PRAGMA user_version = 1")
    database.close()
    for path, reason in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "no such file"),
        (text, "file is not a database"),
        (other, "no journal, it has no table 'reigns'"),
        (old, f"its format is 1, this release reads {VERSION}; a daemon that starts on an older journal brings it up"),
    ):
        with pytest.raises(NoJournal) as raised:
            read_journal(path)
        assert str(raised.value) == f"{path}: {reason}"
