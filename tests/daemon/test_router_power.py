"""The router among devices that are down: who is worth powering up, who waits, who is refused for the time it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from daemon.budget import Budget, Limit
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.power import Power, PowerState, Supply
from daemon.router import Constraints, Dispatch, Refuse, Router, Wait
from hal.device import Cost, Kind
from tests.daemon.builders import make_point

if TYPE_CHECKING:
    from daemon.points import Point
    from daemon.router import Decision

NOW = 1000 * NANO
WINDOW = 10 * NANO
HURRIED, PATIENT = Constraints(NOW + NANO), Constraints(NOW + 5 * NANO)
CHIP = make_point(accuracy=0.9, dynamic_nanojoules=100, upper_nanojoules=200)
STICK = make_point(
    device="stick", kind=Kind.DNN, accuracy=0.99, dynamic_nanojoules=50, upper_nanojoules=50, seconds=0.001
)
POINTS = [CHIP, STICK]
REOPENING = Cost(1.0, 1.0, 2.0)


def _router(
    strategy: str = "accuracy", *, limit_joules: float = 100.0, lost: tuple[str, ...] = ()
) -> tuple[Router, Power]:
    """Give a router of a chip of 1 W that is on and a stick of 0.5 W that is down, with an empty window."""
    policy = PolicyConfig(strategy, 1.0, 10.0, power_down=("stick",))
    limit = Limit(round(limit_joules * NANO), WINDOW)
    budget = Budget(limit, static_watts=1.5, longest_window_nanoseconds=WINDOW)
    power = Power(budget, [Supply("chip", 1.0), Supply("stick", 0.5, REOPENING)])
    power.step(NOW - 2 * WINDOW, policy, lambda _device: True)
    power.done("stick", False, NOW - 2 * WINDOW)
    power.switches.clear()
    assert power.is_down("stick")
    return Router("test", policy, budget, lambda device, _priority: None if device in lost else 0.0, power), power


def _chosen(decision: Decision) -> Point:
    assert isinstance(decision, Dispatch)
    return decision.point


def test_worth_powering_up() -> None:
    """A point that would be the first choice were its device on is taken where the deadline allows the wait."""
    router, power = _router()
    assert _chosen(router.decide(POINTS, PATIENT, NOW)) is STICK
    assert [switch.on for switch in power.switches] == [True]
    assert power.supplies["stick"].state is PowerState.OPENING
    assert _chosen(router.decide(POINTS, HURRIED, NOW)) is CHIP


def test_on_its_way() -> None:
    """A device on its way serves whoever can wait for the rest of it."""
    router, _ = _router()
    router.decide(POINTS, PATIENT, NOW)
    later = NOW + 3 * NANO // 2
    assert _chosen(router.decide(POINTS, Constraints(later + NANO), later)) is STICK


def test_hurried_requests_want_it() -> None:
    """Without the time another point serves, and the wish is noted; the second one is demand."""
    router, power = _router()
    for due in (False, True):
        assert _chosen(router.decide(POINTS, HURRIED, NOW)) is CHIP
        assert power.supplies["stick"].due is due
    assert power.switches == []


def test_nobody_else_is_alive() -> None:
    """With all others lost a hurried request is refused for load, to come again when the device is on."""
    router, power = _router(lost=("chip",))
    router.decide(POINTS, HURRIED, NOW)
    decision = router.decide(POINTS, HURRIED, NOW)
    assert isinstance(decision, Refuse)
    assert decision.reason == "load"
    assert decision.retry_nanoseconds == pytest.approx(1.001 * NANO)
    assert power.supplies["stick"].due


@pytest.mark.parametrize("down", [True, False])
def test_saver_spares_it(down: bool) -> None:
    """`saver` turns to what may be down only where nothing else will do, however few joules a request takes there."""
    router, power = _router("saver")
    if not down:
        power.reserve("stick", 0, NOW - 1)
        power.done("stick", True, NOW - 1)
        power.switches.clear()
    assert _chosen(router.decide(POINTS, PATIENT, NOW)) is CHIP
    assert power.switches == []
    assert _chosen(router.decide(POINTS, PATIENT._replace(min_accuracy=0.95), NOW)) is STICK
    assert [switch.on for switch in power.switches] == [True] * down


def test_no_room_for_its_power() -> None:
    """Where the budget holds a request but not the power of another device, what is on serves."""
    router, power = _router(limit_joules=15.5)
    assert _chosen(router.decide(POINTS, PATIENT, NOW)) is CHIP
    assert power.switches == []


def test_waits_for_room() -> None:
    """A request that only a device that is down can serve waits until the window holds that device's power as well."""
    router, power = _router(limit_joules=16.5)
    router.budget.spend(NANO, NOW - WINDOW + NANO)
    alone = Constraints(NOW + 4 * NANO, min_accuracy=0.95)
    decision = router.decide(POINTS, alone, NOW)
    assert (type(decision), decision[0]) == (Wait, NOW + NANO)
    assert _chosen(router.decide(POINTS, alone, NOW + NANO)) is STICK
    assert power.supplies["stick"].state is PowerState.OPENING


def test_never_fits() -> None:
    """What a limit on bursts never lets come up is refused at once, and does not wait for nothing."""
    router, _ = _router()
    router.budget.change_limit(Limit(100 * NANO, WINDOW, 100 * NANO, 1.2), NOW)
    alone = PATIENT._replace(min_accuracy=0.95)
    decision = router.decide(POINTS, alone, NOW)
    assert (type(decision), decision[:3]) == (Refuse, ("budget", WINDOW, 0.0))


def test_deadline_that_nothing_meets() -> None:
    """A deadline shorter than what an idle device needs is refused as such, with the time that is needed."""
    router, _ = _router()
    decision = router.decide(POINTS, Constraints(NOW + NANO // 2000), NOW)
    assert decision == Refuse("deadline", needed_seconds=0.001)


def test_service_time_is_forgotten() -> None:
    """A service time learned in a bad moment keeps an idle device out for a while only, a busy one as long as it is."""
    router, _ = _router(lost=("stick",))
    slow = make_point(seconds=0.001, service_seconds=5.0)
    refused = 0
    while isinstance(decision := router.decide([slow], HURRIED, NOW), Refuse):
        assert (decision.reason, decision.retry_nanoseconds > 0) == ("load", True)
        refused += 1
    assert 0 < refused < 50
    busy = Router("test", router.policy, router.budget, lambda _device, _priority: 2.0)
    slow.service_seconds = 5.0
    busy.decide([slow], HURRIED, NOW)
    assert slow.service_seconds == 5.0


def test_balanced_counts_the_power() -> None:
    """`balanced` powers a better device up where its power leaves enough to spend, not where that leaves nothing."""
    for limit_joules, expected in ((100.0, STICK), (15.9, CHIP)):
        router, _ = _router("balanced", limit_joules=limit_joules)
        assert _chosen(router.decide(POINTS, PATIENT, NOW)) is expected
