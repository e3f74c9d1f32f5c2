"""The journal's SQLite store: its tables, how records enter them, and what is asked of them."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.points import Point

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE sessions (
  id INTEGER PRIMARY KEY, boot TEXT NOT NULL, started_unix INTEGER NOT NULL, started INTEGER NOT NULL, ended INTEGER
) STRICT;
CREATE TABLE points (
  id INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, variant TEXT NOT NULL, digest TEXT NOT NULL,
  device TEXT NOT NULL, steps INTEGER NOT NULL, margin INTEGER NOT NULL, simulated INTEGER NOT NULL,
  provenance TEXT NOT NULL, boundary TEXT NOT NULL, accuracy REAL NOT NULL,
  UNIQUE (digest, model, version, variant, device, steps, margin, provenance)
) STRICT;
CREATE TABLE reigns (
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, policy TEXT NOT NULL, limit_nanojoules INTEGER NOT NULL,
  window_nanoseconds INTEGER NOT NULL, static_watts REAL NOT NULL, began INTEGER NOT NULL,
  burst_nanojoules INTEGER, burst_watts REAL NOT NULL
) STRICT;
CREATE TABLE requests (
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, reign INTEGER NOT NULL, point INTEGER, status TEXT NOT NULL,
  images INTEGER NOT NULL, accepted_unix INTEGER NOT NULL, accepted INTEGER NOT NULL, started INTEGER NOT NULL,
  ended INTEGER NOT NULL, reserved_nanojoules INTEGER NOT NULL, dynamic_nanojoules INTEGER NOT NULL,
  static_nanojoules INTEGER NOT NULL, uncertainty_nanojoules INTEGER NOT NULL, energy_state TEXT NOT NULL,
  device_seconds REAL NOT NULL, deadline INTEGER NOT NULL, sequence INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_by_session ON requests (session, ended);
"""
# What brings the first format to this one. What it did not record stays unknown: 0, and NULL for the end of a session.
UPGRADE = """
ALTER TABLE sessions ADD COLUMN ended INTEGER;
ALTER TABLE reigns ADD COLUMN burst_nanojoules INTEGER;
ALTER TABLE reigns ADD COLUMN burst_watts REAL NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN deadline INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN sequence INTEGER NOT NULL DEFAULT 0;
"""
# A request whose dispatch is recorded and whose end is not.
RUNNING = "running"
# What a running request becomes when the daemon that ran it has died: it may have spent all that was reserved.
LOST = "lost"
# The record of a device that was powered up.
MAINTENANCE = "maintenance"


@dataclass(frozen=True)
class SummaryRow:
    """The sum over requests of one kind. `policy` and `status` are always there, the rest is empty if none ran."""

    policy: str
    model: str
    variant: str
    device: str
    provenance: str
    status: str
    requests: int
    dynamic_nanojoules: int
    static_nanojoules: int
    device_seconds: float


@dataclass(frozen=True)
class RequestRow:
    """One request, as a summary of itself, with its labels."""

    summary: SummaryRow
    uncertainty_nanojoules: int
    energy_state: str
    boundary: str
    accepted_unix: int


SUMMARY = """
  reigns.policy, COALESCE(model, ''), COALESCE(variant, ''), COALESCE(device, ''), COALESCE(provenance, ''), status
"""
POINT_KEY = "digest, model, version, variant, device, steps, margin, provenance"
JOINS = "requests JOIN reigns ON reigns.id = reign LEFT JOIN points ON points.id = point"


class Store:
    """An open store. One connection, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create the database. Raises `OSError` with the file's name when it cannot be used."""
        self.session = 0
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version in (0, 1):
                steps = UPGRADE if version else SCHEMA
                self._database.executescript(f"BEGIN;{steps}PRAGMA user_version = {SCHEMA_VERSION};COMMIT")
            elif version != SCHEMA_VERSION:
                raise OSError(None, f"its format is {version}, this release reads {SCHEMA_VERSION}", str(path))
        except sqlite3.Error as error:
            raise OSError(None, str(error), str(path)) from None

    def ingest(self, lines: list[list[Any]]) -> None:
        """Enter records in one transaction; entering one again changes nothing."""
        reigns = [line[1:] for line in lines if line[0] == "reign"]
        finished = [line[1:] for line in lines if line[0] == "finished"]
        done = {row[0] for row in finished}
        running = [
            [request, session, reign, point, RUNNING, 1, 0, at, at, at, reserved, 0, 0, 0, "provisional", 0.0, 0, 0]
            for kind, request, session, reign, point, reserved, at in (row for row in lines if row[0] == "reserved")
            if request not in done
        ]
        with self._lock, self._database:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR IGNORE INTO reigns VALUES (?,?,?,?,?,?,?,?,?)", reigns)
            marks = ",".join("?" * 18)
            self._database.executemany(
                f"INSERT INTO requests VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET point = excluded.point, "
                "reign = excluded.reign, reserved_nanojoules = excluded.reserved_nanojoules, "
                "started = excluded.started, ended = excluded.ended WHERE status = excluded.status",
                running,
            )
            self._database.executemany(f"INSERT OR REPLACE INTO requests VALUES ({marks})", finished)

    def close_session(self, boot: str, now: int) -> int:
        """Charge the requests that a dead daemon left running with their whole reservation; count them.

        On the same boot they may have run until now; a reboot ended them when their session did.
        """
        with self._lock, self._database:
            cursor = self._database.execute(
                "UPDATE requests SET status = ?, dynamic_nanojoules = reserved_nanojoules, energy_state = 'final', "
                "ended = IIF(session IN (SELECT id FROM sessions WHERE boot = ?), MAX(ended, ?), ended) "
                "WHERE status = ?",
                (LOST, boot, now, RUNNING),
            )
            return cursor.rowcount

    def end_session(self, now: int) -> None:
        """Note that the session ended in order: all that it accepted has its terminal record."""
        with self._lock, self._database:
            self._database.execute("UPDATE sessions SET ended = ? WHERE id = ?", (now, self.session))

    def open_session(self, boot: str, unix: int, now: int) -> None:
        """Begin a session of a daemon on a boot of the host."""
        with self._lock, self._database:
            cursor = self._database.execute(
                "INSERT INTO sessions (boot, started_unix, started) VALUES (?, ?, ?)", (boot, unix, now)
            )
            self.session = cursor.lastrowid or 0

    def next_ids(self) -> tuple[int, int]:
        """Give the first free numbers of requests and reigns."""
        rows = self._database.execute(
            "SELECT (SELECT COALESCE(MAX(id), 0) FROM requests), (SELECT COALESCE(MAX(id), 0) FROM reigns)"
        ).fetchone()
        return rows[0] + 1, rows[1] + 1

    def point_id(self, point: Point) -> int:
        """Find or give the number of an operating point."""
        key = (
            point.digest, point.model, point.version, point.variant, point.device, point.steps, point.margin,
            point.provenance,
        )  # fmt: skip
        with self._lock, self._database:
            self._database.execute(
                f"INSERT OR IGNORE INTO points ({POINT_KEY}, simulated, boundary, accuracy) "
                "VALUES (?,?,?,?,?,?,?,?,?,?,?)",
                (*key, point.simulated, point.boundary, point.accuracy),
            )
            (number,) = self._database.execute(
                f"SELECT id FROM points WHERE ({POINT_KEY}) = (?,?,?,?,?,?,?,?)", key
            ).fetchone()
        return int(number)

    def recent(self, boot: str, now: int, unix: int, nanoseconds: int) -> list[tuple[int, int]]:
        """List (end, nanojoules) of all that was spent within the last `nanoseconds`, oldest first, to seed a budget.

        Ends of an earlier boot are placed by the wall clock of their session; one that would lie in the future is
        taken as now.
        """
        with self._lock:
            rows = self._database.execute(
                "WITH placed AS (SELECT id, IIF(boot = ?, 0, ? - ? + started_unix - started) AS shift FROM sessions) "
                "SELECT MIN(ended + shift, ?) AS moment, dynamic_nanojoules FROM placed "
                "JOIN requests ON requests.session = placed.id AND ended > ? - shift "
                "WHERE dynamic_nanojoules > 0 ORDER BY moment",
                (boot, now, unix, now, now - nanoseconds),
            ).fetchall()
        return [(moment, nanojoules) for moment, nanojoules in rows]

    def recent_static(self, boot: str, now: int, unix: int, nanoseconds: int) -> list[tuple[int, float]]:
        """List (until, watts) of the static power of earlier sessions within the last `nanoseconds`, oldest first.

        What was on when a session ended may have been on until now.
        """
        with self._lock:
            rows = self._database.execute(
                "WITH placed AS (SELECT id, IIF(boot = ?, 0, ? - ? + started_unix - started) AS shift FROM sessions), "
                "drawn AS (SELECT MIN(LEAD(began + shift, 1, ?) OVER (ORDER BY reigns.id), ?) AS until, static_watts "
                "FROM placed JOIN reigns ON session = placed.id) "
                "SELECT until, static_watts FROM drawn WHERE until > ? ORDER BY until",
                (boot, now, unix, now, now, now - nanoseconds),
            ).fetchall()
        return [(until, watts) for until, watts in rows]

    def summary(self, since_unix: int) -> list[SummaryRow]:
        """Sum the requests accepted since `since_unix` by policy, model, variant, device and status."""
        with self._lock:
            rows = self._database.execute(
                f"SELECT {SUMMARY}, COUNT(*), SUM(dynamic_nanojoules), SUM(static_nanojoules), SUM(device_seconds) "
                f"FROM {JOINS} WHERE accepted_unix >= ? GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 6",
                (since_unix,),
            ).fetchall()
        return [SummaryRow(*row) for row in rows]

    def request(self, request_id: int) -> RequestRow | None:
        """Look one request up."""
        with self._lock:
            row = self._database.execute(
                f"SELECT {SUMMARY}, 1, dynamic_nanojoules, static_nanojoules, device_seconds, uncertainty_nanojoules, "
                f"energy_state, COALESCE(boundary, ''), accepted_unix FROM {JOINS} WHERE requests.id = ?",
                (request_id,),
            ).fetchone()
        return RequestRow(SummaryRow(*row[:10]), *row[10:]) if row else None

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()
