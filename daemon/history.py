"""What happened, as an audit looks at it: the sessions, the policies' reigns, the requests and what they spent.

A journal's sessions are joined to one line of time. A boot of the host has a clock of its own: it is placed by the wall
clock, but never before the end of the boot that it follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from daemon.journal_reader import reading
from daemon.windows import Reign, Spending

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Integers = NDArray[np.int64]


class Session(NamedTuple):
    """One run of the daemon. `ended` tells whether it ended in order: one that was killed, or still runs, did not."""

    number: int
    ended: bool


class Seal(NamedTuple):
    """How many requests of a session are sealed, and which is the last; the same of terminal records; late answers."""

    requests: int
    last_request: int
    acknowledged: int
    last_sequence: int
    late: int


NO_SEAL = Seal(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Requests:
    """All requests, arrays of one length in the order of their numbers.

    `limits` are the limits of the reigns that they were last decided under, `nanojoules` what each spent. A deadline or
    a sequence of 0 was not recorded.
    """

    numbers: Integers
    sessions: Integers
    statuses: NDArray[np.str_]
    ended: Integers
    deadlines: Integers
    sequences: Integers
    limits: Integers
    nanojoules: Integers


@dataclass(frozen=True)
class History:
    """Sessions and reigns in order, the requests, and when which energy was spent; what was sealed, by session."""

    sessions: Sequence[Session]
    reigns: Sequence[Reign]
    requests: Requests
    spending: Spending
    seals: Mapping[int, Seal] = field(default_factory=dict)


def read_journal(path: Path) -> History:
    """Read all that a journal's store holds. Raises `NoJournal`."""
    with reading(path) as database:
        return _read(database)


def _read(database: sqlite3.Connection) -> History:
    sessions = database.execute("SELECT id, boot, started_unix, started, ended FROM sessions ORDER BY id").fetchall()
    reigns = database.execute(
        "SELECT id, session, policy, limit_nanojoules, window_nanoseconds, static_watts, began, burst_nanojoules, "
        "burst_watts FROM reigns ORDER BY id"
    ).fetchall()
    statuses = database.execute("SELECT status FROM requests ORDER BY id").fetchall()
    columns = np.array(
        database.execute(
            "SELECT id, session, reign, IIF(started > 0, started, accepted), ended, deadline, sequence, "
            "dynamic_nanojoules FROM requests ORDER BY id"
        ).fetchall(),
        np.int64,
    ).reshape(-1, 8)
    attempts = np.array(
        database.execute("SELECT session, reign, started, ended, dynamic_nanojoules FROM attempts").fetchall(), np.int64
    ).reshape(-1, 5)
    seals = database.execute(
        "SELECT session, SUM(requests), MAX(last_request), SUM(acknowledged), MAX(last_sequence), SUM(late) "
        "FROM seals GROUP BY session"
    ).fetchall()
    history = _joined(sessions, reigns, np.array([status for (status,) in statuses], np.str_), columns.T, attempts.T)
    return replace(history, seals={session: Seal(*figures) for session, *figures in seals})


def _joined(
    sessions: list[tuple[Any, ...]],
    reigns: list[tuple[Any, ...]],
    statuses: NDArray[np.str_],
    columns: Integers,
    attempts: Integers,
) -> History:
    """Join the sessions' lines of time; what attempts that failed may have spent counts as well."""
    numbers, owners, under, started, ended, deadlines, sequences, nanojoules = columns
    known = np.array([number for number, *_ in sessions], np.int64)
    place = np.searchsorted(known, owners)
    lasts = np.array([max(started, ended or 0) for _, _, _, started, ended in sessions], np.int64)
    np.maximum.at(lasts, place, ended)
    failed_place = np.searchsorted(known, attempts[0])
    np.maximum.at(lasts, failed_place, attempts[3])
    for _, owner, *_, began, _, _ in reigns:
        lasts[np.searchsorted(known, owner)] = max(lasts[np.searchsorted(known, owner)], began)
    shifts = _shifts(sessions, lasts)
    started, ended = started + shifts[place], ended + shifts[place]
    deadlines = np.where(deadlines > 0, deadlines + shifts[place], 0)
    failed_under, failed_started, failed_ended, failed_nanojoules = attempts[1:]
    failed_started, failed_ended = failed_started + shifts[failed_place], failed_ended + shifts[failed_place]
    under_all, ended_all = np.concatenate([under, failed_under]), np.concatenate([ended, failed_ended])
    made = _reigns(reigns, known, lasts + shifts, shifts, under_all, ended_all)
    limits = {number: limit for number, _, _, limit, *_ in reigns}
    spent = nanojoules > 0
    return History(
        [Session(number, ended is not None) for number, *_, ended in sessions],
        made,
        Requests(
            numbers, owners, statuses, ended, deadlines, sequences,
            np.array([limits.get(reign, 0) for reign in under.tolist()], np.int64), nanojoules,
        ),
        Spending(
            np.concatenate([started[spent], failed_started]),
            np.concatenate([ended[spent], failed_ended]),
            np.concatenate([nanojoules[spent], failed_nanojoules]),
        ),
    )  # fmt: skip


def _shifts(sessions: list[tuple[Any, ...]], lasts: Integers) -> Integers:
    """Tell for each session what its clock is behind the joined one, which begins with the first session."""
    shifts = np.zeros(len(sessions), np.int64)
    for index, (_, boot, unix, started, _) in enumerate(sessions):
        if index == 0:
            shifts[0], first = -started, unix
        elif boot == sessions[index - 1][1]:
            shifts[index] = shifts[index - 1]
        else:
            shifts[index] = max(unix - first, lasts[index - 1] + shifts[index - 1]) - started
    return shifts


def _reigns(
    rows: list[tuple[Any, ...]], known: Integers, lasts: Integers, shifts: Integers, under: Integers, ended: Integers
) -> list[Reign]:
    """Make the reigns. One lasts until the next of its session, or the session's last moment.

    It goes on until what was dispatched under it has ended, beyond the next one's beginning: what runs cannot be called
    back.
    """
    numbers = np.array([row[0] for row in rows], np.int64)
    last_end = np.zeros(len(rows), np.int64)
    known_reign = np.isin(under, numbers)
    np.maximum.at(last_end, np.searchsorted(numbers, under[known_reign]), ended[known_reign])
    last_end = np.maximum.accumulate(last_end)
    places = np.searchsorted(known, [row[1] for row in rows]).tolist()
    begins = [row[6] + int(shifts[place]) for row, place in zip(rows, places, strict=True)]
    untils = [
        begins[index + 1] if places[index + 1 : index + 2] == [place] else int(lasts[place])
        for index, place in enumerate(places)
    ]
    return [
        Reign(policy, limit, window, static, began, max(until, int(last)), burst, watts)
        for (_, _, policy, limit, window, static, _, burst, watts), began, until, last in zip(
            rows, begins, untils, last_end, strict=True
        )
    ]
