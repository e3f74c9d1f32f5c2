"""How well the router spends a budget: simulated traces against an upper bound and static policies.

    python -m tests.bench.router [--json FILE] [--traces all|NAME,...] [--seeds N] [--seconds S] [--plot FILE.png]

Every cell is a set of operating points, a trace, a budget and a policy. A budget is the static energy of a window and
1.2, 0.5 or 0.15 times the dynamic energy of answering 60 requests per second at the most accurate point. Then every
trace and budget is run again with faults: policies that switch every second, devices that fail, a meter that dies,
idle devices that are powered down, bursts that are limited. Windows are checked by brute force.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from daemon.audit import ANSWERED, EXACT, Finding, audit
from daemon.budget import Limit
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.points import Point
from daemon.simulation import DEADLINE_NANOSECONDS, MISSED, Policy, Simulation
from tests.bench import traces
from tests.bench.bound import upper_bound

BUDGETS = (1.2, 0.5, 0.15)
WINDOW_SECONDS = 10.0
# A demand fits if the bound answers this part of it.
FITS = 0.999
PERCENTILES = (0, 5, 25, 50, 75, 100)


class Case(NamedTuple):
    """What a cell is about, its policy left out."""

    points: str
    trace: str
    budget: float
    seed: int
    seconds: float


def _best(points: Sequence[Point]) -> Point:
    return max(points, key=lambda point: (point.accuracy, -point.dynamic_nanojoules))


def _name(point: Point) -> str:
    return f"{point.device}@{point.steps}" + (f"-{point.margin}" if point.margin else "")


def _dynamic_nanojoules(points: Sequence[Point], budget: float) -> float:
    return budget * traces.RATE * WINDOW_SECONDS * _best(points).dynamic_nanojoules


def policy_of(
    case: Case, strategy: str, name: str = "", budget: float | None = None, window_seconds: float = WINDOW_SECONDS,
    burst_seconds: float = 0.0, power_down: tuple[str, ...] = (),
) -> Policy:  # fmt: skip
    """Make a policy for the points of a case, with a bucket of so many seconds of its budget where that is not 0."""
    host = traces.POINTS[case.points]()
    dynamic_watts = _dynamic_nanojoules(host.points, case.budget if budget is None else budget) / WINDOW_SECONDS / NANO
    watts = sum(host.static_watts.values()) + dynamic_watts
    limit = Limit(
        round(watts * window_seconds * NANO),
        round(window_seconds * NANO),
        round(burst_seconds * dynamic_watts * NANO) or None,
        watts + dynamic_watts if burst_seconds else 0.0,
    )
    return Policy(name or strategy, PolicyConfig(strategy, watts, window_seconds, power_down=power_down), limit)


def simulate(case: Case, strategy: str, only: int | None = None) -> tuple[Simulation, int]:
    """Run one cell, with one operating point only where one is named; give it and the number of requests."""
    host = traces.POINTS[case.points]()
    points = host.points if only is None else [host.points[only]]
    run = Simulation(points, host.static_watts, policy_of(case, strategy))
    arrivals = traces.arrivals(case.trace, case.seed, case.seconds)
    run.run(arrivals.tolist(), np.random.default_rng(case.seed))
    return run, len(arrivals)


def cells(case: Case) -> tuple[list[dict[str, Any]], float]:
    """Run all policies of a case; give their cells, and the median seconds that `balanced` worked on a request."""
    points = traces.POINTS[case.points]().points
    arrivals = traces.arrivals(case.trace, case.seed, case.seconds)
    spendable = _dynamic_nanojoules(points, case.budget)
    bound, answers = upper_bound(arrivals, points, spendable, WINDOW_SECONDS, DEADLINE_NANOSECONDS / NANO)
    static = [(f"static:{_name(point)}", "accuracy", index) for index, point in enumerate(points)]
    named: list[tuple[str, str, int | None]] = [(each, each, None) for each in ("balanced", "accuracy", "saver")]
    made: list[dict[str, Any]] = []
    seconds = 0.0
    for name, strategy, only in [*named, *static]:
        run, requests = simulate(case, strategy, only)
        utility = sum(end.point.accuracy for end in run.ends if end.point)
        statuses = Counter(end.status for end in run.ends)
        if name == "balanced":
            seconds = statistics.median(end.request.worked_nanoseconds for end in run.ends) / NANO
        made.append(
            {
                "points": case.points, "trace": case.trace, "budget": case.budget, "policy": name, "seed": case.seed,
                "demand_fits": answers >= FITS * requests, "requests": requests,
                "worst_window_fraction": worst_fraction(audit(run.history())), "utility": utility / requests,
                "percent_of_bound": 100 * utility / bound,
                "rejected": requests - statuses[ANSWERED] - statuses[MISSED], "missed": statuses[MISSED],
            }
        )  # fmt: skip
    best = max(cell["utility"] for cell in made if cell["policy"] not in {"balanced", "saver"})
    for cell in made:
        cell["percent_of_best_static"] = 100 * cell["utility"] / best
    return made, seconds


def worst_fraction(findings: Sequence[Finding]) -> float:
    """Give the fullest window or burst of a history that keeps all other promises. Raises `AssertionError`."""
    within = next(finding for finding in findings if finding.invariant == "I4")
    others = [violation for finding in findings if finding is not within for violation in finding.violations]
    fraction = max(within.figures["worst_window_fraction"], within.figures["worst_burst_fraction"])
    if others or bool(within.violations) != (fraction > 1 + EXACT):
        raise AssertionError("; ".join([*others, *within.violations]))
    return fraction


def with_faults(case: Case) -> tuple[int, float]:
    """Run a case with all that may go wrong; give the requests and the fullest window's fraction.

    Each second another of these policies: half the budget, all of it, a fifth of it over a shorter window, nothing, and
    with limited bursts; some of them power idle devices down. Every thirty seconds another device fails for six. From
    the middle on the meter is dead.
    """
    host = traces.POINTS[case.points]()
    idle = tuple(host.reopening)
    policies = [
        policy_of(case, "balanced", "whole", power_down=idle[:1]),
        policy_of(case, "accuracy", "half", case.budget / 2),
        policy_of(case, "balanced", "burst", burst_seconds=1.0, power_down=idle[1:]),
        policy_of(case, "saver", "short", case.budget / 5, window_seconds=3.0, power_down=idle),
        policy_of(case, "balanced", "none", power_down=idle)._replace(limit=Limit(0, round(WINDOW_SECONDS * NANO))),
    ]
    run = Simulation(
        host.points, host.static_watts, policies[0], reopening=host.reopening,
        longest_window_nanoseconds=round(WINDOW_SECONDS * NANO),
    )  # fmt: skip
    rng = np.random.default_rng([case.seed, 1])
    # Beyond the one in force now: a change every second, or a reign of two windows and a half.
    now = 0.0
    while now < case.seconds:
        now += 1.0 if now % 100 < 50 else 2.5 * WINDOW_SECONDS
        run.at(round(now * NANO), partial(run.set_policy, policies[rng.integers(len(policies))]))
    devices = list(host.static_watts)
    for number, began in enumerate(np.arange(10.0, case.seconds, 30.0)):
        failing = devices[number % len(devices)]
        run.at(round(began * NANO), partial(run.set_broken, failing, broken=True))
        run.at(round((began + 6) * NANO), partial(run.set_broken, failing, broken=False))
    run.at(round(case.seconds / 2 * NANO), run.kill_meter)
    arrivals = traces.arrivals(case.trace, case.seed, case.seconds)
    run.run(arrivals.tolist(), rng)
    return len(arrivals), worst_fraction(audit(run.history()))


def evaluate(cases: Sequence[Case], processes: int) -> dict[str, Any]:
    """Run all cases, with and without faults."""
    with ProcessPoolExecutor(processes) as pool:
        results, seconds = [], []
        faulty = pool.map(with_faults, cases)
        for made, worked_seconds in pool.map(cells, cases):
            print(_line(made), flush=True)
            results += made
            seconds.append((len(traces.POINTS[made[0]["points"]]().points), worked_seconds))
        faults = list(faulty)
    fractions = [cell["worst_window_fraction"] for cell in results]
    fractions += [fraction for _, fraction in faults]
    most = max(points for points, _ in seconds)
    return {
        "cells": results,
        "decision_seconds_p50": statistics.median(each for points, each in seconds if points == most),
        "windows_over": sum(fraction > 1 + EXACT for fraction in fractions),
        "requests_total": sum(cell["requests"] for cell in results) + sum(requests for requests, _ in faults),
    }


def _line(made: Sequence[dict[str, Any]]) -> str:
    """Show one case as a row of the table."""
    own, accuracy, saver = made[:3]
    worst = max(cell["worst_window_fraction"] for cell in made)
    return (
        f"| {own['points']:6} | {own['trace']:7} | {own['budget']:4} | {own['seed']:4} | "
        f"{'yes' if own['demand_fits'] else 'no':4} | {own['percent_of_bound']:6.2f} | "
        f"{own['percent_of_best_static']:6.2f} | {accuracy['percent_of_bound']:8.2f} | "
        f"{saver['percent_of_bound']:6.2f} | {own['rejected']:8} | {own['missed']:6} | {worst:9.7f} |"
    )


HEADER = """\
| points | trace   | B    | seed | fits | bound  | static | accuracy | saver  | rejected | missed | worst     |
|--------|---------|------|------|------|--------|--------|----------|--------|----------|--------|-----------|"""


def summary(results: Sequence[dict[str, Any]]) -> str:
    """Show how the figures of `balanced` are spread over the cells, those where demand fits and the others."""
    lines = [
        "| balanced, in percent of | cells | least | "
        + " | ".join(f"p{each}" for each in PERCENTILES[1:-1])
        + " | most |",
        "|---|---|---|" + "---|" * (len(PERCENTILES) - 1),
    ]
    for fits, where in ((True, "demand fits"), (False, "elsewhere")):
        own = [cell for cell in results if cell["policy"] == "balanced" and cell["demand_fits"] is fits]
        for key, name in (("percent_of_bound", "the bound"), ("percent_of_best_static", "the best static policy")):
            figures = np.percentile([cell[key] for cell in own], PERCENTILES) if own else []
            row = " | ".join(f"{figure:.2f}" for figure in figures)
            lines.append(f"| {name}, {where} | {len(own)} | {row} |")
    return "\n".join(lines)


def plot(case: Case, path: Path) -> None:
    """Draw one run of `balanced`: power against budget, the points chosen, the requests refused."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("agg")
    run, _ = simulate(case, "balanced")
    history = run.history()
    reign, spending = history.reigns[0], history.spending
    edges = np.arange(0.0, case.seconds + 1.0)
    joules = np.histogram(spending.ended / NANO, edges, weights=spending.nanojoules / NANO)[0]
    over_window = np.convolve(joules, np.ones(round(WINDOW_SECONDS)))[: len(joules)] / WINDOW_SECONDS
    seconds, budget_watts = edges[1:], reign.limit_nanojoules / reign.window_nanoseconds
    figure, (power, requests) = plt.subplots(
        2, sharex=True, figsize=(10, 6.5), layout="constrained", height_ratios=(1, 1)
    )
    power.fill_between(seconds, reign.static_watts, color="0.9", label="static, of idle devices")
    power.plot(seconds, reign.static_watts + joules, lw=0.8, color="0.65", label="in one second")
    power.plot(seconds, reign.static_watts + over_window, lw=1.8, label=f"in the last {WINDOW_SECONDS:.0f} s")
    power.axhline(budget_watts, color="C3", lw=1.2, ls="--", label=f"budget, over {WINDOW_SECONDS:.0f} s")
    # Idle devices draw most of it: the axis begins a little below that.
    power.set(ylabel="power (W)", ylim=(reign.static_watts * 0.97, None), xlim=(0, case.seconds))
    power.set_title(
        f"Simulated: policy balanced, points {case.points}, trace {case.trace}, budget {case.budget}", loc="left"
    )
    answered = sorted({end.point for end in run.ends if end.point}, key=lambda point: point.dynamic_nanojoules)
    counts = [np.histogram([end.at / NANO for end in run.ends if end.point is point], edges)[0] for point in answered]
    unanswered = np.histogram([end.at / NANO for end in run.ends if end.point is None], edges)[0]
    colours = [*mpl.colormaps["viridis"](np.linspace(0.95, 0.1, len(answered))), "C3"]
    names = [f"{_name(point)}: {point.accuracy:.1%}, {point.dynamic_nanojoules / 1e6:.3g} mJ" for point in answered]
    requests.stackplot(
        seconds, *counts, unanswered, labels=[*names, "refused or late"], colors=colours, step="post", lw=0
    )
    requests.set(xlabel="time (s)", ylabel="requests per second", ylim=(0, None))
    for axes in (power, requests):
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize="small", reverse=axes is requests
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Evaluate as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all cells there")
    parser.add_argument("--traces", default="all", help=f"all, or some of {','.join(traces.TRACES)}")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 0 on")
    parser.add_argument("--seconds", type=float, default=600.0, help="the length of a trace")
    parser.add_argument("--plot", type=Path, help="draw three minutes of the bursts, or else of the first trace, there")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    names = list(traces.TRACES) if options.traces == "all" else options.traces.split(",")
    if unknown := set(names) - set(traces.TRACES):
        parser.error(f"unknown trace {min(unknown)!r}; known are {', '.join(traces.TRACES)}")
    if options.plot:
        drawn = "bursts" if "bursts" in names else names[0]
        plot(Case("ladder", drawn, BUDGETS[-1], 0, min(options.seconds, 180.0)), options.plot)
    print(HEADER)
    result = evaluate(
        [
            Case(points, trace, budget, seed, options.seconds)
            for points in traces.POINTS
            for trace in names
            for budget in BUDGETS
            for seed in range(options.seeds)
        ],
        options.processes,
    )
    print()
    print(summary(result["cells"]))
    print()
    print(f"decision_seconds_p50 {result['decision_seconds_p50']:.1e}  windows_over {result['windows_over']}  "
          f"requests_total {result['requests_total']}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if result["windows_over"]:
        sys.exit(f"{result['windows_over']} windows are over their limits")


if __name__ == "__main__":
    main()
