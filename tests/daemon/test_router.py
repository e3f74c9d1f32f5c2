"""The router's decisions: constraints, deadline, order of the strategies, budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.budget import Budget, Limit
from daemon.clock import NANO
from daemon.config import STRATEGIES, PolicyConfig
from daemon.router import QUEUE_MARGIN, TURN_SECONDS, Constraints, Dispatch, Refuse, Router, Wait
from daemon.waiting import Work
from hal.device import Kind
from tests.daemon.builders import make_point

if TYPE_CHECKING:
    from daemon.points import Point
    from daemon.router import Decision

NOW = 1000 * NANO
SOON = Constraints(NOW + NANO)
FAST = make_point(steps=4, accuracy=0.96, dynamic_nanojoules=100, upper_nanojoules=200)
GOOD = make_point(steps=8, accuracy=0.98, dynamic_nanojoules=200, upper_nanojoules=400, service_seconds=0.002)
BEST = make_point(
    device="stick", variant="dnn", kind=Kind.DNN, steps=1, accuracy=0.99, dynamic_nanojoules=1000,
    upper_nanojoules=1000, service_seconds=0.0005,
)  # fmt: skip
POINTS = [FAST, GOOD, BEST]


def _router(
    strategy: str = "accuracy",
    *,
    limit: int = 100_000,
    loads: dict[str, float | None] | None = None,
    min_accuracy: float = 0.0,
    pin: str = "",
) -> Router:
    policy = PolicyConfig(strategy, 1.0, 10.0, min_accuracy, pin)
    budget = Budget(Limit(limit, 10 * NANO), static_watts=0.0, longest_window_nanoseconds=NANO)
    return Router("test", policy, budget, lambda device, _priority: (loads or {}).get(device, 0.0))


def _chosen(decision: Decision) -> Point:
    assert isinstance(decision, Dispatch)
    return decision.point


@pytest.mark.parametrize(
    ("strategy", "expected"), [("accuracy", BEST), ("saver", FAST), ("latency", BEST), ("balanced", BEST)]
)
def test_first_choices(strategy: str, expected: Point) -> None:
    """With an empty window each strategy takes what it is named for."""
    router = _router(strategy)
    assert _chosen(router.decide(POINTS, SOON, NOW)) is expected
    assert router.budget.reserved_nanojoules == expected.upper_nanojoules


@pytest.mark.parametrize(("pin", "expected"), [("snn", GOOD), ("dnn", BEST), ("chip", GOOD), ("stick", BEST)])
def test_pin(pin: str, expected: Point) -> None:
    """A pinned policy serves with that device or kind only, at its most accurate point."""
    assert _chosen(_router("pin", pin=pin).decide(POINTS, SOON, NOW)) is expected


def test_pinned_device_without_the_model() -> None:
    """A pin that no point matches is a refusal, not another device."""
    assert _router("pin", pin="elsewhere").decide(POINTS, SOON, NOW) == Refuse("constraints")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Constraints(NOW + NANO, min_accuracy=0.97), GOOD),
        (Constraints(NOW + NANO, min_accuracy=0.99), BEST),
        (Constraints(NOW + NANO, max_energy_nanojoules=100), FAST),
        (Constraints(NOW + NANO, min_accuracy=0.97, max_energy_nanojoules=200), GOOD),
    ],
)
def test_constraints_of_the_request(wanted: Constraints, expected: Point) -> None:
    """The least energy that meets the request's accuracy and energy is taken."""
    assert _chosen(_router("saver").decide(POINTS, wanted, NOW)) is expected


@pytest.mark.parametrize(
    "wanted",
    [
        Constraints(NOW + NANO, min_accuracy=0.991),
        Constraints(NOW + NANO, max_energy_nanojoules=99),
        Constraints(NOW + NANO, images=3, max_energy_nanojoules=299),
        Constraints(NOW + NANO, min_accuracy=0.98, max_energy_nanojoules=199),
    ],
)
def test_unmet_constraints(wanted: Constraints) -> None:
    """What no point meets is refused for its constraints; nothing stays reserved."""
    router = _router()
    assert router.decide(POINTS, wanted, NOW) == Refuse("constraints")
    assert router.budget.reserved_nanojoules == 0


def test_accuracy_of_the_policy() -> None:
    """The policy's least accuracy holds where the request asks for less."""
    assert _chosen(_router("saver", min_accuracy=0.97).decide(POINTS, SOON, NOW)) is GOOD


def test_lost_devices() -> None:
    """A lost device is left out; with all of them lost the request is refused."""
    assert _chosen(_router(loads={"stick": None}).decide(POINTS, SOON, NOW)) is GOOD
    assert _router(loads={"stick": None, "chip": None}).decide(POINTS, SOON, NOW) == Refuse("lost")


def test_deadline_behind_a_queue() -> None:
    """A device whose queue is longer than the deadline is passed over for one that is in time."""
    assert _chosen(_router(loads={"stick": 2.0}).decide(POINTS, SOON, NOW)) is GOOD


def test_all_queues_too_long() -> None:
    """With every queue too long the refusal says when the shortest will have shortened enough, margin included."""
    decision = _router(loads={"stick": 2.0, "chip": 3.0}).decide(POINTS, SOON, NOW)
    assert decision == Refuse("load", round(2.0 * QUEUE_MARGIN * NANO) + NANO + NANO // 2000, 2.5005)


def test_batch_takes_longer() -> None:
    """The time of a batch is that of all its images."""
    wanted = Constraints(NOW + NANO // 100, images=10)
    assert _chosen(_router().decide([GOOD, FAST], wanted, NOW)) is FAST


def test_latency_of_a_batch() -> None:
    """The lowest latency of a batch counts all its images, not just one behind the queue."""
    wanted = Constraints(NOW + NANO, images=10)
    router = _router("latency", loads={"stick": 0.004})
    assert _chosen(router.decide([FAST, BEST], wanted, NOW)) is BEST
    assert _chosen(router.decide([FAST, BEST], SOON, NOW)) is FAST


def test_next_that_fits() -> None:
    """Where the first choice does not fit the budget, the next in order is taken."""
    assert _chosen(_router(limit=999).decide(POINTS, SOON, NOW)) is GOOD
    assert _chosen(_router(limit=399).decide(POINTS, SOON, NOW)) is FAST


def test_wait_for_the_budget() -> None:
    """A full window is waited for where the deadline allows it."""
    router = _router(limit=1000)
    router.budget.spend(900, NOW - 9 * NANO - NANO // 2)
    decision = router.decide(POINTS, SOON, NOW)
    assert decision == Wait(NOW + NANO // 2, Work(100, NANO // 1000))
    assert _chosen(router.decide(POINTS, SOON, NOW + NANO // 2)) is BEST


def test_no_time_to_wait() -> None:
    """Where the window is full beyond the deadline the refusal says when there will be room."""
    router = _router(limit=1000)
    router.budget.spend(900, NOW)
    assert router.decide(POINTS, SOON, NOW) == Refuse("budget", 10 * NANO, 10.006, 200)
    takes = NANO // 1000 + round(TURN_SECONDS * NANO)
    just_too_late = Constraints(NOW + 10 * NANO + takes - 1)
    assert router.decide(POINTS, just_too_late, NOW) == Refuse("budget", 10 * NANO, 10.006, 200)
    decision = router.decide(POINTS, Constraints(NOW + 10 * NANO + takes), NOW)
    assert decision == Wait(NOW + 10 * NANO, Work(100, NANO // 1000))


def test_never_fits() -> None:
    """What exceeds the whole limit is refused; retrying is worth it after another window at the earliest."""
    assert _router(limit=199).decide(POINTS, SOON, NOW) == Refuse("budget", 10 * NANO, 0.0, 200)


def test_balanced_saves_as_the_window_fills() -> None:
    """The price of a joule rises: from the most accurate point with an empty window to the cheapest with a full one."""
    router = _router("balanced", limit=100_000)
    seen = []
    for _ in range(400):
        decision = router.decide(POINTS, SOON, NOW)
        if not isinstance(decision, Dispatch):
            break
        seen.append(decision.point)
    energies = [point.dynamic_nanojoules for point in seen]
    assert energies == sorted(energies, reverse=True)
    assert (seen[0], seen[-1]) == (BEST, FAST)
    assert GOOD in seen


def test_balanced_with_one_price() -> None:
    """Where the cheapest point is the most accurate one there is nothing to weigh."""
    alone = make_point(accuracy=0.99, dynamic_nanojoules=100)
    assert _chosen(_router("balanced", limit=250).decide([alone, BEST], SOON, NOW)) is alone


@given(
    strategy=st.sampled_from([each for each in STRATEGIES if each != "pin"]),
    figures=st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 1000), st.integers(0, 1000), st.floats(1e-6, 2)),
        min_size=1,
        max_size=5,
    ),
    limit=st.integers(0, 5000),
    spent=st.integers(0, 5000),
    images=st.integers(1, 8),
    min_accuracy=st.floats(0, 1),
    seconds=st.floats(0, 30),
)
def test_every_decision_keeps_its_word(
    strategy: str,
    figures: list[tuple[float, int, int, float]],
    limit: int,
    spent: int,
    images: int,
    min_accuracy: float,
    seconds: float,
) -> None:
    """A dispatch meets constraints, deadline and budget; a wait ends with room and in time; else nothing is held."""
    points = [
        make_point(accuracy=accuracy, dynamic_nanojoules=mean, upper_nanojoules=mean + more, service_seconds=service)
        for accuracy, mean, more, service in figures
    ]
    router = _router(strategy, limit=limit)
    router.budget.spend(spent, NOW - 5 * NANO)
    wanted = Constraints(NOW + round(seconds * NANO), images, None, min_accuracy)
    decision = router.decide(points, wanted, NOW)
    held = router.budget.reserved_nanojoules
    if isinstance(decision, Dispatch):
        assert decision.point.accuracy >= min_accuracy
        assert decision.point.service_seconds * images <= seconds + 1e-9
        assert held == decision.reservation.nanojoules == decision.point.upper_nanojoules * images
        assert spent + held <= limit
    else:
        assert held == 0
    if isinstance(decision, Wait):
        assert NOW < decision.until <= wanted.deadline
        assert isinstance(router.decide(points, wanted, decision.until), Dispatch)
