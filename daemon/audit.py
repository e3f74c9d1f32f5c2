"""Check a journal by brute force, not by the budget's own books.

The energy of a request is spread evenly over the time it ran; static power flows all the time. The energy of a window
is then a piecewise linear function of where it starts, so its maximum lies where a request begins or ends at one of
the window's edges: those starts are all tried. So are the first and the last nanosecond at which a window still touches
a reign, since limit and static power change there.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Reign:
    """A policy in force from `began` to `ended`, in the clock's nanoseconds; reigns may overlap."""

    policy: str
    limit_nanojoules: int
    window_nanoseconds: int
    static_watts: float
    began: int
    ended: int


@dataclass(frozen=True)
class Spending:
    """Energies that were spent: `nanojoules` between `started` and `ended`, an array each."""

    started: NDArray[np.int64]
    ended: NDArray[np.int64]
    nanojoules: NDArray[np.int64]


def worst_windows(reigns: list[Reign], spending: Spending) -> dict[str, float]:
    """Give for each policy the largest energy of a window over its limit.

    A window within one reign is held to that reign's limit. One that contains a switch is held to the largest limit in
    force in it, and counts for the policy of that limit. A limit over a shorter window than the one looked at applies
    as often as it fits, rounded up.
    """
    worst = {reign.policy: 0.0 for reign in reigns}
    times, totals = _cumulative(spending)
    for window in sorted({reign.window_nanoseconds for reign in reigns}):
        edges = np.array([edge for reign in reigns for edge in (reign.began, reign.ended)], np.float64)
        starts = np.unique(
            np.concatenate([times, times - window, edges, edges - 1, edges - window, edges - window + 1])
        )
        energies = np.interp(starts + window, times, totals) - np.interp(starts, times, totals)
        limits = np.zeros(len(starts))
        statics = np.zeros(len(starts))
        owners = np.full(len(starts), -1)
        for number, reign in enumerate(reigns):
            limit = reign.limit_nanojoules * -(-window // reign.window_nanoseconds)
            touched = (starts < reign.ended) & (starts + window > reign.began)
            larger = touched & ((limit > limits) | (owners < 0))
            limits[larger], owners[larger] = limit, number
            statics[touched] = np.maximum(statics[touched], reign.static_watts * window)
        for number, reign in enumerate(reigns):
            mine = owners == number
            if mine.any():
                fractions = _fractions(energies[mine], statics[mine], limits[mine])
                worst[reign.policy] = max(worst[reign.policy], float(fractions.max()))
    return worst


def _fractions(
    energies: NDArray[np.float64], statics: NDArray[np.float64], limits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Divide; under a limit of zero static power is what may not be switched off, any request is too much."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(limits > 0, (energies + statics) / limits, np.where(energies > 0.5, np.inf, 0.0))


def _cumulative(spending: Spending) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the breakpoints of the energy spent so far, and its values there."""
    started = spending.started.astype(np.float64)
    ended = np.maximum(spending.ended.astype(np.float64), started + 1)
    if not len(started):
        return np.zeros(1), np.zeros(1)
    rates = spending.nanojoules / (ended - started)
    times, places = np.unique(np.concatenate([started, ended]), return_inverse=True)
    slopes = np.cumsum(np.bincount(places, np.concatenate([rates, -rates]), len(times)))
    totals = np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(times))])
    return times, totals


def read_journal(path: Path) -> tuple[list[Reign], Spending]:
    """Read the reigns and what was spent in the last session of a store that no daemon uses.

    A reign lasts until what was dispatched under it has ended, beyond the next one's beginning: what runs cannot be
    called back.
    """
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        (session,) = database.execute("SELECT MAX(id) FROM sessions").fetchone()
        rows = database.execute(
            "SELECT reign, IIF(started > 0, started, accepted), ended, dynamic_nanojoules FROM requests "
            "WHERE session = ? AND dynamic_nanojoules > 0",
            (session,),
        ).fetchall()
        named = database.execute(
            "SELECT id, policy, limit_nanojoules, window_nanoseconds, static_watts, began FROM reigns "
            "WHERE session = ? ORDER BY began",
            (session,),
        ).fetchall()
    columns = np.array(rows, np.int64).reshape(-1, 4)
    reigns = []
    for index, (number, policy, limit, window, static, began) in enumerate(named):
        until = named[index + 1][-1] if index + 1 < len(named) else began
        own = columns[columns[:, 0] <= number, 2]
        reigns.append(Reign(policy, limit, window, static, began, max(until, int(own.max(initial=0)))))
    return reigns, Spending(columns[:, 1], columns[:, 2], columns[:, 3])
