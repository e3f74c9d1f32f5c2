"""The journal: what every request cost, kept across crashes.

Before a reply leaves, its record is appended to a tail file with one write(2); the page cache survives a killed
process. A thread moves full tails into the SQLite store, and opening the journal replays the tails that a crash left
behind. If a write fails, serving goes on and the gap is counted.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from daemon.attribution import Final
from daemon.books import Range
from daemon.budget import Limit
from daemon.clock import NANO, Clock
from daemon.journal_seals import DAY_NANOSECONDS
from daemon.journal_store import Store
from daemon.journal_sums import FINAL, STRETCH_NANOSECONDS
from daemon.journal_tails import Misfit, read_line
from daemon.ledger import Energy
from daemon.points import Point

MOVE_INTERVAL_SECONDS = 0.5
# A stretch of time is summed so long after its end: by then nearly all of its figures are final.
SETTLED_SECONDS = 60
# What SQLite says of a file that is damaged, or no database: the rest of a code says more.
PRIMARY_CODE = 0xFF
UNREADABLE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
NOTHING = Energy(0, 0, 0, "", "", "", FINAL)

log = structlog.get_logger()


class JournalError(Exception):
    """The journal cannot be opened: the message says which file and why."""


class Record(NamedTuple):
    """The terminal record of a request. Times are the clock's nanoseconds, but `accepted_unix` those since 1970.

    `point`, `started` and `energy` are those of the attempt that was answered or ran last, in a batch of `batch` images
    of which its own begin at `first`; `failed_nanojoules` is what failed attempts may have spent, `policy` the one that
    decided last. What follows the sequence is not in the journal's line.
    """

    request_id: int
    reign: int
    status: str
    images: int
    accepted_unix: int
    accepted: int
    ended: int
    point: Point | None = None
    started: int = 0
    reserved_nanojoules: int = 0
    energy: Energy | None = None
    device_seconds: float = 0.0
    deadline: int = 0
    sequence: int = 0
    model: str = ""
    version: str = ""
    policy: str = ""
    batch: int = 0
    first: int = 0
    failed_nanojoules: int = 0

    @property
    def queue_nanoseconds(self) -> int:
        """Tell how long it was not running: until the attempt that counts began, or until the end without one."""
        return (self.started or self.ended) - self.accepted

    @property
    def compute_nanoseconds(self) -> int:
        """Tell how long its attempt ran, with the batch that it was part of."""
        return self.ended - self.started if self.started else 0


class FailedAttempt(NamedTuple):
    """An attempt of a request that failed on its device, the `number`th one from 1 on, with the bound of its energy."""

    request_id: int
    number: int
    reign: int
    point: Point
    started: int
    ended: int
    nanojoules: int


class Journal:
    """An open journal. `append` methods are safe on the event loop: one write to the page cache each."""

    def __init__(
        self, folder: Path, boot: str, clock: Clock, unix_nanoseconds: Clock, retention_days: int | None = None
    ) -> None:
        """Open the journal in `folder`, replay what a crash left, begin a session. Raises `JournalError`.

        Records older than the retention are sealed; without one all are kept. A store that cannot be read any more is
        set aside, and another one begun: `set_aside` says where it is.
        """
        self.gaps = 0
        self._clock = clock
        self._unix = unix_nanoseconds
        self._retention_days = retention_days
        self._sealed_until = 0
        self._tails = folder / "tail"
        self._encode_lines = msgspec.json.Encoder().encode_lines
        self._writing = threading.Lock()
        self._moving = threading.Lock()
        self._closing = threading.Event()
        self._number = self._sequence = 0
        try:
            with ExitStack() as opened:
                self._tails.mkdir(mode=0o750, parents=True, exist_ok=True)
                self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
                opened.callback(os.close, self._lock)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.set_aside = self._begin_or_set_aside(folder / "journal.db", boot)
                opened.callback(self.store.close)
                self._path, self._tail = self._open_tail()
                opened.pop_all()
        except BlockingIOError:
            raise JournalError(f"{folder}: another daemon keeps its journal here") from None
        except OSError as error:
            raise JournalError(f"{error.filename or folder}: {error.strerror}") from None
        except sqlite3.Error as error:
            raise JournalError(f"{folder / 'journal.db'}: {error}") from None
        self._thread = threading.Thread(target=self._move_now_and_then, name="journal", daemon=True)
        self._thread.start()

    def _begin_or_set_aside(self, path: Path, boot: str) -> Path | None:
        """Begin a session in the store, or in a new one where it cannot be read; say where that one is then."""
        try:
            self._begin(path, boot, self._unix())
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & PRIMARY_CODE not in UNREADABLE:
                raise
            aside = _set_aside(path, self._unix() // NANO)
            log.error("journal cannot be read", reason=str(error), set_aside=str(aside))
            self._begin(path, boot, self._unix())
            return aside
        return None

    def _begin(self, path: Path, boot: str, unix: int) -> None:
        """Open the store, enter what a crash left, begin a session."""
        self.store = Store(path)
        try:
            for tail in sorted(self._tails.glob("*.jsonl")):
                self._ingest(tail)
            self.lost, self.unsettled = self.store.close_session(boot, self._clock())
            self.store.open_session(boot, unix, self._clock())
            self._next_request, self._next_reign = self.store.next_ids()
        except BaseException:
            self.store.close()
            raise

    def next_request_id(self) -> int:
        """Give the next request its number; numbers rise across restarts."""
        self._next_request += 1
        return self._next_request - 1

    def next_sequence(self) -> int:
        """Number the next terminal record of this session, so that one that is missing later is missed.

        A record that adds to an earlier one of its request keeps the number.
        """
        self._sequence += 1
        return self._sequence

    def register(self, point: Point) -> None:
        """Give an operating point the number by which records name it; one that cannot be entered keeps none."""
        try:
            point.journal_id = self.store.point_id(point)
        except sqlite3.Error as error:
            self.gaps += 1
            log.error("operating point not in the journal", device=point.device, reason=str(error), gaps=self.gaps)

    def open_account(self, account: int, devices: Sequence[str], meters: Sequence[tuple[str, str]]) -> list[int]:
        """Enter an account of the frontier, its meters by name and boundary; give the numbers that name them."""
        return self.store.open_account(account, devices, meters)

    def reign(self, policy: str, limit: Limit, static_watts: float, at: int) -> int:
        """Record that a policy came into force, or that static power changed under it; give the reign's number."""
        number = self._next_reign
        self._next_reign += 1
        self._append(
            [
                [
                    "reign", number, self.store.session, policy, limit.nanojoules, limit.window_nanoseconds,
                    static_watts, at, limit.burst_nanojoules, limit.burst_watts,
                ]
            ]
        )  # fmt: skip
        return number

    def reserved(self, request_id: int, reign: int, point: Point, nanojoules: int, at: int) -> bool:
        """Record that a request is about to be dispatched with a reservation."""
        return self._append([["reserved", request_id, self.store.session, reign, point.journal_id, nanojoules, at]])

    def finished(self, records: list[Record]) -> bool:
        """Record how requests ended; False when the journal could not take it."""
        return self._append([self._line(record) for record in records])

    def failed(self, attempt: FailedAttempt) -> bool:
        """Record an attempt that failed: nothing more is known of its energy than the bound.

        Should the daemon die before the next one, the request has nothing else reserved.
        """
        request_id, number, reign, point, started, ended, nanojoules = attempt
        session, point_id = self.store.session, point.journal_id
        return self._append(
            [
                ["attempt", request_id, number, session, reign, point_id, started, ended, nanojoules, point.provenance],
                ["reserved", request_id, session, reign, point_id, 0, ended],
            ]
        )

    def settled(self, finals: list[Final], ranges: list[Range]) -> bool:
        """Record figures that became final, and the ranges of the ledger that closed with them, with one write."""
        lines: list[list[Any]] = [["ledger", *each] for each in ranges]
        if finals:
            row_ids, _, dynamic, static, uncertainty, provenance, sharing = zip(*finals, strict=True)
            lines.append(["finals", self.store.session, row_ids, dynamic, static, uncertainty, provenance, sharing])
        return self._append(lines)

    def why_missing(self, request_id: int) -> str:
        """Say that there is no record of a request, and where records of its time are sealed in sums, of which span."""
        begins = self.store.sealed(request_id)
        if not begins:
            return f"no request {request_id} in the journal"
        since = f", since retention_days = {self._retention_days}" if self._retention_days else ""
        spans = " and ".join(_span(begin, begin + STRETCH_NANOSECONDS) for begin in begins)
        return f"no record of request {request_id} any more: those accepted {spans} are sealed in sums{since}"

    def _line(self, record: Record) -> list[Any]:
        point, energy = record.point, record.energy or NOTHING
        return [
            "finished", record.request_id, self.store.session, record.reign, point.journal_id if point else None,
            record.status, record.images, record.accepted_unix, record.accepted, record.started, record.ended,
            record.reserved_nanojoules, record.device_seconds, record.deadline, record.sequence,
            energy.dynamic_nanojoules, energy.static_nanojoules, energy.uncertainty_nanojoules, energy.provenance,
            energy.sharing, energy.state,
        ]  # fmt: skip

    def _append(self, lines: list[list[Any]]) -> bool:
        """Append lines with one write."""
        data = self._encode_lines(lines)
        with self._writing:
            try:
                written = os.write(self._tail, data)
            except OSError as error:
                written, reason = 0, error.strerror
            else:
                reason = "the write was cut short"
                if written < len(data):
                    # The next record must not continue this line.
                    os.ftruncate(self._tail, os.lseek(self._tail, 0, os.SEEK_END) - written)
        if written == len(data):
            return True
        self.gaps += len(lines)
        log.error("journal records lost", reason=reason, gaps=self.gaps)
        return False

    def _open_tail(self) -> tuple[Path, int]:
        self._number += 1
        path = self._tails / f"{self.store.session:08d}-{self._number:08d}.jsonl"
        return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def move(self) -> None:
        """Move the records appended so far into the store, those first that an earlier move could not."""
        with self._moving:
            if self._path.stat().st_size:
                path, fresh = self._open_tail()
                with self._writing:
                    full, self._tail, self._path = self._tail, fresh, path
                os.close(full)
            for tail in sorted(self._tails.glob("*.jsonl")):
                if tail != self._path:
                    self._ingest(tail)

    def _ingest(self, tail: Path) -> None:
        provenances = self.store.provenances()
        try:
            lines = [read_line(raw, provenances) for raw in tail.read_bytes().splitlines()]
        except Misfit as misfit:
            reason = (
                f"{misfit}; start the release that wrote it once more, or give up what it says: mv {tail} {tail}.lost"
            )
            raise OSError(None, reason, str(tail)) from None
        known = [line for line in lines if line is not None]
        self.gaps += len(lines) - len(known)
        self.store.ingest(known)
        tail.unlink()

    def _move_now_and_then(self) -> None:
        while not self._closing.wait(MOVE_INTERVAL_SECONDS):
            self._try(self.move)
            self._try(self._tidy)

    def _tidy(self) -> None:
        """Seal some of what is older than the retention; once nothing is, sum up the stretches that have passed."""
        if not self._seal():
            self.store.sum_up(self._unix() - SETTLED_SECONDS * NANO)

    def _seal(self) -> bool:
        """Seal some records of whole stretches; False when there is nothing left to seal."""
        if self._retention_days is None:
            return False
        oldest = self._unix() - self._retention_days * DAY_NANOSECONDS
        until = oldest // STRETCH_NANOSECONDS * STRETCH_NANOSECONDS
        if until <= self._sealed_until:
            return False
        if self.store.seal(until):
            return True
        self._sealed_until = until
        return False

    def _try(self, move: Callable[[], None]) -> None:
        try:
            move()
        except Exception as error:  # noqa: BLE001 (the next turn, or the next start, tries again)
            log.error("journal cannot move its tail", error=str(error))

    def close(self) -> None:
        """Move everything into the store and let go of the files; what cannot be moved stays for the next start."""
        self._closing.set()
        self._thread.join()
        self._try(self._end)
        with self._writing:
            if os.fstat(self._tail).st_size == 0:
                self._path.unlink()
            os.close(self._tail)
        self.store.close()
        os.close(self._lock)

    def _end(self) -> None:
        self.move()
        self.store.end_session(self._clock())


def _span(begin_unix: int, end_unix: int) -> str:
    """Write a span of time by the clock of the world, to the minute."""
    begin, end = (datetime.fromtimestamp(moment / NANO, UTC) for moment in (begin_unix, end_unix))
    return f"from {begin:%Y-%m-%d %H:%M} until {end:%H:%M} UTC"


def _set_aside(path: Path, unix_seconds: int) -> Path:
    """Rename a store, with what SQLite keeps beside it, so that another one can take its place."""
    aside = path.with_name(f"journal.unreadable-{unix_seconds}.db")
    for suffix in ("", "-wal", "-shm"):
        file = Path(f"{path}{suffix}")
        if file.exists():
            file.rename(f"{aside}{suffix}")
    return aside
