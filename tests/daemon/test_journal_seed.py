"""What a daemon that died may have spent counts for the next one's budget."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from daemon.budget import Limit, Past
from daemon.clock import NANO
from daemon.journal import Journal, Record
from daemon.ledger import Energy
from tests.daemon.builders import ManualClock, make_point

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.points import Point

LIMIT = Limit(1000, 10 * NANO)


def _open(folder: Path, clock: ManualClock, *, boot: str = "boot", unix: int = 0) -> Journal:
    """Open a journal whose wall clock runs `unix` ahead of the time since boot."""
    return Journal(folder, boot, clock, lambda: clock() + unix)


def _reserve(journal: Journal, request: int, reign: int, point: Point, nanojoules: int, at: int) -> bool:
    return journal.reserved(request, reign, point, nanojoules, at)


def _finish(journal: Journal, request: int, reign: int, point: Point, nanojoules: int, ended: int) -> bool:
    energy = Energy(nanojoules, 1, 2, "simulated", "accelerator", "exclusive")
    return journal.finished(
        [Record(request, reign, "ok", 1, ended - 3, ended - 3, ended, point, ended - 2, 2 * nanojoules, energy, 0.5)]
    )


def _rows(folder: Path) -> dict[int, tuple[str, int]]:
    """Give status and dynamic nanojoules of every request by its number."""
    database = sqlite3.connect(folder / "journal.db")
    try:
        found = database.execute("SELECT id, status, dynamic_nanojoules FROM requests").fetchall()
    finally:
        database.close()
    return {request: (status, nanojoules) for request, status, nanojoules in found}


@pytest.fixture
def clock() -> ManualClock:
    """Give a clock."""
    return ManualClock()


@pytest.fixture
def point() -> Point:
    """Give an operating point."""
    return make_point()


def test_lost_on_this_boot(tmp_path: Path, clock: ManualClock, point: Point) -> None:
    """What a killed daemon left running may have spent its reservation until now."""
    killed = _kill_with_one_running(tmp_path, clock, point)
    clock.advance(3 * NANO)
    revived = _open(killed, clock)
    assert revived.lost == 1
    assert revived.store.recent("boot", clock(), clock(), NANO) == [(clock(), 100)]
    revived.close()


def test_lost_on_an_earlier_boot(tmp_path: Path, clock: ManualClock, point: Point) -> None:
    """A reboot ended what ran: placed by the wall clock, it is out of the window when that has passed."""
    killed = _kill_with_one_running(tmp_path, clock, point)
    reserved_at = clock()
    rebooted = ManualClock(5)
    revived = _open(killed, rebooted, boot="other", unix=reserved_at + 4 * NANO - 5)
    recent = revived.store.recent
    assert revived.lost == 1
    assert recent("other", 5, reserved_at + 4 * NANO, 10 * NANO) == [(5 - 4 * NANO, 100)]
    assert recent("other", 5, reserved_at + 4 * NANO, 4 * NANO) == []
    assert recent("other", 5, reserved_at - 3600 * NANO, NANO) == [(5, 100)]
    assert recent("other", 5, reserved_at + 3600 * NANO, 10 * NANO) == []
    revived.close()


def _kill_with_one_running(folder: Path, clock: ManualClock, point: Point) -> Path:
    opened = _open(folder / "live", clock)
    opened.register(point)
    _reserve(opened, 1, opened.reign("all", LIMIT, 0.0, clock()), point, 100, clock())
    with opened._moving:
        shutil.copytree(folder / "live", folder / "killed")
    opened.close()
    return folder / "killed"


def test_recent_is_the_window(tmp_path: Path, clock: ManualClock, point: Point) -> None:
    """Seeding takes what ended within the window, of all sessions of this boot, whatever the wall clock."""
    ends = []
    for session in range(3):
        opened = _open(tmp_path, clock, unix=(-1) ** session * 3600 * NANO)
        opened.register(point)
        reign = opened.reign("all", LIMIT, 0.0, clock())
        for late in (0, NANO):
            number = opened.next_request_id()
            clock.advance(NANO)
            _finish(opened, number, reign, point, number, clock() - late)
            ends.append((clock() - late, number))
        opened.close()
    revived = _open(tmp_path, clock)
    assert revived.store.recent("boot", clock(), 0, 3600 * NANO) == sorted(ends)
    assert revived.store.recent("boot", clock(), 0, 2 * NANO) == [e for e in sorted(ends) if e[0] > clock() - 2 * NANO]
    revived.close()


def test_recent_reigns(tmp_path: Path, clock: ManualClock) -> None:
    """Seeding knows what was in force and on until when, and takes the last session's for so until now."""
    began = clock()
    long = Limit(5000, 60 * NANO)
    for watts, limit in ((0.5, LIMIT), (0.25, long)):
        opened = _open(tmp_path, clock)
        opened.reign("all", limit, watts, clock())
        clock.advance(NANO)
        opened.reign("all", LIMIT, 2 * watts, clock())
        clock.advance(NANO)
        opened.close()
    clock.advance(NANO)
    revived = _open(tmp_path, clock)
    revived.reign("all", LIMIT, 3.0, clock())
    recent = revived.store.recent_reigns
    past = [
        Past(began + NANO, 0.5, LIMIT), Past(began + 2 * NANO, 1.0, LIMIT), Past(began + 3 * NANO, 0.25, long),
        Past(began + 5 * NANO, 0.5, LIMIT),
    ]  # fmt: skip
    assert recent("boot", clock(), 0, 10 * NANO) == past
    # Beyond the time that is asked for, a limit is listed while one of its own windows may reach into its reign.
    later = clock() + 20 * NANO
    assert recent("boot", later, 0, 2 * NANO) == [past[2], past[3]._replace(until=later)]
    assert [each.static_watts for each in recent("other", 1, clock() + 1, 4 * NANO)] == [0.5, 1.0, 0.25, 0.5]
    revived.close()
