"""Retention: old records make way for what stands for them, so that sums stay whole and the audit misses nothing.

What sealed requests cost is added to sums of their ten minutes, which stay. For each session and device it is kept how
many were sealed and what they were told: a record that is neither there nor sealed is missed. Ranges of the ledger are
put together by days. Each step is one transaction, so that a daemon that is killed leaves the old state or the new one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from daemon import journal_sums
from daemon.audit import ANSWERED
from daemon.books import Range
from daemon.clock import NANO
from daemon.journal_schema import LOST, MAINTENANCE, RUNNING
from daemon.journal_sums import FINAL, STRETCH_NANOSECONDS
from hal.device import weakest

# So many rows in one transaction, while which records and questions wait.
BATCH = 10_000
DAY_NANOSECONDS = 86_400 * NANO
# Nothing changes a request any more that is final, or whose daemon has ended. One that was accepted at no known time is
# one of the few that were lost.
CHOOSE = f"""
INSERT INTO temp.sealing SELECT id FROM requests
WHERE accepted_unix > 0 AND accepted_unix < ?1 AND status != '{RUNNING}' AND (session != ?2 OR energy_state = '{FINAL}'
  AND NOT EXISTS (SELECT 1 FROM attempts WHERE request = requests.id AND attempts.energy_state != '{FINAL}'))
ORDER BY accepted_unix LIMIT {BATCH}
"""
CHOSEN = "(SELECT id FROM temp.sealing)"
SUMS = journal_sums.records(f"requests.id IN {CHOSEN}")
ADDED = (
    "requests", "dynamic_nanojoules", "static_nanojoules", "device_seconds", "provisional_requests",
    "provisional_dynamic_nanojoules", "provisional_static_nanojoules",
)  # fmt: skip
ADD_SUMS = f"INSERT INTO sealed_sums VALUES ({','.join('?' * 14)}) ON CONFLICT DO UPDATE SET " + ", ".join(
    f"{column} = {column} + excluded.{column}" for column in ADDED
)
DEVICE = "COALESCE((SELECT device FROM points WHERE points.id = point), '')"
TOLD = "SUM(IIF({}, dynamic_nanojoules + static_nanojoules, 0))"
# What a power-up or a lost request is charged comes from no meter.
COUNT = f"""
INSERT INTO seals SELECT session, {DEVICE}, COUNT(*), MAX(id), SUM(sequence > 0), MAX(sequence),
  SUM(status = '{ANSWERED}' AND deadline > 0 AND ended > deadline),
  {TOLD.format(f"energy_state = '{FINAL}' AND status NOT IN ('{LOST}', '{MAINTENANCE}')")}
FROM requests WHERE id IN {CHOSEN} GROUP BY 1, 2
UNION ALL SELECT session, {DEVICE}, 0, 0, 0, 0, 0, {TOLD.format(f"energy_state = '{FINAL}'")}
FROM attempts WHERE request IN {CHOSEN} GROUP BY 1, 2
ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, acknowledged = acknowledged + excluded.acknowledged,
  last_request = MAX(last_request, excluded.last_request), last_sequence = MAX(last_sequence, excluded.last_sequence),
  late = late + excluded.late, told_nanojoules = told_nanojoules + excluded.told_nanojoules
"""
NUMBERS = f"""
INSERT INTO sealed_numbers SELECT accepted_unix / {STRETCH_NANOSECONDS}, MIN(id), MAX(id)
FROM requests WHERE id IN {CHOSEN} GROUP BY 1
ON CONFLICT DO UPDATE SET first = MIN(first, excluded.first), last = MAX(last, excluded.last)
"""
# By the clock of its session, when a moment was for each meter.
METERS = "SELECT meters.id, ?1 - started_unix + started FROM meters JOIN sessions ON sessions.id = session"
LEDGER = f"SELECT * FROM ledger WHERE meter = ? AND ended <= ? ORDER BY began LIMIT {BATCH}"


def seal(database: sqlite3.Connection, until_unix: int, session: int) -> bool:
    """Seal some of what was accepted before `until_unix`, within a transaction of the caller's.

    `session` is the one that goes on. Gives False when there was nothing left to seal.
    """
    database.execute("CREATE TEMP TABLE IF NOT EXISTS sealing (id INTEGER PRIMARY KEY)")
    database.execute("DELETE FROM temp.sealing")
    if database.execute(CHOOSE, (until_unix, session)).rowcount == 0:
        return _merge_ranges(database, until_unix)
    rows = database.execute(SUMS, (None, None, STRETCH_NANOSECONDS)).fetchall()
    database.executemany(ADD_SUMS, [(row[0] // STRETCH_NANOSECONDS, *row[1:]) for row in rows])
    database.execute(COUNT)
    database.execute(NUMBERS)
    database.execute(f"DELETE FROM attempts WHERE request IN {CHOSEN}")
    database.execute(f"DELETE FROM requests WHERE id IN {CHOSEN}")
    journal_sums.touch(database, {row[0] for row in rows})
    return True


def stretches(database: sqlite3.Connection, request_id: int) -> list[int]:
    """Give the begins of the stretches among whose sealed requests this number may be: one, if no clock was set."""
    rows = database.execute("SELECT stretch FROM sealed_numbers WHERE ? BETWEEN first AND last", (request_id,))
    return [stretch * STRETCH_NANOSECONDS for (stretch,) in rows]


def _merge_ranges(database: sqlite3.Connection, until_unix: int) -> bool:
    """Put ranges of the ledger that ended by then together, those of each day. What does not add up stays as it is."""
    merged = 0
    for meter, until in database.execute(METERS, (until_unix,)).fetchall():
        run: list[Range] = []
        for row in map(Range._make, database.execute(LEDGER, (meter, until)).fetchall()):
            if run and not (_adds_up(row) and row.began == run[-1].ended and _day(row) == _day(run[0])):
                merged += _put_together(database, run)
                run = []
            if _adds_up(row):
                run.append(row)
        merged += _put_together(database, run)
    return merged > 0


def _adds_up(row: Range) -> bool:
    """Tell whether what was counted is where it went."""
    return row.metered == sum(row[5:11])


def _day(row: Range) -> int:
    return row.began // DAY_NANOSECONDS


def _put_together(database: sqlite3.Connection, run: Sequence[Range]) -> int:
    """Replace ranges that follow one another by their sum; tell how many are gone."""
    if len(run) < 2:
        return 0
    first, last = run[0], run[-1]
    sums = [sum(column) for column in zip(*(row[4:11] for row in run), strict=True)]
    provenance = weakest(row.provenance for row in run)
    database.execute(
        "DELETE FROM ledger WHERE meter = ? AND began BETWEEN ? AND ?", (first.meter, first.began, last.began)
    )
    one = (first.meter, first.began, last.ended, provenance, *sums, last.pending)
    database.execute(f"INSERT INTO ledger VALUES ({','.join('?' * 12)})", one)
    return len(run) - 1
