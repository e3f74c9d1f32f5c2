"""What was acknowledged is in the journal after a crash, unaltered; what a fault took is counted."""

from __future__ import annotations

import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon import journal as journal_module
from daemon.budget import Limit
from daemon.clock import NANO
from daemon.journal import Journal, JournalError, Record
from daemon.ledger import Energy
from tests.daemon.builders import ManualClock, make_point

if TYPE_CHECKING:
    from collections.abc import Iterator
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


@pytest.fixture
def journal(tmp_path: Path, clock: ManualClock, point: Point) -> Iterator[Journal]:
    """Give an open journal that knows the point, closed in the end."""
    opened = _open(tmp_path, clock)
    opened.register(point)
    yield opened
    opened.close()


def test_summary_and_request(journal: Journal, point: Point, clock: ManualClock) -> None:
    """Sums by policy and status, and single requests, are there once they are moved."""
    reign = journal.reign("all", LIMIT, 0.5, clock())
    numbers = [journal.next_request_id() for _ in range(3)]
    assert numbers == [1, 2, 3]
    assert _finish(journal, 1, reign, point, 10, clock())
    assert _finish(journal, 2, reign, point, 20, clock())
    assert journal.finished([Record(3, reign, "over_budget", 1, 7, 7, 8)])
    journal.move()
    refused, served = journal.store.summary(0)
    assert (served.requests, served.provisional_requests, served.dynamic_nanojoules) == (2, 2, 0)
    assert (served.provisional_dynamic_nanojoules, served.provisional_static_nanojoules) == (30, 2)
    assert served.device_seconds == 1
    assert (served.policy, served.model, served.variant, served.device) == ("all", "toy", "snn", "chip")
    assert (refused.status, refused.requests, refused.model, refused.dynamic_nanojoules) == ("over_budget", 1, "", 0)
    assert journal.store.summary(clock()) == []
    row = journal.store.request(2)
    assert row is not None
    assert row.energy == (20, 1, 2, "simulated", "accelerator", "exclusive", "provisional")
    assert (row.provisional_dynamic_nanojoules, row.accepted_unix, row.failed) == (20, clock() - 3, ())
    assert journal.store.request(99) is None


def test_points_keep_their_numbers(journal: Journal, point: Point) -> None:
    """The same operating point has the same number, another one another."""
    again, other = make_point(), make_point(steps=8)
    journal.register(again)
    journal.register(other)
    assert again.journal_id == point.journal_id != other.journal_id


def test_numbers_rise_across_restarts(tmp_path: Path, clock: ManualClock, point: Point) -> None:
    """Requests and reigns of a new session have numbers of their own."""
    for session in range(3):
        opened = _open(tmp_path, clock)
        opened.register(point)
        reign = opened.reign("all", LIMIT, 0.0, clock())
        assert (reign, opened.next_request_id()) == (session + 1, session + 1)
        _finish(opened, session + 1, reign, point, 1, clock())
        opened.close()
    assert len(_rows(tmp_path)) == 3


ACTIONS = st.lists(st.sampled_from(["reserve", "finish", "refuse", "again", "move"]), max_size=40)


@settings(max_examples=40, deadline=None)
@given(actions=ACTIONS, torn=st.binary(max_size=30))
def test_kill(tmp_path_factory: pytest.TempPathFactory, actions: list[str], torn: bytes) -> None:
    """After a kill at any moment all that was acknowledged is there, and what ran is charged in full."""
    folder, clock, point = tmp_path_factory.mktemp("journal"), ManualClock(), make_point()
    journal = _open(folder / "live", clock)
    journal.register(point)
    reign = journal.reign("all", LIMIT, 0.0, clock())
    expected: dict[int, tuple[str, int]] = {}
    running: dict[int, int] = {}
    for action in actions:
        clock.advance(1)
        if action == "reserve":
            number = journal.next_request_id()
            assert _reserve(journal, number, reign, point, 50 + number, clock())
            running[number] = 50 + number
        elif action == "again" and running:
            # Taken back by a policy switch and dispatched once more.
            number = max(running)
            assert _reserve(journal, number, reign, point, 70 + number, clock())
            running[number] = 70 + number
        elif action == "finish" and running:
            number = min(running)
            del running[number]
            assert _finish(journal, number, reign, point, number, clock())
            expected[number] = ("ok", number)
        elif action == "refuse":
            number = journal.next_request_id()
            assert journal.finished([Record(number, reign, "over_budget", 1, 1, 1, 1)])
            expected[number] = ("over_budget", 0)
        elif action == "move":
            journal.move()
    with journal._moving:
        shutil.copytree(folder / "live", folder / "killed")
        tail = folder / "killed" / "tail" / journal._path.name
    journal.close()
    with tail.open("ab") as file:
        file.write(torn.replace(b"\n", b"\r").replace(b"]", b""))
    clock.advance(1)
    revived = _open(folder / "killed", clock)
    spent = revived.store.recent("boot", clock(), clock(), 10 * NANO)
    revived.close()
    assert _rows(folder / "killed") == expected | {number: ("lost", held) for number, held in running.items()}
    assert revived.lost == len(running)
    assert sum(nanojoules for _, nanojoules in spent) == sum(running.values()) + sum(e for _, e in expected.values())
    assert not list((folder / "killed" / "tail").iterdir())


def test_torn_last_line(tmp_path: Path, clock: ManualClock, point: Point) -> None:
    """A line that a power cut tore is counted as a gap; those before it are kept."""
    opened = _open(tmp_path, clock)
    opened.register(point)
    reign = opened.reign("all", LIMIT, 0.0, clock())
    _finish(opened, 1, reign, point, 5, clock())
    tail = opened._path
    shutil.copytree(tmp_path, tmp_path / "copy")
    opened.close()
    torn = tmp_path / "copy" / "tail" / tail.name
    torn.write_bytes(torn.read_bytes() + b'["finished",2,1,')
    revived = _open(tmp_path / "copy", clock)
    assert revived.gaps == 1
    revived.close()
    assert _rows(tmp_path / "copy") == {1: ("ok", 5)}


@pytest.mark.parametrize("line", ["0", "[]", "{}", '["finished"]', "\0" * 200, "null"])
def test_damaged_line(tmp_path: Path, clock: ManualClock, line: str) -> None:
    """A line that is no record is counted as a gap and keeps no daemon from starting."""
    _open(tmp_path, clock).close()
    (tmp_path / "tail" / "00000001-00000009.jsonl").write_text(f"{line}\n")
    revived = _open(tmp_path, clock)
    assert revived.gaps == 1
    revived.close()


def test_duplicated_tail(tmp_path: Path, clock: ManualClock, point: Point) -> None:
    """A tail that is replayed after younger ones changes nothing: what is finished stays finished."""
    opened = _open(tmp_path, clock)
    opened.register(point)
    reign = opened.reign("all", LIMIT, 0.0, clock())
    _reserve(opened, 1, reign, point, 100, clock())
    older = opened._path
    copy = older.read_bytes()
    opened.move()
    _finish(opened, 1, reign, point, 5, clock())
    opened.close()
    older.write_bytes(copy + copy)
    revived = _open(tmp_path, clock)
    assert revived.lost == 0
    revived.close()
    assert _rows(tmp_path) == {1: ("ok", 5)}


def test_failed_move_is_made_up_for(
    tmp_path: Path, journal: Journal, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tail that could not be moved is moved before the next one."""
    reign = journal.reign("all", LIMIT, 0.0, 1)
    _reserve(journal, 1, reign, point, 100, 1)

    def refuse(_lines: list[object]) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(journal.store, "ingest", refuse)
        with pytest.raises(sqlite3.OperationalError):
            journal.move()
    assert _finish(journal, 1, reign, point, 5, 2)
    journal.move()
    assert _rows(tmp_path) == {1: ("ok", 5)}
    assert len(list((tmp_path / "tail").iterdir())) == 1


def test_no_new_tail(tmp_path: Path, journal: Journal, point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no new tail can be created the present one goes on."""
    reign = journal.reign("all", LIMIT, 0.0, 1)
    assert _finish(journal, 1, reign, point, 5, 2)

    def refuse() -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "_open_tail", refuse)
        with pytest.raises(OSError, match="No space left"):
            journal.move()
        assert _finish(journal, 2, reign, point, 6, 3)
    journal.move()
    assert _rows(tmp_path) == {1: ("ok", 5), 2: ("ok", 6)}


def test_last_move_fails(tmp_path: Path, clock: ManualClock, point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot move its tail closes all the same; the next start finds the records."""
    opened = _open(tmp_path, clock)
    opened.register(point)
    _finish(opened, 1, opened.reign("all", LIMIT, 0.0, 1), point, 5, 2)

    def refuse() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(opened, "_open_tail", refuse)
    opened.close()
    assert _rows(tmp_path) == {}
    revived = _open(tmp_path, clock)
    revived.close()
    assert _rows(tmp_path) == {1: ("ok", 5)}


def test_thread_moves_now_and_then(tmp_path: Path, point: Point, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records reach the store without anyone asking, even after a move that failed."""
    monkeypatch.setattr(journal_module, "MOVE_INTERVAL_SECONDS", 0.001)
    opened = _open(tmp_path, ManualClock())
    ingest, failed, moved = opened.store.ingest, threading.Event(), threading.Event()

    def ingest_at_second_try(lines: list[list[object]]) -> None:
        if not failed.is_set():
            failed.set()
            raise sqlite3.OperationalError("database is locked")
        ingest(lines)
        moved.set()

    monkeypatch.setattr(opened.store, "ingest", ingest_at_second_try)
    opened.register(point)
    _finish(opened, 1, opened.reign("all", LIMIT, 0.0, 1), point, 5, 2)
    assert moved.wait(30)
    opened.close()
    assert _rows(tmp_path) == {1: ("ok", 5)}


FULL_DISK = """
import pathlib, resource, sys
from daemon.budget import Limit
from daemon.journal import Journal, Record
opened = Journal(pathlib.Path(sys.argv[1]), "boot", lambda: 5, lambda: 5)
reign = opened.reign("all", Limit(1, 1), 0.0, 1)
finish = lambda number: opened.finished([Record(number, reign, "ok", 1, 1, 1, 1)])
with opened._moving:
    assert finish(1)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = opened._path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[2]), unlimited[1]))
    assert not finish(2)
    assert opened.gaps == 1
    assert opened._path.stat().st_size == size
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert finish(3)
opened.close()
"""


@pytest.mark.parametrize("room", [0, 20], ids=["refused", "cut short"])
def test_full_disk(tmp_path: Path, room: int) -> None:
    """A record that does not fit is told and counted; the next one that fits is whole."""
    ended = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(room)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert _rows(tmp_path) == {1: ("ok", 0), 3: ("ok", 0)}


def test_second_daemon(tmp_path: Path, journal: Journal, clock: ManualClock) -> None:
    """Two daemons cannot keep one journal."""
    with pytest.raises(JournalError, match=f"{tmp_path}: another daemon keeps its journal here"):
        _open(tmp_path, clock)
    assert journal.gaps == 0


def test_not_writable(tmp_path: Path, clock: ManualClock) -> None:
    """A folder that cannot be made is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"file.*Not a directory"):
        _open(tmp_path / "file" / "journal", clock)


def test_not_a_database(tmp_path: Path, clock: ManualClock, point: Point) -> None:
    """A store that cannot be read is set aside as it is, and another one takes its place."""
    garbage = b"no database at all" * 100
    (tmp_path / "journal.db").write_bytes(garbage)
    opened = _open(tmp_path, clock, unix=NANO)
    assert opened.set_aside == tmp_path / f"journal.unreadable-{clock() // NANO + 1}.db"
    assert opened.set_aside.read_bytes() == garbage
    opened.register(point)
    assert _finish(opened, 1, opened.reign("all", LIMIT, 0.0, clock()), point, 5, clock())
    opened.close()
    assert _rows(tmp_path) == {1: ("ok", 5)}


def test_damaged_database(tmp_path: Path, clock: ManualClock, point: Point) -> None:
    """A store whose pages were overwritten is set aside as well, whenever that is noticed at the start."""
    opened = _open(tmp_path, clock)
    opened.register(point)
    reign = opened.reign("all", LIMIT, 0.0, clock())
    for number in range(500):
        _finish(opened, number + 1, reign, point, 5, clock())
    opened.close()
    damaged = bytearray((tmp_path / "journal.db").read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)
    (tmp_path / "journal.db").write_bytes(damaged)
    revived = _open(tmp_path, clock)
    assert revived.set_aside is not None
    assert revived.next_request_id() == 1
    revived.close()


def test_other_format(tmp_path: Path, clock: ManualClock) -> None:
    """A store of another format is refused."""
    _open(tmp_path, clock).close()
    database = sqlite3.connect(tmp_path / "journal.db")
    database.execute("PRAGMA user_version = 99")
    database.close()
    for _ in range(2):
        # Refused for its format each time: it is not kept by who tried before.
        with pytest.raises(JournalError, match=r"journal\.db: its format is 99, this release reads up to 6"):
            _open(tmp_path, clock)


def test_tail_that_does_not_fit(tmp_path: Path, clock: ManualClock) -> None:
    """A tail with a record of another shape keeps the daemon from starting with a reason, and stays."""
    _open(tmp_path, clock).close()
    strange = tmp_path / "tail" / "00000001-00000009.jsonl"
    strange.write_text('["finished",1,2,3,4,5,6]\n')
    with pytest.raises(
        JournalError, match=r"jsonl: a record 'finished' of 7 parts, .* knows 21; start the .*: mv "
    ) as told:
        _open(tmp_path, clock)
    assert strange.exists()
    # What it says to do is enough.
    subprocess.run(shlex.split(str(told.value).rpartition(": ")[2]), check=True)
    _open(tmp_path, clock).close()
