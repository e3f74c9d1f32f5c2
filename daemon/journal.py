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
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import structlog

from daemon.budget import Limit
from daemon.clock import Clock
from daemon.journal_store import Store
from daemon.ledger import Energy
from daemon.points import Point

MOVE_INTERVAL_SECONDS = 0.5
# The shortest line is a reservation's.
decode_line = msgspec.json.Decoder(Annotated[list[Any], msgspec.Meta(min_length=7)]).decode

log = structlog.get_logger()


class JournalError(Exception):
    """The journal cannot be opened: the message says which file and why."""


class Record(NamedTuple):
    """The terminal record of a request. Times are the clock's nanoseconds, but `accepted_unix` those since 1970."""

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


class Journal:
    """An open journal. `append` methods are safe on the event loop: one write to the page cache each."""

    def __init__(self, folder: Path, boot: str, clock: Clock, unix_nanoseconds: Clock) -> None:
        """Open the journal in `folder`, replay what a crash left, begin a session. Raises `JournalError`."""
        self.gaps = 0
        self._clock = clock
        self._tails = folder / "tail"
        self._encode_lines = msgspec.json.Encoder().encode_lines
        self._writing = threading.Lock()
        self._moving = threading.Lock()
        self._closing = threading.Event()
        try:
            self._tails.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.store = Store(folder / "journal.db")
            for tail in sorted(self._tails.glob("*.jsonl")):
                self._ingest(tail)
            self.lost = self.store.close_session(boot, clock())
            self.store.open_session(boot, unix_nanoseconds(), clock())
            self._next_request, self._next_reign = self.store.next_ids()
            self._number = self._sequence = 0
            self._path, self._tail = self._open_tail()
        except BlockingIOError:
            raise JournalError(f"{folder}: another daemon keeps its journal here") from None
        except OSError as error:
            raise JournalError(f"{error.filename or folder}: {error.strerror}") from None
        except sqlite3.Error as error:
            raise JournalError(f"{folder / 'journal.db'}: {error}") from None
        self._thread = threading.Thread(target=self._move_now_and_then, name="journal", daemon=True)
        self._thread.start()

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
        """Give an operating point the number by which records name it."""
        point.journal_id = self.store.point_id(point)

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

    def _line(self, record: Record) -> list[Any]:
        point, energy = record.point, record.energy
        return [
            "finished", record.request_id, self.store.session, record.reign, point.journal_id if point else None,
            record.status, record.images, record.accepted_unix, record.accepted, record.started, record.ended,
            record.reserved_nanojoules, energy.dynamic_nanojoules if energy else 0,
            energy.static_nanojoules if energy else 0, energy.uncertainty_nanojoules if energy else 0,
            energy.state if energy else "final", record.device_seconds,
            record.deadline, record.sequence,
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
        lines = []
        for raw in tail.read_bytes().splitlines():
            try:
                lines.append(decode_line(raw))
            except msgspec.DecodeError:
                self.gaps += 1
        self.store.ingest(lines)
        tail.unlink()

    def _move_now_and_then(self) -> None:
        while not self._closing.wait(MOVE_INTERVAL_SECONDS):
            self._try(self.move)

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
