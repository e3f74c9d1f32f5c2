"""In simulated time, whatever goes wrong, the router keeps its promises; and who breaks one is caught."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from daemon.audit import EXACT, audit
from daemon.budget import Budget, Reservation
from daemon.clock import NANO
from daemon.points import Point
from daemon.simulation import Request, Simulation
from tests.bench import traces
from tests.bench.router import (
    BUDGETS,
    Case,
    cells,
    evaluate,
    policy_of,
    simulate,
    with_faults,
    worst_fraction,
)
from tests.soak.cut import check_cut

MINUTE = 60.0


@pytest.mark.parametrize("trace", traces.TRACES)
@pytest.mark.parametrize("points", traces.POINTS)
def test_no_window_over_the_limit_whatever_happens(points: str, trace: str) -> None:
    """Switched policies, failing devices, a dying meter, devices off and on: every window stays within its limit."""
    for budget in BUDGETS:
        requests, fraction = with_faults(Case(points, trace, budget, seed=1, seconds=MINUTE))
        assert requests > 1000
        assert 0.5 < fraction <= 1 + EXACT


@pytest.mark.parametrize("trace", ["poisson", "mmpp", "gamma"])
def test_balanced_spends_well(trace: str) -> None:
    """Where demand fits, `balanced` comes within 2.5 % of the bound and within 0.5 % of the best static policy."""
    made, _ = cells(Case("ladder", trace, 0.5, seed=2, seconds=2 * MINUTE))
    balanced = made[0]
    assert (balanced["policy"], balanced["demand_fits"]) == ("balanced", True)
    assert 97.5 <= balanced["percent_of_bound"] <= 100.5
    assert balanced["percent_of_best_static"] >= 99.5


def test_the_result_is_what_it_says() -> None:
    """The evaluation counts what it ran: a cell per policy, and each request of it."""
    result = evaluate([Case("ladder", "poisson", 0.15, seed=0, seconds=20.0)], processes=1)
    policies = [cell["policy"] for cell in result["cells"]]
    assert policies[:3] == ["balanced", "accuracy", "saver"]
    assert len(policies) == 3 + len(traces.ladder_points().points)
    requests = {cell["requests"] for cell in result["cells"]}
    assert result["requests_total"] == (len(policies) + 1) * requests.pop()
    assert (result["windows_over"], requests) == (0, set())
    assert max(cell["percent_of_best_static"] for cell in result["cells"] if cell["policy"] != "balanced") >= 100.0


def test_a_seed_gives_one_history() -> None:
    """The simulation is deterministic: what failed once can be looked at again."""
    case = Case("ladder", "bursts", 0.5, seed=3, seconds=20.0)
    first, again = (simulate(case, "balanced")[0].history() for _ in range(2))
    assert first.requests.statuses.tolist() == again.requests.statuses.tolist()
    assert first.spending.ended.tolist() == again.spending.ended.tolist()
    assert first.spending.nanojoules.tolist() == again.spending.nanojoules.tolist()


def test_idle_devices_power_down() -> None:
    """A policy that may power devices down draws less, and each window still holds, their coming back included."""
    case = Case("ladder", "bursts", 0.5, seed=5, seconds=2 * MINUTE)
    host = traces.POINTS[case.points]()
    policy = policy_of(case, "balanced", power_down=tuple(host.reopening))
    run = Simulation(host.points, host.static_watts, policy, reopening=host.reopening)
    run.run(traces.arrivals(case.trace, case.seed, case.seconds).tolist(), np.random.default_rng(case.seed))
    history = run.history()
    watts = [reign.static_watts for reign in history.reigns]
    assert watts[0] == max(watts) > min(watts)
    assert any(later > before for before, later in pairwise(watts))
    assert worst_fraction(audit(history)) <= 1 + EXACT


def test_a_budget_that_leaks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that forgets a hundredth of what was spent is found out, though its own books say that all is well."""
    settle = Budget.settle

    def leaking(budget: Budget, reservation: Reservation, nanojoules: int, ended: int) -> None:
        settle(budget, reservation, nanojoules * 99 // 100, ended)

    monkeypatch.setattr(Budget, "settle", leaking)
    run, _ = simulate(Case("ladder", "bursts", 0.15, seed=0, seconds=MINUTE), "accuracy")
    assert worst_fraction(audit(run.history())) > 1 + EXACT


def test_a_request_that_is_dropped_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that nobody ends is missed."""
    end, ended = Simulation._end, 0

    def forgetful(run: Simulation, request: Request, status: str, point: Point | None = None) -> None:
        nonlocal ended
        ended += 1
        if ended != 100:
            end(run, request, status, point)

    monkeypatch.setattr(Simulation, "_end", forgetful)
    run, _ = simulate(Case("ladder", "poisson", 0.5, seed=0, seconds=10.0), "balanced")
    with pytest.raises(AssertionError, match=r"request \d+: no record, and its session ended in order"):
        worst_fraction(audit(run.history()))


@pytest.mark.parametrize("strategy", ["accuracy", "balanced"])
def test_cut_to_a_third(strategy: str) -> None:
    """After a cut at full load nothing is dispatched until the trailing window fits, and then every window does."""
    case = Case("ladder", "poisson", 0.15, seed=4, seconds=MINUTE)
    host = traces.POINTS[case.points]()
    whole, third = (
        policy_of(case, strategy, name, case.budget * part) for name, part in (("whole", 1), ("third", 1 / 3))
    )
    run = Simulation(host.points, host.static_watts, whole)
    cut = round(MINUTE / 2 * NANO)
    run.at(cut, partial(run.set_policy, third))
    run.run(traces.arrivals(case.trace, case.seed, case.seconds).tolist(), np.random.default_rng(case.seed))
    history = run.history()
    assert worst_fraction(audit(history)) <= 1 + EXACT
    check_cut(history, cut)
