"""The check of the ledger finds every nanojoule that is missing, and only those."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.identity import check_identity
from daemon.journal_seals import DAY_NANOSECONDS
from daemon.journal_store import Store
from hal.errors import DeviceUnavailable, Reason
from tests.daemon.builders import Bench, ManualClock, drive, hosting

if TYPE_CHECKING:
    from pathlib import Path

ROOMY = {"roomy": PolicyConfig("accuracy", 1.0)}


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Give the journal of two devices: four answers, one of them after a failure."""

    async def scenario() -> None:
        benches = [Bench(static_watts=0.25), Bench("spare", static_watts=0.5)]
        for bench in benches:
            bench.during = lambda: clock.advance(NANO // 100)
        async with hosting(tmp_path, clock, ROOMY, *benches) as host:
            for number in range(4):
                if number == 2:
                    benches[0].failures = [DeviceUnavailable("chip", Reason.LOST)]
                await host.ask()
                clock.advance(NANO)
                await host.metering.sample()

    clock = ManualClock()
    drive(clock, scenario())
    return tmp_path / "journal.db"


def _change(journal: Path, statement: str) -> None:
    with closing(sqlite3.connect(journal, isolation_level=None)) as database:
        assert database.execute(statement).rowcount >= 1


def test_a_good_journal(journal: Path) -> None:
    """Four answers of 100 nJ and a failure of 200 nJ, static power of two devices: all of it is accounted for."""
    finding = check_identity(journal)
    assert finding.violations == []
    figures = finding.figures
    assert (figures["accounts"], figures["dynamic_nanojoules"], figures["not_final"]) == (2, 600, 0)
    assert figures["static_nanojoules"] > 0
    parts = ("dynamic", "static", "idle", "background", "unattributed", "maintenance")
    assert sum(figures[f"{part}_nanojoules"] for part in parts) == figures["metered_nanojoules"]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE ledger SET idle_nanojoules = idle_nanojoules + 1 WHERE meter = 1", "session 1: -1 of "),
        ("UPDATE ledger SET ended = ended - 1 WHERE meter = 1", "session 1: chip tells nothing from "),
        ("UPDATE requests SET dynamic_nanojoules = 99 WHERE id = 1", "session 1, account 0: requests were told "),
        ("UPDATE attempts SET dynamic_nanojoules = 0", "session 1, account 0: requests were told "),
        ("DELETE FROM requests WHERE id = 4", "account "),
    ],
)
def test_what_is_missing_is_named(journal: Path, statement: str, said: str) -> None:
    """A nanojoule too many, a hole, a figure that was changed, a failure or a request that is gone."""
    _change(journal, statement)
    violations = check_identity(journal).violations
    assert violations
    assert said in violations[0]


def test_a_sealed_journal(journal: Path) -> None:
    """What is left of ranges and requests adds up as before, and a change of it is noticed."""
    before = check_identity(journal).figures
    store = Store(journal)
    while store.seal(DAY_NANOSECONDS):
        pass
    store.close()
    finding = check_identity(journal)
    assert finding.violations == []
    assert finding.figures["ranges"] == 2
    assert {**finding.figures, "ranges": before["ranges"]} == before
    _change(journal, "UPDATE seals SET told_nanojoules = told_nanojoules + 1 WHERE device = 'spare'")
    assert check_identity(journal).violations
