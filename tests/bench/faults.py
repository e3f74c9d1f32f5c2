"""The faults that the daemon survives: a table of fault, figure and bar.

    python -m tests.bench.faults [--json FILE] [--e2e] [--only WORD]

Attacks on the port and overload are run here in full; every other row is a test of the suite, which is run, and the
figures are the properties that it records. `--e2e` adds what needs real systemd in a container, as root. A row passes
where its tests pass and its figures are within their bars. With `JOULED_SOAK_SECONDS=60` all alterations, 60 kills and
a minute of each storm are run, else what the suite does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from daemon.audit import EXACT
from models.data import digits
from tests.bench import overload
from tests.daemon.attacks import ATTACKS, MEBIBYTE, Attack, survive
from tests.daemon.serving import running
from tests.daemon.test_attacks import KEPT_BYTES, POLICY
from tests.soak.kills import stick_configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

P99_SECONDS = 0.020
# What an audit allows a window beyond its limit, for rounding.
WINDOW = 1 + EXACT
NONE: Mapping[str, float] = MappingProxyType({})
OVERLOAD = "overload, capacity set by the "
WITHIN = MappingProxyType({"failures": 0, "p99_seconds": P99_SECONDS})
ANSWERED = MappingProxyType({"without_a_status": 0, "refused": 0})
WORKERS = "tests/daemon/test_worker_faults.py"
DISK = "tests/daemon/test_disk_faults.py"
STORMS = "tests/daemon/test_storms.py"
MUTATIONS = "tests/daemon/test_mutations.py"
SERVICE = "tests/e2e/test_service.py"
# Requests per factor of overload take so long.
OVERLOAD_SECONDS = 5.0


class Row(NamedTuple):
    """A fault: the tests that bring it about, and the most that the figures that these record may be."""

    fault: str
    tests: tuple[str, ...]
    bars: Mapping[str, float] = NONE


ROWS = (
    Row(
        "worker SIGKILL each second under 80 % load",
        (f"{WORKERS}::test_kill_each_second",),
        {"respawn_seconds": 1.0, **ANSWERED},
    ),
    Row("worker SIGSTOP", (f"{WORKERS}::test_stopped",), {"noticed_seconds": 1.0, **ANSWERED}),
    Row("driver aborts, hangs or talks nonsense", (f"{WORKERS}::test_driver_misbehaves",), ANSWERED),
    Row(
        "re-enumeration without flapping",
        ("tests/daemon/test_recovery.py::test_returns_to_the_bus",),
        {"times_lost": 1},
    ),
    Row(
        "corrupt, cut, extra, linked artifact",
        ("tests/hal/test_artifact.py", "tests/daemon/test_serving_start.py::test_artifact_with_one_flipped_bit"),
    ),
    Row("artifacts altered at random", (f"{MUTATIONS}::test_altered_artifacts",), {"accepted": 0}),
    Row("requests altered at random", (f"{MUTATIONS}::test_altered_requests",), {"internal_errors": 0}),
    Row(
        "full disk under the journal",
        ("tests/daemon/test_journal.py::test_full_disk", f"{DISK}::test_full_disk"),
        WITHIN,
    ),
    Row("slow fsync under the journal", (f"{DISK}::test_slow_disk",), WITHIN),
    Row(
        "kill -9 of the daemon under load",
        ("tests/soak/test_soak.py::test_kills",),
        {"acknowledged_and_lost": 0, "worst_window_fraction": WINDOW},
    ),
    Row("wall clock jumps by hours", (f"{STORMS}::test_wall_clock_jumps",), {"worst_window_fraction": WINDOW}),
    Row("reboots", ("tests/daemon/test_audit.py::test_a_reboot", "tests/daemon/test_journal_seed.py")),
    Row(
        "meter wraps, is reset, fails, is unplugged", ("tests/energy/test_powercap.py", "tests/energy/test_identity.py")
    ),
    Row(
        "SIGTERM at full load",
        ("tests/daemon/test_serving_operation.py::test_terminated_under_load",),
        {"unanswered": 0, "exit_status": 0},
    ),
    Row(
        "policies switch ten times a second, to no budget and back",
        (f"{STORMS}::test_ten_switches_a_second",),
        {"worst_window_fraction": WINDOW},
    ),
    Row("policies switch in simulated time", ("tests/bench/test_simulation.py",)),
    Row("invalid reload", ("tests/daemon/test_serving_power.py::test_refused_reload",)),
    Row(
        "a server ends inside the process, or a socket is gone",
        ("tests/daemon/test_serving_reach.py",),
        {"ended_seconds": 5.0},
    ),
    Row("idle, vanished and too many peers", ("tests/daemon/test_serving_patience.py",)),
    Row("seeds of the simulation", ("tests/soak/test_core.py",)),
)
IN_A_CONTAINER = (
    Row("kill -9 of the service", (f"{SERVICE}::test_killed_it_is_ready_again",), {"seconds": 1.5}),
    Row("hang of the event loop", (f"{SERVICE}::test_hanging_it_is_ready_again",), {"seconds": 8.0}),
    Row("SIGSTOP of the service", (f"{SERVICE}::test_stopped_in_its_tracks_it_is_ready_again",), {"seconds": 8.0}),
    Row(
        "socket of the service is removed", (f"{SERVICE}::test_without_its_socket_it_is_ready_again",), {"seconds": 8.0}
    ),
    Row("reload of the service", (f"{SERVICE}::test_a_reload_brings_new_policies",), {"seconds": 0.5}),
    Row("invalid reload of the service", (f"{SERVICE}::test_an_invalid_reload_is_refused",)),
    Row("stop of the service under load", (f"{SERVICE}::test_stopped_under_load_all_accepted_is_answered",)),
    Row("a configuration that cannot start", (f"{SERVICE}::test_a_daemon_that_cannot_start_is_given_up",)),
    Row("upgrade of the package", (f"{SERVICE}::test_an_upgrade_keeps_the_journal",)),
    Row("clients of the network without a right", ("tests/e2e/test_network.py",), {"answered": 0}),
)


class Result(NamedTuple):
    """What a row came to: its figures, the most and the least that they may be, and what is wrong."""

    fault: str
    figures: dict[str, Any]
    bars: Mapping[str, float]
    least: Mapping[str, float]
    wrong: list[str]


class _Reports:
    """What pytest tells of each test."""

    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a report."""
        self.reports.append(report)


def run(rows: Sequence[Row]) -> list[Result]:
    """Run the tests of rows in one session: those that need a container share it."""
    told = _Reports()
    tests = dict.fromkeys(test for row in rows for test in row.tests)
    pytest.main(["-q", "--no-header", "--no-summary", "--e2e", *tests], plugins=[told])
    return [_result(row, [report for report in told.reports if _is_of(report.nodeid, row)]) for row in rows]


def _is_of(test: str, row: Row) -> bool:
    return any(test == each or test.startswith((f"{each}::", f"{each}[")) for each in row.tests)


def _result(row: Row, reports: Sequence[pytest.TestReport]) -> Result:
    """Gather a row's figures. What its tests count adds up; of other figures the largest is told."""
    recorded: dict[str, list[Any]] = defaultdict(list)
    called = [report for report in reports if report.when == "call"]
    for name, value in (each for report in called for each in report.user_properties):
        recorded[name].append(value)
    figures = {
        name: sum(values) if all(isinstance(value, int) for value in values) else max(values)
        for name, values in recorded.items()
    }
    wrong = [f"{report.nodeid}: {report.outcome}" for report in reports if report.outcome != "passed"]
    return _judged(
        row.fault, {"tests": len(called), **figures}, row.bars, wrong=wrong if called else [*wrong, "no test ran"]
    )


def attack_in_full(attack: Attack) -> Result:
    """Attack a fresh daemon."""
    image = digits.load()[1].images[0]
    with running(stick_configuration(POLICY, "roomy")) as daemon:
        survived = survive(daemon, image, attack, attack.size)
    bars = {"failures": 0, "kept_mebibytes": KEPT_BYTES / MEBIBYTE}
    if not attack.asks_for_work:
        bars["p99_seconds"] = P99_SECONDS
    return _judged(attack.name, {"size": attack.size, **survived.figures}, bars)


def overloaded(limit: str) -> Result:
    """Ask for one to ten times of what a program, or the budget, lets through."""
    figures = overload.bars(overload.measure(limit, OVERLOAD_SECONDS))
    return _judged(f"{OVERLOAD}{limit}", figures, {"refusals_p99_seconds": 0.01}, {"goodput_at_10": 0.9})


def _whatever_comes(fault: str, bring_about: Callable[[], Result]) -> Result:
    """Bring a fault about; a daemon that does not survive it is what is wrong, and the others are tried as well."""
    try:
        return bring_about()
    except Exception as error:  # noqa: BLE001 (whatever it is, the row says so)
        return Result(fault, {}, NONE, NONE, [" ".join(str(error).split())[:200]])


def _judged(
    fault: str, figures: dict[str, Any], bars: Mapping[str, float], least: Mapping[str, float] = NONE,
    wrong: Sequence[str] = (),
) -> Result:  # fmt: skip
    missing = [f"{name} was not recorded" for name in (*bars, *least) if name not in figures]
    beyond = [f"{name} is beyond its bar" for name, bar in bars.items() if figures.get(name, bar) > bar]
    below = [f"{name} is below its bar" for name, bar in least.items() if figures.get(name, bar) < bar]
    return Result(fault, figures, bars, least, [*wrong, *missing, *beyond, *below])


IN_FULL: dict[str, Callable[[], Result]] = {
    **{attack.name: partial(attack_in_full, attack) for attack in ATTACKS},
    **{f"{OVERLOAD}{limit}": partial(overloaded, limit) for limit in overload.CAPACITIES},
}


def _line(result: Result) -> str:
    figures = ", ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in result.figures.items()
    )
    bars = [f"{name} at most {bar:.5g}" for name, bar in result.bars.items()]
    bars += [f"{name} at least {bar:g}" for name, bar in result.least.items()]
    verdict = "; ".join(result.wrong) or "passed"
    return f"| {result.fault} | {figures} | {', '.join(bars) or 'its tests pass'} | {verdict} |"


def main() -> None:
    """Run what the command line asks for; the status is 1 where a row fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--e2e", action="store_true", help="also what needs systemd in a container")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    options = parser.parse_args()
    results = [_whatever_comes(fault, bring_about) for fault, bring_about in IN_FULL.items() if options.only in fault]
    rows = [row for row in (*ROWS, *(IN_A_CONTAINER if options.e2e else ())) if options.only in row.fault]
    results += run(rows) if rows else []
    print("| fault | figures | bars | result |\n|---|---|---|---|", *map(_line, results), sep="\n")
    if options.json:
        options.json.write_text(
            json.dumps(
                [{**each._asdict(), "bars": dict(each.bars), "least": dict(each.least)} for each in results], indent=1
            )
            + "\n"
        )
    sys.exit(any(result.wrong for result in results))


if __name__ == "__main__":
    main()
