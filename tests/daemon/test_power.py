"""Power states: when devices go down and come back, and that no window is over the limit meanwhile."""

from __future__ import annotations

import pytest

from daemon.budget import Budget, Limit
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.power import FLOOR_NANOSECONDS, Power, PowerState, Supply, Switch
from hal.device import Cost

NOW = 1000 * NANO
WINDOW = 10 * NANO
# Powering the stick up costs as much as ten seconds of idling.
REOPENING = Cost(5.0, 6.0, 2.0)
BREAK_EVEN = 10 * NANO
SPARING = PolicyConfig("saver", 100.0, power_down=("stick", "card"))
KEEPING = PolicyConfig("saver", 100.0)


def _power(limit_watts: float = 100.0, *, card: bool = False) -> Power:
    """Give a chip of 1 W that stays on, a stick of 0.5 W, and perhaps a card of 2 W that comes up for next to nothing.

    The limit is over ten seconds.
    """
    supplies = [Supply("chip", 1.0), Supply("stick", 0.5, REOPENING, since=NOW, used=NOW)]
    if card:
        supplies.append(Supply("card", 2.0, Cost(0.1, 0.1, 0.1), since=NOW, used=NOW + 1))
    limit = Limit(round(limit_watts * WINDOW), WINDOW)
    static_watts = sum(supply.watts for supply in supplies)
    return Power(Budget(limit, static_watts=static_watts, longest_window_nanoseconds=WINDOW), supplies)


def _state(power: Power, device: str = "stick") -> PowerState:
    return power.supplies[device].state


def _step(power: Power, now: int, policy: PolicyConfig = SPARING, *, idle: bool = True) -> list[Switch]:
    """Take a step and what it switches."""
    power.step(now, policy, lambda _device: idle)
    return _taken(power)


def _taken(power: Power) -> list[Switch]:
    taken = list(power.switches)
    power.switches.clear()
    return taken


def _put_down(power: Power, now: int = NOW + BREAK_EVEN) -> int:
    """Let the stick go down, and give a moment at which its last joules have left the window."""
    assert [switch.device for switch in _step(power, now)] == ["stick"]
    assert power.done("stick", False, now) == 0
    assert _state(power) is PowerState.OFF
    return now + 2 * WINDOW


def test_goes_down_when_it_pays() -> None:
    """An idle device goes down after its break-even time and not before; the budget has its power when it is off."""
    power = _power()
    assert _step(power, NOW + BREAK_EVEN - 1) == []
    assert _step(power, NOW + BREAK_EVEN) == [Switch("stick", False, "unused for 10.0 s")]
    assert (_state(power), power.drawn_watts) == (PowerState.CLOSING, 1.5)
    power.done("stick", False, NOW + BREAK_EVEN + 1)
    assert (_state(power), power.drawn_watts) == (PowerState.OFF, 1.0)
    assert power._budget.static_watts == 1.0


def test_stays_on_where_it_must() -> None:
    """What the policy keeps on, what is busy, what was just used and what has no other state stays on."""
    power = _power()
    late = NOW + 3 * BREAK_EVEN
    assert _step(power, late, KEEPING) == []
    assert _step(power, late, idle=False) == []
    power.chosen("stick", late)
    assert _step(power, late + BREAK_EVEN - 1) == []
    assert _step(power, late, PolicyConfig("saver", 1.0, power_down=("chip",))) == []
    assert power.drawn_watts == 1.5


def test_floor() -> None:
    """However little powering up costs, nothing goes down right after its last use."""
    power = _power(card=True)
    assert power.supplies["card"].break_even_nanoseconds == FLOOR_NANOSECONDS
    assert _step(power, NOW + FLOOR_NANOSECONDS) == []
    assert [switch.device for switch in _step(power, NOW + FLOOR_NANOSECONDS + 1)] == ["card"]


def test_limit_below_what_is_on() -> None:
    """What may be down goes at once while the limit is below what is on, the longest unused first, and no more."""
    power = _power(3.2, card=True)
    assert _step(power, NOW + 1) == [Switch("stick", False, "the limit is below what is on")]
    power = _power(1.2, card=True)
    assert [switch.device for switch in _step(power, NOW + 1)] == ["stick", "card"]


def test_nothing_allowed() -> None:
    """Under a limit of zero all that may be down goes down as soon as it is idle, and nothing comes back."""
    power = _power(0.0)
    assert _step(power, NOW, idle=False) == []
    assert [switch.device for switch in _step(power, NOW)] == ["stick"]
    power.done("stick", False, NOW)
    for moment in range(NOW, NOW + 5 * WINDOW, NANO):
        power.want("stick", moment)
        assert power.reserve("stick", 1, moment) is None
        assert _step(power, moment) == []
        assert _step(power, moment, KEEPING) == []


def test_request_powers_up() -> None:
    """A request that the budget allows powers its device up, with all that this takes set aside first."""
    power = _power(2.2)
    now = _put_down(power)
    assert power.delay_seconds("stick", now) == 2.0
    assert power.reserve("stick", 100, now) is not None
    assert _taken(power) == [Switch("stick", True, "a request is waiting")]
    assert (power._budget.static_watts, power._budget.reserved_nanojoules) == (1.5, 6 * NANO + 100)
    assert power.delay_seconds("stick", now + NANO) == 1.0
    assert not power.is_down("stick")
    assert power.reserve("stick", 100, now) is not None
    assert _taken(power) == []
    assert power.done("stick", True, now + 2 * NANO) == 5 * NANO
    assert (_state(power), power._budget.reserved_nanojoules) == (PowerState.ON, 200)
    assert power.unready == {}


@pytest.mark.parametrize(("nanojoules", "fits"), [(0, True), (NANO - 1, True), (NANO, False)])
def test_request_that_does_not_fit(nanojoules: int, fits: bool) -> None:
    """A device stays down where static power, powering up and the request are more than the budget has room for."""
    power = _power(2.2)
    now = _put_down(power)
    power._budget.spend(nanojoules, now)
    assert (power.reserve("stick", 1, now) is not None) is fits
    assert [switch.on for switch in _taken(power)] == [True] * fits
    assert power._budget.static_watts == (1.5 if fits else 1.0)


def test_request_while_going_down() -> None:
    """A device that is on its way down comes back behind that; its power was never off the books."""
    power = _power()
    _step(power, NOW + BREAK_EVEN)
    assert power.reserve("stick", 1, NOW + BREAK_EVEN) is not None
    assert [switch.on for switch in _taken(power)] == [True]
    assert power.done("stick", False, NOW + BREAK_EVEN + 1) == 0
    assert (_state(power), power.drawn_watts, power._budget.static_watts) == (PowerState.OPENING, 1.5, 1.5)
    assert power.done("stick", True, NOW + BREAK_EVEN + 2) == 5 * NANO
    assert _state(power) is PowerState.ON


def test_returning_demand() -> None:
    """A device that requests would have used twice within its break-even time comes back; rarely is not enough."""
    power = _power()
    now = _put_down(power)
    power.want("stick", now)
    assert _step(power, now) == []
    power.want("stick", now + BREAK_EVEN + 1)
    assert _step(power, now + BREAK_EVEN + 1) == []
    power.want("stick", now + BREAK_EVEN + 2)
    assert _step(power, now + BREAK_EVEN + 2) == [Switch("stick", True, "demand has returned")]


def test_demand_that_has_gone() -> None:
    """Demand that the budget had no room for is forgotten."""
    power = _power(2.1)
    now = _put_down(power)
    power.want("stick", now)
    power.want("stick", now)
    power._budget.spend(5 * NANO, now)
    assert _step(power, now + NANO) == []
    assert _step(power, now + WINDOW + 1) == []
    assert not power.supplies["stick"].due


def test_policy_that_keeps_it_on() -> None:
    """Where the policy keeps it on, a device comes back as soon as the budget has room, and nothing goes before it."""
    power = _power(2.2)
    now = _put_down(power)
    budget = power._budget
    budget.spend(8 * NANO, now)
    assert _step(power, now, KEEPING) == []
    assert (_state(power), power.drawn_watts, budget.static_watts) == (PowerState.WAITING, 1.0, 1.5)
    assert budget.reserve(1, now) is None
    assert power.reserve("stick", 1, now) is None
    assert _step(power, now + WINDOW - 1, KEEPING) == []
    assert _step(power, now + WINDOW, KEEPING) == [Switch("stick", True, "the policy keeps it on")]
    assert power.done("stick", True, now + WINDOW) == 5 * NANO


def test_policy_changes_its_mind() -> None:
    """A device that waits for room gives its claim back when the policy lets it be down, or its limit never fits."""
    for policy, limit_watts in ((SPARING, 2.2), (KEEPING, 1.6)):
        power = _power(2.2)
        now = _put_down(power)
        power._budget.spend(8 * NANO, now)
        _step(power, now, KEEPING)
        power._budget.change_limit(Limit(round(limit_watts * WINDOW), WINDOW), now)
        assert _step(power, now, policy) == []
        assert _state(power) is PowerState.OFF
        assert (power._budget.static_watts, power._budget.reserved_nanojoules) == (1.0, 0)


def test_waiting_device_takes_a_request() -> None:
    """Once there is room for a waiting device, a request may be what powers it up."""
    power = _power(2.2)
    now = _put_down(power)
    power._budget.spend(8 * NANO, now)
    _step(power, now, KEEPING)
    assert power.reserve("stick", 1, now + WINDOW) is not None
    assert [switch.on for switch in _taken(power)] == [True]
    assert power._budget.reserved_nanojoules == 6 * NANO + 1


def test_bursts_bound_powering_up() -> None:
    """A limit on bursts holds for powering up as well: what it could never hold is not claimed."""
    power = _power()
    now = _put_down(power)
    for burst_joules, burst_watts, fits in ((5.9, 9.0, False), (6.1, 1.4, False), (6.1, 9.0, True)):
        power._budget.change_limit(Limit(100 * WINDOW, WINDOW, round(burst_joules * NANO), burst_watts), now)
        assert [switch.on for switch in _step(power, now, KEEPING)] == [True] * fits


def test_does_not_come_up() -> None:
    """A device that fails to come up has spent the bound, is powered down to be sure, and rests before the next try."""
    power = _power()
    now = _put_down(power)
    power.reserve("stick", 1, now)
    _taken(power)
    assert power.failed("stick", True, now + 1) == 6 * NANO
    assert _taken(power) == [Switch("stick", False, "it did not come up")]
    assert power._budget.static_watts == 1.5
    power.done("stick", False, now + 2)
    assert power._budget.static_watts == 1.0
    assert _step(power, now + BREAK_EVEN, KEEPING) == []
    assert [switch.on for switch in _step(power, now + 1 + BREAK_EVEN, KEEPING)] == [True]


def test_does_not_go_down() -> None:
    """A device that fails to go down is on, and left so for its break-even time."""
    power = _power()
    now = NOW + BREAK_EVEN
    _step(power, now)
    assert power.failed("stick", False, now) == 0
    assert (_state(power), power._budget.static_watts) == (PowerState.ON, 1.5)
    assert _step(power, now + BREAK_EVEN - 1) == []
    assert [switch.on for switch in _step(power, now + BREAK_EVEN)] == [False]
