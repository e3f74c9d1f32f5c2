"""The search finds the worst window wherever it starts, and no violation escapes it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.windows import Reign, Spending, worst_windows

# Histories have their edges at multiples of 1,000 nanoseconds.
SCALE = 1000
END = 60
GRID = 2
REIGNS = st.lists(
    st.tuples(st.integers(1, 10), st.integers(0, 10), st.integers(1, 200), st.integers(1, 20), st.floats(0, 2)),
    min_size=1,
    max_size=4,
)
SPENT = st.lists(st.tuples(st.integers(0, END), st.integers(0, 10), st.integers(0, 50)), max_size=12)


def _spending(entries: list[tuple[int, int, int]]) -> Spending:
    started, ended, nanojoules = np.array(entries, np.int64).reshape(-1, 3).T
    return Spending(started, ended, nanojoules)


def _brute(reigns: list[Reign], entries: list[tuple[int, int, int]]) -> dict[str, float]:
    """Try windows on a grid that holds all edges, and a nanosecond beside them."""
    worst = {reign.policy: 0.0 for reign in reigns}
    for window in {reign.window_nanoseconds for reign in reigns}:
        grid = range(-window, END * SCALE + 1, SCALE // GRID)
        for start in {near for step in grid for near in (step - 1, step, step + 1)}:
            touched = [reign for reign in reigns if start < reign.ended and start + window > reign.began]
            if window not in {reign.window_nanoseconds for reign in touched}:
                continue
            limits = [reign.limit_nanojoules * -(-window // reign.window_nanoseconds) for reign in touched]
            static = _static(reigns, start, start + window)
            energy = sum(
                nanojoules * max(0.0, min(ended, start + window) - max(began, start)) / (ended - began)
                for began, ended, nanojoules in entries
            )
            policy = touched[limits.index(max(limits))].policy
            worst[policy] = max(worst[policy], (energy + static) / max(limits))
    return worst


def _static(reigns: list[Reign], start: int, end: int) -> float:
    """Give what flows from `start` to `end`: each reign's static power until the next begins, the first's before it."""
    begins = [start, *(reign.began for reign in reigns[1:]), max(end, reigns[-1].began)]
    return sum(
        reign.static_watts * max(0, min(until, end) - max(began, start))
        for reign, began, until in zip(reigns, begins[:-1], begins[1:], strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(REIGNS, SPENT)
def test_equals_brute_force(named: list[tuple[int, int, int, int, float]], spent: list[tuple[int, int, int]]) -> None:
    """On random histories, overlapping reigns included, the worst windows are those of a search on a grid."""
    entries = [
        (start * SCALE, min(start + lasts, END) * SCALE, nanojoules)
        for start, lasts, nanojoules in spent
        if lasts and start < END
    ]
    reigns, began = [], 0
    for number, (lasts, overlap, limit, window, static) in enumerate(named):
        until = END if number + 1 == len(named) else min(began + lasts + overlap, END)
        reigns.append(Reign(f"p{number}", limit, window * SCALE, static / SCALE, began * SCALE, until * SCALE))
        began += lasts
    assert worst_windows(reigns, _spending(entries)) == pytest.approx(_brute(reigns, entries), rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 900), st.integers(1, 99))
def test_planted_violation(start: int, window: int) -> None:
    """Two bursts that together break the limit are found, wherever they lie."""
    steady = [(moment, moment + 1, 1) for moment in range(0, 1000, 100)]
    planted = [*steady, (start, start + 1, 60), (start + window - 1, start + window, 60)]
    reigns = [Reign("only", 119, window, 0.0, 0, 1100)]
    assert worst_windows(reigns, _spending(steady))["only"] < 1.0
    assert worst_windows(reigns, _spending(planted))["only"] >= 120 / 119 - 1e-9


def test_windows_across_a_switch() -> None:
    """A window with a switch in it is held to the larger limit and counts for that policy."""
    reigns = [Reign("large", 100, 10, 0.0, 0, 50), Reign("small", 10, 10, 0.0, 50, 100)]
    worst = worst_windows(reigns, _spending([(44, 45, 80), (60, 61, 5)]))
    assert worst == pytest.approx({"large": 0.8, "small": 0.5})


def test_shorter_windows_apply_repeatedly() -> None:
    """Over a longer window a limit applies as often as its own window fits, rounded up."""
    reigns = [Reign("short", 10, 4, 0.0, 0, 50), Reign("long", 1, 10, 0.0, 50, 100)]
    spent = [(moment, moment + 1, 10) for moment in (41, 45, 49)]
    assert worst_windows(reigns, _spending(spent))["short"] == pytest.approx(1.0)
    assert worst_windows(reigns, _spending([*spent, (50, 51, 15)]))["short"] == pytest.approx(2.5)


def test_a_limit_binds_the_windows_that_its_reign_reaches_into() -> None:
    """A window of another policy's length is nobody's promise where that policy had no part in it."""
    reigns = [
        Reign("long", 20, 8, 0.0, 0, 50), Reign("short", 10, 5, 0.0, 163, 166), Reign("shorter", 5, 2, 0.0, 166, 176)
    ]  # fmt: skip
    spent = [(163, 164, 10), (166, 167, 5), (168, 169, 5), (170, 171, 5)]
    worst = worst_windows(reigns, _spending(spent))
    assert worst == pytest.approx({"long": 0.0, "short": 1.0, "shorter": 1.0})
    # With the longer limit in force just before, eight nanoseconds of all three hold 30, where 20 are allowed.
    before = [Reign("long", 20, 8, 0.0, 0, 163), *reigns[1:]]
    assert worst_windows(before, _spending(spent))["long"] == pytest.approx(1.0)
    assert worst_windows(before, _spending([(162, 163, 10), *spent]))["long"] == pytest.approx(1.5)


def test_limit_of_zero() -> None:
    """Under a limit of zero static power is no violation and any request is."""
    reigns = [Reign("none", 0, 10, 0.5, 0, 100)]
    assert worst_windows(reigns, _spending([])) == {"none": 0.0}
    assert worst_windows(reigns, _spending([(5, 6, 1)])) == {"none": np.inf}


def test_static_power_counts() -> None:
    """Static power flows through every window."""
    assert worst_windows([Reign("p", 10, 10, 0.5, 0, 100)], _spending([(5, 6, 1)]))["p"] == pytest.approx(0.6)


def test_no_reigns() -> None:
    """Where nobody reigned nothing is told."""
    assert worst_windows([], _spending([])) == {}
