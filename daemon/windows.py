"""Energies of all windows by brute force, not by the budget's own books.

The energy of a request is spread evenly over the time it ran; static power flows all the time, as high as the latest
reign says. The energy of a window is then a piecewise linear function of where it starts, so its maximum lies where a
request or a reign begins or ends at one of the window's edges: those starts are all tried. So are the first and the
last nanosecond at which a window still touches a reign, since the limit changes there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Reign:
    """A policy in force from `began` to `ended`, in the clock's nanoseconds; reigns may overlap.

    `burst_nanojoules` and `burst_watts` are those of its short limit, where it has one.
    """

    policy: str
    limit_nanojoules: int
    window_nanoseconds: int
    static_watts: float
    began: int
    ended: int
    burst_nanojoules: int | None = None
    burst_watts: float = 0.0


@dataclass(frozen=True)
class Spending:
    """Energies that were spent: `nanojoules` between `started` and `ended`, an array each."""

    started: NDArray[np.int64]
    ended: NDArray[np.int64]
    nanojoules: NDArray[np.int64]


def energies_nanojoules(reigns: Sequence[Reign], spending: Spending) -> list[float]:
    """Give the energy of each stretch of one policy, one after the other, static power included."""
    reigns = sorted(reigns, key=lambda reign: reign.began)
    switches = [now.began for before, now in pairwise(reigns) if now.policy != before.policy]
    edges = np.array([reigns[0].began, *switches, max(reign.ended for reign in reigns)], np.float64)
    times, totals = _cumulative(spending)
    energies: list[float] = np.diff(np.interp(edges, times, totals) + _drawn(edges, *_static(reigns))).tolist()
    return energies


def worst_windows(reigns: Sequence[Reign], spending: Spending) -> dict[str, float]:
    """Give for each policy the largest energy of a window over its limit.

    A limit binds the windows of its length that its reign reaches into. One within the reign is held to that limit. One
    that contains a switch is held to the largest limit in force in it, and counts for the policy of that limit. A limit
    over a shorter window than the one looked at applies as often as it fits, rounded up.
    """
    worst = {reign.policy: 0.0 for reign in reigns}
    times, totals = _cumulative(spending)
    changes, drawn = _static(reigns)
    for window in sorted({reign.window_nanoseconds for reign in reigns}):
        edges = np.array([edge for reign in reigns for edge in (reign.began, reign.ended)], np.float64)
        starts = np.unique(
            np.concatenate([times, times - window, edges, edges - 1, edges - window, edges - window + 1])
        )
        energies = np.interp(starts + window, times, totals) - np.interp(starts, times, totals)
        statics = _drawn(starts + window, changes, drawn) - _drawn(starts, changes, drawn)
        limits, bound = np.zeros(len(starts)), np.zeros(len(starts), np.bool_)
        owners = np.full(len(starts), -1)
        for number, reign in enumerate(reigns):
            limit = reign.limit_nanojoules * -(-window // reign.window_nanoseconds)
            first, last = np.searchsorted(starts, reign.began - window, "right"), np.searchsorted(starts, reign.ended)
            larger = (limit > limits[first:last]) | (owners[first:last] < 0)
            limits[first:last][larger], owners[first:last][larger] = limit, number
            bound[first:last] |= reign.window_nanoseconds == window
        fractions = _fractions(energies, statics, limits)
        for number in np.unique(owners[bound]):
            policy = reigns[number].policy
            worst[policy] = max(worst[policy], float(fractions[bound & (owners == number)].max()))
    return worst


def worst_bursts(reigns: Sequence[Reign], spending: Spending) -> dict[str, float]:
    """Give for each policy with a short limit the most that a stretch of time took above its power, over its burst.

    All stretches are looked at in which the policy reigns alone. With G the energy above the power since ever, that is
    the largest rise of G, found from its lowest value so far.
    """
    worst: dict[str, float] = {}
    times, totals = _cumulative(spending)
    changes, drawn = _static(reigns)
    for number, reign in enumerate(reigns):
        if reign.burst_nanojoules is None:
            continue
        began = max([reign.began, *(before.ended for before in reigns[:number])])
        ended = min([reign.ended, *(after.began for after in reigns[number + 1 :])])
        if began >= ended:
            continue
        inside = np.array([began, *times[(times > began) & (times < ended)], ended], np.float64)
        above = np.interp(inside, times, totals) + _drawn(inside, changes, drawn) - reign.burst_watts * (inside - began)
        rise = float((above - np.minimum.accumulate(above)).max())
        worst[reign.policy] = max(worst.get(reign.policy, 0.0), rise / max(reign.burst_nanojoules, 1))
    return worst


def _static(reigns: Sequence[Reign]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give when static power changed, and its watts from then on. The first holds for all time before."""
    reigns = sorted(reigns, key=lambda reign: reign.began)
    return np.array([reign.began for reign in reigns], np.float64), np.array([reign.static_watts for reign in reigns])


def _drawn(at: NDArray[np.float64], changes: NDArray[np.float64], watts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the static energy drawn from the first change until each of the moments `at`; negative before it."""
    totals = np.concatenate([[0.0], np.cumsum(watts[:-1] * np.diff(changes))])
    index = np.maximum(np.searchsorted(changes, at, "right") - 1, 0)
    return totals[index] + watts[index] * (at - changes[index])


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
