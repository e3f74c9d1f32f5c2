"""What the store keeps of each session, reign and request, and how a store of the first release gets there."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from daemon.budget import Limit
from daemon.clock import NANO
from daemon.journal import Journal, Record
from daemon.journal_schema import UPGRADES
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


FIRST = """
CREATE TABLE sessions (
  id INTEGER PRIMARY KEY, boot TEXT NOT NULL, started_unix INTEGER NOT NULL, started INTEGER NOT NULL
) STRICT;
CREATE TABLE points (
  id INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, variant TEXT NOT NULL, digest TEXT NOT NULL,
  device TEXT NOT NULL, steps INTEGER NOT NULL, margin INTEGER NOT NULL, simulated INTEGER NOT NULL,
  provenance TEXT NOT NULL, boundary TEXT NOT NULL, accuracy REAL NOT NULL,
  UNIQUE (digest, model, version, variant, device, steps, margin, provenance)
) STRICT;
CREATE TABLE reigns (
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, policy TEXT NOT NULL, limit_nanojoules INTEGER NOT NULL,
  window_nanoseconds INTEGER NOT NULL, static_watts REAL NOT NULL, began INTEGER NOT NULL
) STRICT;
CREATE TABLE requests (
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, reign INTEGER NOT NULL, point INTEGER, status TEXT NOT NULL,
  images INTEGER NOT NULL, accepted_unix INTEGER NOT NULL, accepted INTEGER NOT NULL, started INTEGER NOT NULL,
  ended INTEGER NOT NULL, reserved_nanojoules INTEGER NOT NULL, dynamic_nanojoules INTEGER NOT NULL,
  static_nanojoules INTEGER NOT NULL, uncertainty_nanojoules INTEGER NOT NULL, energy_state TEXT NOT NULL,
  device_seconds REAL NOT NULL
) STRICT;
CREATE INDEX requests_by_session ON requests (session, ended);
INSERT INTO sessions VALUES (1, 'boot', 1, 1);
INSERT INTO points VALUES (1, 'toy', '1', 'snn', 'd', 'chip', 4, 0, 1, 'simulated', 'accelerator', 0.9);
INSERT INTO reigns VALUES (1, 1, 'all', 1000, 10, 0.5, 1);
INSERT INTO requests VALUES
  (1, 1, 1, 1, 'ok', 1, 1, 1, 2, 4, 10, 5, 1, 2, 'provisional', 0.5),
  (2, 1, 1, 1, 'running', 1, 1, 1, 2, 2, 10, 0, 0, 0, 'provisional', 0.0);
PRAGMA user_version = 1;
"""


def test_first_format_is_brought_up(tmp_path: Path) -> None:
    """A store of the first release keeps its records; what it did not record of them is 0.

    No figure of it became final later, so those that left with the replies are. A request that ran when its daemon died
    is charged in full.
    """
    clock = ManualClock()
    database = sqlite3.connect(tmp_path / "journal.db")
    database.executescript(FIRST)
    database.close()
    revived = Journal(tmp_path, "boot", clock, clock)
    assert (revived.lost, revived.unsettled) == (1, 0)
    assert revived.finished([_record(3, revived.reign("all", LIMIT, 0.5, 3), 6)])
    revived.close()
    assert _ask(
        tmp_path,
        "SELECT id, dynamic_nanojoules, provisional_dynamic_nanojoules, provenance, energy_state, sequence "
        "FROM requests",
    ) == [
        (1, 5, 5, "simulated", "final", 0),
        (2, 10, 0, "simulated", "final", 0),
        (3, 6, 6, "simulated", "provisional", 3),
    ]
    assert _ask(tmp_path, "SELECT id, ended FROM sessions") == [(1, None), (2, clock())]


# By their format, what daemons of earlier releases left in their tails when they were killed.
TAILS = {
    1: """\
["reign",2,1,"all",1000,10,0.5,5]
["reserved",3,1,2,1,20,6]
["finished",3,1,2,1,"ok",1,7,6,7,9,20,8,1,2,"provisional",0.25]
["finished",4,1,2,null,"over_budget",1,8,8,0,9,0,0,0,0,"final",0.0]
["reserved",5,1,2,1,30,10]
""",
    2: """\
["reign",2,1,"all",1000,10,0.5,5,50,2.0]
["reserved",3,1,2,1,20,6]
["finished",3,1,2,1,"ok",1,7,6,7,9,20,8,1,2,"provisional",0.25,99,1]
["finished",4,1,2,null,"over_budget",1,8,8,0,9,0,0,0,0,"final",0.0,99,2]
["reserved",5,1,2,1,30,10]
""",
}


@pytest.mark.parametrize("version", TAILS)
def test_tail_of_an_earlier_release(tmp_path: Path, version: int) -> None:
    """What a killed daemon of an earlier release left in its tail is brought up with its store."""
    clock = ManualClock()
    database = sqlite3.connect(tmp_path / "journal.db")
    database.executescript(FIRST)
    for step in range(1, version):
        database.executescript(f"{UPGRADES[step]}PRAGMA user_version = {step + 1};")
    database.close()
    (tmp_path / "tail").mkdir()
    (tmp_path / "tail" / "00000001-00000001.jsonl").write_text(TAILS[version])
    revived = Journal(tmp_path, "boot", clock, clock)
    assert (revived.gaps, revived.lost) == (0, 2)
    # The limits that were in force before bind as well.
    reigns = revived.store.recent_reigns("boot", clock(), clock(), clock())
    assert [each.limit for each in reigns] == [Limit(1000, 10)] * 2
    revived.close()
    found = _ask(
        tmp_path,
        "SELECT id, status, dynamic_nanojoules, static_nanojoules, uncertainty_nanojoules, provenance, energy_state, "
        "device_seconds, deadline, sequence FROM requests WHERE id > 2",
    )
    early = version == 1
    assert found == [
        (3, "ok", 8, 1, 2, "simulated", "final", 0.25, 0 if early else 99, 0 if early else 1),
        (4, "over_budget", 0, 0, 0, "", "final", 0.0, 0 if early else 99, 0 if early else 2),
        (5, "lost", 30, 0, 30, "simulated", "final", 0.0, 0, 0),
    ]
    bursts = _ask(tmp_path, "SELECT burst_nanojoules, burst_watts FROM reigns WHERE id = 2")
    assert bursts == [(None, 0.0) if early else (50, 2.0)]


@pytest.mark.parametrize("line", ["[1,2,3,4,5,6,7]", '["odd",3,1,2,1,20,6]', "[[],2,3,4,5,6,7]", '["finished"', "{}"])
def test_line_of_no_release(tmp_path: Path, line: str) -> None:
    """A line that no release wrote is a gap, and what stands around it is kept."""
    clock = ManualClock()
    (tmp_path / "tail").mkdir()
    sound = '["finished",5,1,2,null,"cancelled",1,8,8,0,9,0,0.0,0,1,0,0,0,"","","final"]'
    (tmp_path / "tail" / "00000001-00000001.jsonl").write_text(f"{line}\n{sound}\n")
    revived = Journal(tmp_path, "boot", clock, clock)
    assert revived.gaps == 1
    revived.close()
    assert _ask(tmp_path, "SELECT id, status FROM requests") == [(5, "cancelled")]


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
