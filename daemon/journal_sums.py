"""What requests cost in sum, by time: exact, and quick over any number of records.

The records of each ten minutes that have passed are summed once and kept beside them; whatever changes a record later
makes its ten minutes be summed anew. A question about a span of time adds up these sums, and looks at records only
where a stretch has none or the span cuts through it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from daemon.clock import NANO

STRETCH_NANOSECONDS = 600 * NANO
# The status of attempts after which a request went on to another device, or ended without an answer.
FAILED = "failed"
FINAL, PROVISIONAL = "final", "provisional"
EVER = (1 << 63) - 1

FINAL_SUM = f"SUM(IIF({{0}}.energy_state = '{FINAL}', {{0}}.{{1}}_nanojoules, 0))"
PROVISIONAL_COUNT = f"SUM({{}}.energy_state = '{PROVISIONAL}')"
NAMES = "reigns.policy, COALESCE(model, ''), COALESCE(variant, ''), COALESCE(device, '')"


def records(within: str) -> str:
    """Give the query that sums some records, in steps of ?3."""
    return f"""
SELECT accepted_unix / ?3 * ?3, {NAMES}, requests.provenance, status, COUNT(*),
  {FINAL_SUM.format("requests", "dynamic")}, {FINAL_SUM.format("requests", "static")}, SUM(device_seconds),
  {PROVISIONAL_COUNT.format("requests")}, SUM(provisional_dynamic_nanojoules), SUM(provisional_static_nanojoules)
FROM requests JOIN reigns ON reigns.id = reign LEFT JOIN points ON points.id = point
WHERE {within} GROUP BY 1, 2, 3, 4, 5, 6, 7
UNION ALL
SELECT accepted_unix / ?3 * ?3, {NAMES}, attempts.provenance, '{FAILED}', 0,
  {FINAL_SUM.format("attempts", "dynamic")}, {FINAL_SUM.format("attempts", "static")}, 0.0,
  {PROVISIONAL_COUNT.format("attempts")}, SUM(provisional_nanojoules), 0
FROM requests JOIN attempts ON request = requests.id JOIN reigns ON reigns.id = attempts.reign
JOIN points ON points.id = attempts.point WHERE {within} GROUP BY 1, 2, 3, 4, 5, 6, 7
"""


# Sums the records accepted from ?1 until before ?2.
RECORDS = records("accepted_unix >= ?1 AND accepted_unix < ?2")
# Adds up the sums of the stretches from ?1 until before ?2, in steps of ?3 nanoseconds.
SUMS = f"""
SELECT stretch * {STRETCH_NANOSECONDS} / ?3 * ?3, policy, model, variant, device, provenance, status, SUM(requests),
  SUM(dynamic_nanojoules), SUM(static_nanojoules), SUM(device_seconds), SUM(provisional_requests),
  SUM(provisional_dynamic_nanojoules), SUM(provisional_static_nanojoules)
FROM {{}} WHERE stretch >= ?1 AND stretch < ?2 GROUP BY 1, 2, 3, 4, 5, 6, 7
"""


@dataclass(frozen=True)
class SummaryRow:
    """The sum over requests of one kind. `policy` and `status` are always there, the rest is empty if none ran.

    Energies are sums of final figures, and `provisional_requests` tells how many have none yet; what left with the
    replies, of all requests, stands beside them. Attempts that failed have rows of their own, with the status `FAILED`
    and no requests. `begin_unix_nanoseconds` is when the step of time begins, 0 where time is not told apart.
    """

    begin_unix_nanoseconds: int
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
    provisional_requests: int
    provisional_dynamic_nanojoules: int
    provisional_static_nanojoules: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """Give what tells rows apart."""
        return (
            self.begin_unix_nanoseconds, self.policy, self.model, self.variant, self.device, self.status,
            self.provenance,
        )  # fmt: skip


def touch(database: sqlite3.Connection, accepted_unix: Iterable[int]) -> None:
    """Note that records which were accepted then have changed: what was summed of their stretches does not hold."""
    stretches = [(number,) for number in {moment // STRETCH_NANOSECONDS for moment in accepted_unix}]
    database.executemany("DELETE FROM sums WHERE stretch = ?", stretches)
    database.executemany("INSERT INTO stretches VALUES (?, 0) ON CONFLICT DO UPDATE SET summed = 0", stretches)


def next_to_sum(database: sqlite3.Connection, until_unix: int) -> int | None:
    """Give a stretch that ended by then and is not summed. Stretch 0 is of records without a time, and never is."""
    row = database.execute(
        "SELECT MIN(number) FROM stretches WHERE summed = 0 AND number > 0 AND number < ?",
        (until_unix // STRETCH_NANOSECONDS,),
    ).fetchone()
    return None if row[0] is None else int(row[0])


def sum_up(database: sqlite3.Connection, stretch: int) -> None:
    """Sum a stretch, within a transaction of the caller's."""
    begin, step = stretch * STRETCH_NANOSECONDS, STRETCH_NANOSECONDS
    rows = database.execute(RECORDS, (begin, begin + step, step)).fetchall()
    marks = ",".join("?" * 14)
    database.executemany(f"INSERT INTO sums VALUES ({marks})", [(stretch, *row[1:]) for row in rows])
    database.execute("UPDATE stretches SET summed = 1 WHERE number = ?", (stretch,))


def summary(database: sqlite3.Connection, since_unix: int, until_unix: int, step: int) -> list[SummaryRow]:
    """Sum what was accepted from `since_unix` until before `until_unix`, in steps of so many nanoseconds, 0 for one.

    Steps begin at whole multiples of their length since 1970. By policy, model, variant, device, provenance and status.
    """
    rows: dict[tuple[Any, ...], SummaryRow] = {}
    for row in _parts(database, since_unix, until_unix, step or EVER):
        known = rows.get(row.kind)
        rows[row.kind] = row if known is None else _add(known, row)
    return [rows[kind] for kind in sorted(rows)]


def _parts(database: sqlite3.Connection, since: int, until: int, step: int) -> Iterator[SummaryRow]:
    # Of a stretch through which the span cuts, what is sealed cannot be told apart any more.
    around = since // STRETCH_NANOSECONDS, -(-until // STRETCH_NANOSECONDS)
    yield from (SummaryRow(*row) for row in database.execute(SUMS.format("sealed_sums"), (*around, step)))
    first, last = -(-since // STRETCH_NANOSECONDS), until // STRETCH_NANOSECONDS
    if first >= last or (step != EVER and step % STRETCH_NANOSECONDS):
        spans = [(since, until)]
    else:
        yield from (SummaryRow(*row) for row in database.execute(SUMS.format("sums"), (first, last, step)))
        missing = database.execute(
            "SELECT number FROM stretches WHERE summed = 0 AND number >= ? AND number < ?", (first, last)
        )
        begins = [number * STRETCH_NANOSECONDS for (number,) in missing]
        spans = [(begin, begin + STRETCH_NANOSECONDS) for begin in begins]
        spans += [(since, first * STRETCH_NANOSECONDS), (last * STRETCH_NANOSECONDS, until)]
    for begin, end in spans:
        if begin < end:
            yield from (SummaryRow(*row) for row in database.execute(RECORDS, (begin, end, step)))


def _add(one: SummaryRow, other: SummaryRow) -> SummaryRow:
    return replace(
        one,
        requests=one.requests + other.requests,
        dynamic_nanojoules=one.dynamic_nanojoules + other.dynamic_nanojoules,
        static_nanojoules=one.static_nanojoules + other.static_nanojoules,
        device_seconds=one.device_seconds + other.device_seconds,
        provisional_requests=one.provisional_requests + other.provisional_requests,
        provisional_dynamic_nanojoules=one.provisional_dynamic_nanojoules + other.provisional_dynamic_nanojoules,
        provisional_static_nanojoules=one.provisional_static_nanojoules + other.provisional_static_nanojoules,
    )
