"""What the store keeps of each session, reign and request, and how a store of the first release gets there."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

from daemon.budget import Limit
from daemon.clock import NANO
from daemon.journal import Journal, Record
from daemon.ledger import Energy
from tests.daemon.builders import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = Limit(1000, 10 * NANO)


def _record(request: int, reign: int, nanojoules: int) -> Record:
    energy = Energy(nanojoules, 1, 2, "simulated", "accelerator", "exclusive")
    return Record(request, reign, "ok", 1, 1, 1, 4, None, 2, 2 * nanojoules, energy, sequence=request)


def _ask(folder: Path, query: str) -> list[tuple[object, ...]]:
    """Ask a closed store."""
    database = sqlite3.connect(folder / "journal.db")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def test_first_format_is_brought_up(tmp_path: Path) -> None:
    """A store of the first release keeps its records; what it did not record of them is 0."""
    clock = ManualClock()
    opened = Journal(tmp_path, "boot", clock, clock)
    opened.finished([_record(1, opened.reign("all", LIMIT, 0.5, 1), 5)])
    opened.close()
    database = sqlite3.connect(tmp_path / "journal.db")
    for table, column in (
        ("sessions", "ended"), ("reigns", "burst_nanojoules"), ("reigns", "burst_watts"), ("requests", "deadline"),
        ("requests", "sequence"),
    ):  # fmt: skip
        database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    database.execute("PRAGMA user_version = 1")
    database.close()
    revived = Journal(tmp_path, "boot", clock, clock)
    assert revived.finished([_record(2, revived.reign("all", LIMIT, 0.5, 3), 6)])
    revived.close()
    assert _ask(tmp_path, "SELECT id, dynamic_nanojoules, sequence FROM requests") == [(1, 5, 0), (2, 6, 2)]
    assert _ask(tmp_path, "SELECT id, ended FROM sessions") == [(1, None), (2, clock())]


def test_terminal_records_are_numbered(tmp_path: Path) -> None:
    """Each session counts its terminal records, with the deadline of each; only one that ends in order has an end."""
    clock = ManualClock()
    opened = Journal(tmp_path / "live", "boot", clock, clock)
    reign = opened.reign("all", Limit(1000, NANO, 50, 2.0), 0.0, clock())
    for number in (1, 2):
        sequence = opened.next_sequence()
        opened.finished([Record(number, reign, "over_budget", 1, 1, 1, 1, deadline=9 + number, sequence=sequence)])
    with opened._moving:
        shutil.copytree(tmp_path / "live", tmp_path / "killed")
    opened.close()
    Journal(tmp_path / "killed", "boot", clock, clock).close()
    for folder in (tmp_path / "live", tmp_path / "killed"):
        assert _ask(folder, "SELECT id, deadline, sequence FROM requests") == [(1, 10, 1), (2, 11, 2)]
        assert _ask(folder, "SELECT burst_nanojoules, burst_watts FROM reigns") == [(50, 2.0)]
    assert _ask(tmp_path / "live", "SELECT ended FROM sessions") == [(clock(),)]
    assert _ask(tmp_path / "killed", "SELECT ended FROM sessions") == [(None,), (clock(),)]
