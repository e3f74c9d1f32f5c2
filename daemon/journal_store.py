"""The journal's SQLite store: how records enter its tables, and what is asked of them."""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from daemon import journal_schema, journal_seals, journal_sums
from daemon.budget import Limit, Past
from daemon.journal_schema import LOST, RUNNING
from daemon.journal_sums import EVER, FINAL, NAMES, PROVISIONAL, SummaryRow
from daemon.ledger import Energy, row_id, split_row_id
from daemon.points import Point


class RequestRow(NamedTuple):
    """One request, its figure, and those of attempts that failed before."""

    policy: str
    model: str
    variant: str
    device: str
    status: str
    accepted_unix: int
    device_seconds: float
    provisional_dynamic_nanojoules: int
    provisional_static_nanojoules: int
    energy: Energy
    failed: tuple[Energy, ...]


def _marks(count: int) -> str:
    return ",".join(f"?{number}" for number in range(1, count + 1))


POINT_KEY = "digest, model, version, variant, device, steps, margin, provenance"
JOINS = "JOIN reigns ON reigns.id = reign LEFT JOIN points ON points.id = point"
# A finished request's line: these, and then its figure.
FINISHED = (
    "id", "session", "reign", "point", "status", "images", "accepted_unix", "accepted", "started", "ended",
    "reserved_nanojoules", "device_seconds", "deadline", "sequence",
)  # fmt: skip
FIGURE = ("dynamic_nanojoules", "static_nanojoules", "uncertainty_nanojoules", "provenance", "sharing", "energy_state")
REPLIED = ("provisional_dynamic_nanojoules", "provisional_static_nanojoules")
# A final figure does not change any more, even if the record of its request should come after it.
FINISH = (
    f"INSERT INTO requests ({', '.join(FINISHED + FIGURE + REPLIED)}) VALUES ({_marks(22)}) ON CONFLICT (id) DO UPDATE "
    f"SET {', '.join(f'{column} = excluded.{column}' for column in FINISHED[1:] + REPLIED)}, "
    + ", ".join(f"{column} = IIF(energy_state = '{FINAL}', {column}, excluded.{column})" for column in FIGURE)
)
RUN = (
    "INSERT INTO requests (id, session, reign, point, reserved_nanojoules, accepted, started, ended, status, images, "
    f"accepted_unix, device_seconds, deadline, sequence, {', '.join(FIGURE + REPLIED)}) "
    f"VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?6, '{RUNNING}', 1, 0, 0, 0, 0, 0, 0, 0, '', '', '{PROVISIONAL}', 0, 0) "
    "ON CONFLICT (id) DO UPDATE SET point = excluded.point, reign = excluded.reign, started = excluded.started, "
    "ended = excluded.ended, reserved_nanojoules = excluded.reserved_nanojoules WHERE status = excluded.status"
)
ATTEMPT = (
    "INSERT OR IGNORE INTO attempts (request, number, session, reign, point, started, ended, provisional_nanojoules, "
    f"{', '.join(FIGURE)}) VALUES ({_marks(8)}, ?8, 0, ?8, ?9, 'shared', '{PROVISIONAL}')"
)
SETTLE = (
    "UPDATE {} SET dynamic_nanojoules = ?1, static_nanojoules = ?2, uncertainty_nanojoules = ?3, provenance = ?4, "
    f"sharing = ?5, energy_state = '{FINAL}' WHERE {{}} = ?6"
)
# What was spent: by requests, by attempts that failed, and what a meter counted that no request asked for.
PLACED = (
    "WITH placed AS (SELECT id, IIF(?1 = boot, 0, ?2 - ?3 + started_unix - started) AS shift FROM sessions "
    "WHERE id <> ?5)"
)
SPENT = "SELECT MIN(ended + shift, ?2) AS moment, {} AS nanojoules FROM placed JOIN {} AND ended > ?2 - ?4 - shift"
UNASKED = "background_nanojoules + unattributed_nanojoules"
# No range of the ledger is longer than an hour: so much less of it is looked at.
RANGES = "began > ?2 - ?4 - shift - 3600000000000"
RECENT = f"""{PLACED} SELECT moment, nanojoules FROM (
{SPENT.format("dynamic_nanojoules", "requests ON requests.session = placed.id")}
UNION ALL {SPENT.format("dynamic_nanojoules", "attempts ON attempts.session = placed.id")}
UNION ALL {SPENT.format(UNASKED, f"meters ON session = placed.id JOIN ledger ON meter = meters.id AND {RANGES}")}
AND provenance = 'measured'
) WHERE nanojoules > 0 ORDER BY moment"""


class Store:
    """An open store. One connection, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create the database.

        Raises `OSError` with the file's name when it cannot be used, `sqlite3.DatabaseError` when it cannot be read.
        """
        self.session = 0
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if not 0 <= version <= journal_schema.VERSION:
                reason = f"its format is {version}, this release reads up to {journal_schema.VERSION}"
                raise OSError(None, reason, str(path))
            if version < journal_schema.VERSION:
                self._database.executescript(journal_schema.script(version))
        except BaseException:
            self._database.close()
            raise

    def ingest(self, lines: list[list[Any]]) -> None:
        """Enter records in one transaction; entering one again changes nothing."""
        kinds: dict[str, list[list[Any]]] = defaultdict(list)
        for line in lines:
            kinds[line[0]].append(line[1:])
        finals = {figure[0]: figure[1:] for columns in kinds["finals"] for figure in zip(*columns[1:], strict=True)}
        finished = kinds["finished"]
        for row in finished:
            row.extend(row[len(FINISHED) : len(FINISHED) + len(REPLIED)])
            figure = finals.pop(row_id(row[0]), None)
            if figure is not None:
                row[len(FINISHED) : -len(REPLIED)] = [*figure, FINAL]
        done = {row[0] for row in finished}
        running = [row for row in kinds["reserved"] if row[0] not in done]
        late = [(*figure, *split_row_id(number)) for number, figure in finals.items()]
        with self._lock, self._database:
            database = self._database
            database.execute("BEGIN")
            database.executemany(f"INSERT OR IGNORE INTO reigns VALUES ({_marks(9)})", kinds["reign"])
            database.executemany(RUN, running)
            database.executemany(FINISH, finished)
            database.executemany(ATTEMPT, kinds["attempt"])
            database.executemany(f"{SETTLE.format('requests', 'id')} AND ?7 = 0", late)
            database.executemany(f"{SETTLE.format('attempts', 'request')} AND number = ?7", late)
            database.executemany(f"INSERT OR IGNORE INTO ledger VALUES ({_marks(12)})", kinds["ledger"])
            journal_sums.touch(database, self._accepted(finished, late))

    def _accepted(self, finished: list[list[Any]], late: list[tuple[Any, ...]]) -> Iterator[int]:
        """Give when the requests were accepted whose records these are, or whose figures became final."""
        yield from (row[FINISHED.index("accepted_unix")] for row in finished)
        for *_, request, _ in late:
            for (moment,) in self._database.execute("SELECT accepted_unix FROM requests WHERE id = ?", (request,)):
                yield moment

    def sum_up(self, until_unix: int) -> None:
        """Sum the stretches of time that have passed by then, each in a transaction of its own."""
        while True:
            with self._lock, self._database:
                stretch = journal_sums.next_to_sum(self._database, until_unix)
                if stretch is None:
                    return
                self._database.execute("BEGIN")
                journal_sums.sum_up(self._database, stretch)

    def seal(self, until_unix: int) -> bool:
        """Seal some of what was accepted before then, in one transaction; False when there is no more of it."""
        with self._lock, self._database:
            self._database.execute("BEGIN")
            return journal_seals.seal(self._database, until_unix, self.session)

    def close_session(self, boot: str, now: int) -> tuple[int, int]:
        """Charge the requests that a dead daemon left running with their whole reservation.

        On the same boot they may have run until now; a reboot ended them when their session did. Gives how many these
        are, and of how many more the figure of the last session stays provisional.
        """
        with self._lock, self._database:
            lost = self._database.execute(
                "UPDATE requests SET status = ?, dynamic_nanojoules = reserved_nanojoules, energy_state = ?, "
                "uncertainty_nanojoules = reserved_nanojoules, sharing = 'shared', "
                "provenance = (SELECT provenance FROM points WHERE points.id = point), "
                "ended = IIF(session IN (SELECT id FROM sessions WHERE boot = ?), MAX(ended, ?), ended) "
                "WHERE status = ?",
                (LOST, FINAL, boot, now, RUNNING),
            ).rowcount
            (unsettled,) = self._database.execute(
                "SELECT COUNT(*) FROM requests WHERE session = (SELECT MAX(id) FROM sessions) AND energy_state = ?",
                (PROVISIONAL,),
            ).fetchone()
        return lost, int(unsettled)

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
            "SELECT (SELECT COALESCE(MAX(id), 0) FROM requests), (SELECT COALESCE(MAX(last_request), 0) FROM seals), "
            "(SELECT COALESCE(MAX(id), 0) FROM reigns)"
        ).fetchone()
        return max(rows[:2]) + 1, rows[2] + 1

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

    def provenances(self) -> dict[int, str]:
        """Give the labels of all operating points by their numbers."""
        with self._lock:
            return dict(self._database.execute("SELECT id, provenance FROM points").fetchall())

    def open_account(self, account: int, devices: Sequence[str], meters: Sequence[tuple[str, str]]) -> list[int]:
        """Enter an account of this session's frontier, its meters by name and boundary; give their numbers."""
        with self._lock, self._database:
            self._database.executemany(
                "INSERT INTO account_devices VALUES (?, ?, ?)", [(self.session, account, device) for device in devices]
            )
            return [
                self._database.execute(
                    "INSERT INTO meters (session, account, name, boundary) VALUES (?, ?, ?, ?)",
                    (self.session, account, *meter),
                ).lastrowid
                or 0
                for meter in meters
            ]

    def recent(self, boot: str, now: int, unix: int, nanoseconds: int) -> list[tuple[int, int]]:
        """List (end, nanojoules) of what earlier sessions spent within the last `nanoseconds`, oldest first.

        Ends of an earlier boot are placed by the wall clock of their session; one that would lie in the future is
        taken as now.
        """
        with self._lock:
            rows = self._database.execute(RECENT, (boot, now, unix, nanoseconds, self.session)).fetchall()
        return [(moment, nanojoules) for moment, nanojoules in rows]

    def recent_reigns(self, boot: str, now: int, unix: int, nanoseconds: int) -> list[Past]:
        """List the reigns of earlier sessions within the last `nanoseconds`, or a window of their own, oldest first.

        What was in force and on when a session ended may have been so until now.
        """
        with self._lock:
            rows = self._database.execute(
                "WITH placed AS (SELECT id, IIF(boot = ?, 0, ? - ? + started_unix - started) AS shift FROM sessions), "
                "past AS (SELECT MIN(LEAD(began + shift, 1, ?) OVER (ORDER BY reigns.id), ?) AS until, static_watts, "
                "limit_nanojoules, window_nanoseconds, session FROM placed JOIN reigns ON session = placed.id) "
                "SELECT until, static_watts, limit_nanojoules, window_nanoseconds FROM past "
                "WHERE until > ? - MAX(?, window_nanoseconds) AND session <> ? ORDER BY until",
                (boot, now, unix, now, now, now, nanoseconds, self.session),
            ).fetchall()
        return [Past(until, watts, Limit(limit, window)) for until, watts, limit, window in rows]

    def summary(self, since_unix: int, until_unix: int = EVER, step: int = 0) -> list[SummaryRow]:
        """Sum the requests accepted from `since_unix` until before `until_unix`, in steps of so many nanoseconds."""
        with self._lock:
            return journal_sums.summary(self._database, since_unix, until_unix, step)

    def request(self, request_id: int) -> RequestRow | None:
        """Look one request up."""
        with self._lock:
            row = self._database.execute(
                f"SELECT {NAMES}, status, accepted_unix, device_seconds, {', '.join(REPLIED)}, {_figure('requests')} "
                f"FROM requests {JOINS} WHERE requests.id = ?",
                (request_id,),
            ).fetchone()
            failed = self._database.execute(
                f"SELECT {_figure('attempts')} FROM attempts {JOINS} WHERE request = ? ORDER BY number", (request_id,)
            ).fetchall()
        if row is None:
            return None
        return RequestRow._make([*row[:9], Energy(*row[9:]), tuple(Energy(*each) for each in failed)])

    def sealed(self, request_id: int) -> list[int]:
        """Give the begins of the stretches of time in whose sealed sums a request may be, since 1970."""
        with self._lock:
            return journal_seals.stretches(self._database, request_id)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()


def _figure(table: str) -> str:
    """List the columns of a figure in the order of `Energy`."""
    return (
        f"dynamic_nanojoules, static_nanojoules, uncertainty_nanojoules, {table}.provenance, COALESCE(boundary, ''), "
        "sharing, energy_state"
    )
