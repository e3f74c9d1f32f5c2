"""Power states over random histories: no window is over the limit, nothing flaps, and the books agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon import power as power_module
from daemon.budget import Budget, Limit, Reservation
from daemon.config import PolicyConfig
from daemon.power import Power, PowerState, Supply, Switch
from hal.device import Cost

# Histories in nanoseconds that are few, so that every window can be looked at. Watts are nanojoules per nanosecond.
# A policy: what its limit holds beside the static power of what stays on, or None for a limit of zero, and what it lets
# be down.
KEEPING = PolicyConfig("saver", 100.0)
POLICIES = st.tuples(st.one_of(st.none(), st.integers(0, 100)), st.sampled_from([(), ("a",), ("a", "b")]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(0, 15)),
        st.tuples(st.just("reserve"), st.integers(0, 60)),
        st.tuples(st.just("reserve"), st.integers(0, 60)),
        st.tuples(st.just("settle"), st.integers(0, 1 << 16)),
        st.tuples(st.just("switch"), st.integers(0, 3)),
    ),
    max_size=40,
)
# What happens under each policy.
CHAPTERS = st.lists(st.tuples(POLICIES, STEPS), min_size=1, max_size=4)
WINDOWS = st.integers(5, 40)
# How all histories begin: what may be down is down.
DOWN = ((None, ("a", "b")), [("switch", 1), ("switch", 1), ("pass", 40)])
Chapters = list[tuple[tuple[int | None, tuple[str, ...]], list[tuple[str, int]]]]


@dataclass
class _Entry:
    """A dispatch, or a device powering up: its joules may fall anywhere from `began` to `ended`."""

    nanojoules: int
    began: int
    ended: int | None = None
    reservation: Reservation | None = None


@dataclass
class _Play:
    """A history: what was spent, what was drawn from when on, the policies, and the switches done."""

    power: Power
    now: int = 1000
    policy: PolicyConfig = KEEPING
    entries: list[_Entry] = field(default_factory=list)
    opening: dict[str, _Entry] = field(default_factory=dict)
    drawn: list[tuple[int, float]] = field(default_factory=list)
    policies: list[tuple[int, Limit]] = field(default_factory=list)
    pending: list[Switch] = field(default_factory=list)
    switched: list[tuple[int, Switch]] = field(default_factory=list)

    def take(self) -> None:
        """Begin what the machine decided, at once."""
        for switch in self.power.switches:
            self.switched.append((self.now, switch))
            self.pending.append(switch)
            if switch.on:
                entry = _Entry(self.power.supplies[switch.device].upper_nanojoules, self.now)
                self.entries.append(entry)
                self.opening[switch.device] = entry
        self.power.switches.clear()
        self.drawn.append((self.now, self.power.drawn_watts))

    def finish(self, well: bool) -> None:
        """End the switch that began first, well or not."""
        if not self.pending:
            return
        switch = self.pending.pop(0)
        if not well and self.power.supplies[switch.device].state is PowerState.CLOSING:
            self.switched = [each for each in self.switched if each[1] is not switch]
        end = self.power.done if well else self.power.failed
        spent = end(switch.device, switch.on, self.now)
        if switch.on:
            entry = self.opening.pop(switch.device)
            entry.nanojoules, entry.ended = spent, self.now
        self.take()

    def reserve(self, value: int) -> None:
        """Dispatch a request to one of the devices, or have it want one that is down."""
        device = "abcc"[value % 4]
        if value > 50 and self.power.is_down(device):
            self.power.want(device, self.now)
            return
        reservation = self.power.reserve(device, value, self.now)
        if reservation is not None:
            self.power.chosen(device, self.now)
            self.take()
            self.entries.append(_Entry(value, self.now, reservation=reservation))

    def settle(self, value: int) -> None:
        """Settle a request with part of its bound."""
        running = [entry for entry in self.entries if entry.reservation]
        if running:
            entry = running[value % len(running)]
            assert entry.reservation is not None
            bound = entry.reservation.nanojoules
            entry.nanojoules, entry.ended = value % (bound + 1), self.now
            self.power._budget.settle(entry.reservation, entry.nanojoules, self.now)
            entry.reservation = None

    def act(self, action: str, value: int) -> None:
        """Let one thing happen."""
        if action == "pass":
            self.now += value
        elif action == "reserve":
            self.reserve(value)
        elif action == "settle":
            self.settle(value)
        elif action == "switch":
            self.finish(well=value > 0)

    def energy(self, start: int, end: int) -> tuple[int, float]:
        """Give the most that may have been spent from `start` up to and without `end`, and what was drawn."""
        spent = sum(e.nanojoules for e in self.entries if e.began < end and (e.ended or self.now) >= start)
        edges = [*self.drawn, (max(self.now, end), 0.0)]
        drawn = sum(
            watts * max(min(until, end) - max(since, start), 0) for (since, watts), (until, _) in pairwise(edges)
        )
        return spent, drawn


def _play(window: int, chapters: Chapters) -> _Play:
    costs = {"a": (3, Cost(30e-9, 40e-9, 0.0)), "b": (2, Cost(1e-9, 1e-9, 0.0)), "c": (1, None)}
    supplies = [Supply(name, watts, cost, since=1000, used=1000) for name, (watts, cost) in costs.items()]
    budget = Budget(Limit(0, window), static_watts=6, longest_window_nanoseconds=window)
    play = _Play(Power(budget, supplies))
    play.take()
    for (room, power_down), steps in [DOWN, *chapters]:
        play.now += 1
        least = sum(supply.watts for supply in supplies if supply.device not in power_down)
        budget.change_limit(Limit(0 if room is None else round(least * window) + room, window), play.now)
        play.policy = PolicyConfig("saver", 1.0, power_down=power_down)
        play.policies.append((play.now, budget.limit))
        for action, value in steps:
            play.act(action, value)
            play.power.step(play.now, play.policy, lambda device: device not in play.opening)
            play.take()
    return play


@settings(max_examples=400, deadline=None)
@given(WINDOWS, CHAPTERS)
def test_never_over_the_limit(window: int, chapters: Chapters) -> None:
    """Whatever goes up and down, any window holds the largest limit in force in it, static power included.

    A limit is in force until what was under way in its reign has ended: neither that nor what was switched on beside it
    can be called back. That is the rule of `daemon.history`, too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(power_module, "FLOOR_NANOSECONDS", 4)
        play = _play(window, chapters)
    following = [began for began, _ in play.policies[1:]] + [play.now + 1]
    spans = [(entry.began, play.now if entry.ended is None else entry.ended) for entry in play.entries]
    reigns = []
    for (began, limit), end in zip(play.policies, following, strict=True):
        under_way = [last + 1 for first, last in spans if first < end and last >= began]
        reigns.append((began, max([end, *under_way]), limit.nanojoules))
    for start in range(play.policies[0][0], play.now + 1):
        spent, drawn = play.energy(start, start + window)
        largest = max((limit for began, end, limit in reigns if began < start + window and end > start), default=0)
        assert spent == 0 or spent + drawn <= largest


@settings(max_examples=400, deadline=None)
@given(WINDOWS, CHAPTERS)
def test_no_flapping(window: int, chapters: Chapters) -> None:
    """A device is switched to and fro in turn, and stays on for its break-even time unless the limit forbids it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(power_module, "FLOOR_NANOSECONDS", 4)
        play = _play(window, chapters)
        for supply in play.power.supplies.values():
            own = [(at, switch) for at, switch in play.switched if switch.device == supply.device]
            for (up, first), (down, second) in pairwise(own):
                assert first.on != second.on
                if first.on and second.reason.startswith("unused"):
                    assert down - up >= supply.break_even_nanoseconds


@settings(max_examples=200, deadline=None)
@given(WINDOWS, CHAPTERS)
def test_books_agree(window: int, chapters: Chapters) -> None:
    """At any end, the budget's static power is what is drawn, and what waits for room; nothing else stays reserved."""
    play = _play(window, chapters)
    power, budget = play.power, play.power._budget
    waiting = [supply for supply in power.supplies.values() if supply.state is PowerState.WAITING]
    assert budget.static_watts == power.drawn_watts + sum(supply.watts for supply in waiting)
    held = [entry.nanojoules for entry in play.entries if entry.reservation or entry in play.opening.values()]
    assert budget.reserved_nanojoules == sum(held) + sum(supply.upper_nanojoules for supply in waiting)
    assert set(power.unready.values()) == {s for s in power.supplies.values() if s.state is not PowerState.ON}
