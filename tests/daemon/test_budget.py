"""No window over the limit, wherever it starts: the ledger against brute force."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon import budget
from daemon.budget import Budget, Limit, Past, Reservation, limit_of
from daemon.clock import NANO

if TYPE_CHECKING:
    from collections.abc import Iterable

LONGEST = 60
STATIC_WATTS = 1.5
LIMITS = st.builds(Limit, st.integers(0, 300), st.integers(1, LONGEST))
# What may happen next: time passes, someone reserves, someone lands, is called off, or the policy changes.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 40)),
        st.tuples(st.just("reserve"), st.integers(0, 90)),
        st.tuples(st.just("settle"), st.integers(0, 1 << 16)),
        st.tuples(st.just("cancel"), st.integers(0, 1 << 16)),
        st.tuples(st.just("limit"), LIMITS),
    ),
    max_size=60,
)


@dataclass
class _Entry:
    """One dispatch: its joules may fall anywhere from `began` to `ended`."""

    nanojoules: int
    began: int
    ended: int | None = None


@dataclass
class _Reign:
    """The nanoseconds from `began` up to and without `ended`."""

    limit: Limit
    began: int
    ended: int


@dataclass
class _History:
    """What happened to a budget: the dispatches and the limits that were in force."""

    entries: list[_Entry]
    limits: list[tuple[int, Limit]]
    now: int

    def reigns(self) -> Iterable[_Reign]:
        """Give the reigns; one lasts until what was dispatched under it has ended, so that it overlaps the next."""
        nexts = [*(began for began, _ in self.limits[1:]), self.now + 1]
        for (began, limit), following in zip(self.limits, nexts, strict=True):
            own = [(entry.ended or self.now) + 1 for entry in self.entries if entry.began < following]
            yield _Reign(limit, began, max([following, *own]))

    def energy(self, start: int, end: int) -> int:
        """Give the most that may have been spent in the nanoseconds from `start` up to and without `end`."""
        touching = [each for each in self.entries if each.began < end and (each.ended or self.now) >= start]
        return sum(entry.nanojoules for entry in touching)


def _play(steps: list[tuple[str, int | Limit]], limit: Limit) -> tuple[Budget, _History]:
    """Play a history on a budget. Times begin at an odd moment; a policy switch takes a nanosecond."""
    ledger = Budget(limit, static_watts=STATIC_WATTS, longest_window_nanoseconds=LONGEST)
    history = _History([], [(1000, limit)], 1000)
    under_way: list[tuple[Reservation, _Entry]] = []
    for action, value in steps:
        if isinstance(value, Limit):
            history.now += 1
            ledger.change_limit(value, history.now)
            history.limits.append((history.now, value))
        elif action == "pass":
            history.now += value
        elif action == "reserve":
            reservation = ledger.reserve(value, history.now)
            if reservation is not None:
                under_way.append((reservation, _Entry(value, history.now)))
                history.entries.append(under_way[-1][1])
        elif under_way:
            reservation, entry = under_way.pop(value % len(under_way))
            entry.ended = history.now
            if action == "settle":
                entry.nanojoules = value % (reservation.nanojoules + 1)
                ledger.settle(reservation, entry.nanojoules, history.now)
            else:
                history.entries.remove(entry)
                ledger.cancel(reservation)
    return ledger, history


def _static(limit: Limit) -> int:
    return round(STATIC_WATTS * limit.window_nanoseconds)


@settings(max_examples=300, deadline=None)
@given(STEPS, LIMITS)
def test_no_window_over_the_limit(steps: list[tuple[str, int | Limit]], limit: Limit) -> None:
    """Every window in which one policy alone reigns holds its limit, static power included, wherever it starts."""
    _, history = _play(steps, limit)
    reigns = list(history.reigns())
    for number, reign in enumerate(reigns):
        window = reign.limit.window_nanoseconds
        first = max([reign.began, *(before.ended for before in reigns[:number])])
        last = min([reign.ended, *(after.began for after in reigns[number + 1 :])]) - window
        for start in range(first, last + 1):
            spent = history.energy(start, start + window)
            assert spent == 0 or spent + _static(reign.limit) <= reign.limit.nanojoules


@settings(max_examples=400, deadline=None)
@given(STEPS, LIMITS)
def test_windows_that_contain_a_switch(steps: list[tuple[str, int | Limit]], limit: Limit) -> None:
    """Each window of a limit's length that its reign reaches into holds the largest limit in force in it."""
    _, history = _play(steps, limit)
    reigns = list(history.reigns())
    for window in {reign.limit.window_nanoseconds for reign in reigns}:
        for start in range(1000 - window, history.now + 1):
            touched = [r.limit for r in reigns if r.began < start + window and r.ended > start]
            if window not in {each.window_nanoseconds for each in touched}:
                continue
            largest = max(each.nanojoules * math.ceil(window / each.window_nanoseconds) for each in touched)
            spent = history.energy(start, start + window)
            assert spent == 0 or spent + round(STATIC_WATTS * window) <= largest


@settings(max_examples=300, deadline=None)
@given(STEPS, LIMITS, st.integers(0, 120))
def test_frees_at_is_exact(steps: list[tuple[str, int | Limit]], limit: Limit, wanted: int) -> None:
    """At the moment told it fits and a nanosecond earlier it does not, as long as nothing settles."""
    ledger, history = _play(steps, limit)
    frees, room = ledger.frees_at(wanted, history.now), ledger.room_nanojoules
    if frees is None:
        assert wanted > ledger.limit.nanojoules - ledger.static_nanojoules
    elif frees == history.now:
        assert wanted <= room(frees)
    elif ledger.reserved_nanojoules:
        assert room(history.now) < wanted
        assert history.now < frees <= history.now + LONGEST
    else:
        assert room(frees - 1) < wanted <= room(frees)
        assert history.now < frees <= history.now + LONGEST


@settings(max_examples=300, deadline=None)
@given(STEPS, LIMITS, st.integers(0, 120), st.integers(0, 400))
def test_frees_at_behind_others(steps: list[tuple[str, int | Limit]], limit: Limit, wanted: int, ahead: int) -> None:
    """The moment behind others is the one at which they have spent what they would, each nanojoule when it may."""
    ledger, history = _play(steps, limit)
    ledger.settle(Reservation(ledger.reserved_nanojoules), ledger.reserved_nanojoules, history.now)
    told, now = ledger.frees_at(wanted, history.now, ahead), history.now
    for _ in range(ahead):
        frees = ledger.frees_at(1, now)
        if frees is None:
            assert told is None or told == now
            return
        now = frees
        ledger.spend(1, now)
    assert told == ledger.frees_at(wanted, now)


@settings(max_examples=300, deadline=None)
@given(STEPS, LIMITS)
def test_what_runs_counts_as_spent_now(steps: list[tuple[str, int | Limit]], limit: Limit) -> None:
    """What waits for a reservation in flight is told a moment at which it fits if that settles now, at its bound."""
    ledger, history = _play(steps, limit)
    frees = ledger.frees_at(limit.nanojoules, history.now)
    if frees is not None and ledger.reserved_nanojoules:
        ledger.settle(Reservation(ledger.reserved_nanojoules), ledger.reserved_nanojoules, history.now)
        assert ledger.reserved_nanojoules == 0
        assert ledger.frees_at(limit.nanojoules, frees) == frees


@settings(max_examples=100, deadline=None)
@given(STEPS, LIMITS)
def test_trimming_changes_nothing(steps: list[tuple[str, int | Limit]], limit: Limit) -> None:
    """A ledger that cuts old entries off at once says the same as one that never does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "TRIM", 1)
        short, history = _play(steps, limit)
        patch.setattr(budget, "TRIM", 1 << 60)
        whole, _ = _play(steps, limit)
    assert len(short._ends) <= len(whole._ends)
    for now in range(history.now, history.now + LONGEST + 2):
        assert short.room_nanojoules(now) == whole.room_nanojoules(now)
        assert short.frees_at(50, now) == whole.frees_at(50, now)


def test_old_entries_leave() -> None:
    """The ledger of a long life stays as small as its longest window."""
    ledger = Budget(Limit(100, 10), static_watts=0.0, longest_window_nanoseconds=10)
    for now in range(5 * budget.TRIM):
        ledger.spend(1, now)
    assert len(ledger._ends) <= budget.TRIM + 10
    assert ledger.spent_nanojoules(now) == 10


def test_nothing_fits_before_the_window_has_passed() -> None:
    """What fills the limit blocks all else for exactly one window after its end."""
    ledger = Budget(Limit(100, 10), static_watts=0.0, longest_window_nanoseconds=10)
    held = ledger.reserve(100, 0)
    assert held is not None
    assert ledger.reserve(1, 50) is None
    ledger.settle(held, 100, 60)
    assert ledger.reserve(1, 69) is None
    assert ledger.frees_at(1, 60) == 70
    assert ledger.reserve(1, 70) is not None


def test_settling_gives_the_rest_back() -> None:
    """Only what was spent stays in the window, the rest of a reservation is free at once."""
    ledger = Budget(Limit(100, 10), static_watts=0.0, longest_window_nanoseconds=10)
    held = ledger.reserve(100, 0)
    assert held is not None
    ledger.settle(held, 40, 1)
    assert (ledger.spent_nanojoules(1), ledger.reserved_nanojoules, ledger.room_nanojoules(1)) == (40, 0, 60)


def test_static_power_counts() -> None:
    """Static power of a whole window is taken off the limit first."""
    ledger = Budget(limit_of(1.0, 10.0), static_watts=0.6, longest_window_nanoseconds=NANO)
    assert ledger.static_nanojoules == 6 * NANO
    assert ledger.room_nanojoules(0) == 4 * NANO
    assert ledger.frees_at(4 * NANO + 1, 0) is None


def test_limit_of_zero_serves_nothing() -> None:
    """Under a limit of zero no energy fits, ever."""
    ledger = Budget(limit_of(0.0, 10.0), static_watts=0.1, longest_window_nanoseconds=NANO)
    assert ledger.reserve(1, 0) is None
    assert ledger.frees_at(1, 0) is None


def test_a_cut_holds_until_the_window_fits() -> None:
    """After a cut nothing is dispatched until the trailing window fits the new limit."""
    ledger = Budget(Limit(100, 10), static_watts=0.0, longest_window_nanoseconds=20)
    ledger.spend(80, 5)
    ledger.change_limit(Limit(50, 20), 6)
    assert ledger.room_nanojoules(6) == -30
    assert ledger.reserve(1, 24) is None
    assert ledger.reserve(1, 25) is not None


def test_a_replaced_limit_binds_for_one_of_its_windows() -> None:
    """After a switch to a shorter window, the longer one that was promised is kept until it has passed."""
    ledger = Budget(Limit(100, 100), static_watts=0.0, longest_window_nanoseconds=100)
    ledger.spend(90, 50)
    ledger.change_limit(Limit(12, 10), 60)
    assert ledger.room_nanojoules(60) == 12
    ledger.spend(12, 60)
    ledger.spend(12, 70)
    # Of the first window there is left what ten of the second limit allow beyond what was spent.
    assert ledger.room_nanojoules(80) == 120 - 114
    assert (ledger.frees_at(7, 80), ledger.frees_at(12, 80)) == (150, 150)
    assert ledger.room_nanojoules(150) == 12
    assert ledger.room_nanojoules(160) == 12


def test_a_replaced_limit_binds_while_something_of_its_reign_runs() -> None:
    """What was under way at a switch reaches into the next reign, and its limit with it."""
    ledger = Budget(Limit(100, 50), static_watts=0.0, longest_window_nanoseconds=50)
    held = ledger.reserve(80, 0)
    assert held is not None
    ledger.change_limit(Limit(90, 10), 1)
    ledger.change_limit(Limit(1, 1), 2)
    ledger.change_limit(Limit(90, 10), 3)
    assert ledger.room_nanojoules(100) == 10
    ledger.settle(held, 80, 101)
    ledger.spend(90, 111)
    for _ in range(3):
        ledger.spend(90, 121)
    # Five windows of ten may hold 90 each, and one that began before the end of what ran holds 440.
    assert ledger.room_nanojoules(135) == 450 - 440
    assert ledger.room_nanojoules(151) == 90


def test_limits_before_a_restart() -> None:
    """The limits of an earlier daemon bind like those that this one replaced, and lengthen what the ledger keeps."""
    ledger = Budget(Limit(12, 10), static_watts=0.0, longest_window_nanoseconds=10)
    ledger.seed([Past(500, 0.0, Limit(100, 100)), Past(560, 0.0, Limit(12, 10))], 565)
    assert ledger.longest_window_nanoseconds == 100
    ledger.spend(114, 490)
    assert ledger.room_nanojoules(565) == 6
    assert ledger.room_nanojoules(590) == 12
    ledger.seed([Past(100, 0.0, Limit(1000, 300))], 565)
    assert ledger.longest_window_nanoseconds == 100


def test_entries_out_of_order_end_later() -> None:
    """An entry that ended before the last one counts as long as that one: never less than it should."""
    ledger = Budget(Limit(100, 10), static_watts=0.0, longest_window_nanoseconds=10)
    ledger.spend(10, 8)
    ledger.spend(5, 3)
    assert ledger.spent_nanojoules(17) == 15
    assert ledger.spent_nanojoules(18) == 0


def test_static_power_before_a_restart() -> None:
    """What was drawn before this ledger began leaves less room, until a window later."""
    budget = Budget(Limit(1000, 100), static_watts=1.0, longest_window_nanoseconds=100)
    budget.seed([Past(940, 9.0, budget.limit), Past(1000, 5.0, budget.limit)], 1000)
    assert budget.room_nanojoules(1000) == 1000 - 100 - 60 * 4 - 40 * 8
    assert budget.room_nanojoules(1050) == 1000 - 100 - 50 * 4
    assert budget.room_nanojoules(1100) == 900
