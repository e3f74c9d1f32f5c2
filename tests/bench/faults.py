"""The faults that the daemon survives: a table of fault, figure and bar.

    python -m tests.bench.faults [--json FILE] [--e2e] [--only WORD]

Attacks on the port are run here in full; every other row is a test of the suite, which is run, and the figures are the
properties that it records. `--e2e` adds what needs real systemd in a container, as root. A row passes where its tests
pass and its figures are within their bars.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from models.data import digits
from tests.daemon.attacks import ATTACKS, MEBIBYTE, survive
from tests.daemon.serving import running
from tests.daemon.test_attacks import KEPT_BYTES, POLICY
from tests.soak.kills import stick_configuration

if TYPE_CHECKING:
    from collections.abc import Mapping

P99_SECONDS = 0.020
WORKERS = "tests/daemon/test_worker_faults.py"
SERVICE = "tests/e2e/test_service.py"


class Row(NamedTuple):
    """A fault: the tests that bring it about, and the bars of the figures that these record."""

    fault: str
    tests: tuple[str, ...]
    bars: Mapping[str, float] = MappingProxyType({})


ROWS = (
    Row("worker SIGKILL each second under 80 % load", (f"{WORKERS}::test_kill_each_second",), {"respawn_seconds": 1.0}),
    Row("worker SIGSTOP", (f"{WORKERS}::test_stopped",), {"noticed_seconds": 1.0}),
    Row("driver aborts, hangs or talks nonsense", (f"{WORKERS}::test_driver_misbehaves",)),
    Row("re-enumeration without flapping", ("tests/daemon/test_recovery.py::test_returns_to_the_bus",)),
    Row(
        "corrupt, cut, extra, linked artifact",
        ("tests/hal/test_artifact.py", "tests/daemon/test_serving_start.py::test_artifact_with_one_flipped_bit"),
    ),
    Row("full disk under the journal", ("tests/daemon/test_journal.py::test_full_disk",)),
    Row("kill -9 of the daemon under load", ("tests/soak/test_soak.py::test_kills",)),
    Row("clock steps and reboots", ("tests/daemon/test_audit.py::test_a_reboot", "tests/daemon/test_journal_seed.py")),
    Row(
        "meter wraps, is reset, fails, is unplugged", ("tests/energy/test_powercap.py", "tests/energy/test_identity.py")
    ),
    Row("SIGTERM at full load", ("tests/daemon/test_serving_operation.py::test_terminated_under_load",)),
    Row(
        "policies switch, budget to zero and back",
        (
            "tests/bench/test_simulation.py",
            "tests/daemon/test_serving_policies.py::test_zero_budget_refuses_everything",
        ),
    ),
    Row("invalid reload", ("tests/daemon/test_serving_power.py::test_refused_reload",)),
    Row("image bomb", ("tests/daemon/test_serving_refusals.py::test_image_bomb",)),
    Row("a server ends inside the process, or a socket is gone", ("tests/daemon/test_serving_reach.py",)),
    Row("200 seeds of the simulation", ("tests/soak/test_core.py",)),
)
IN_A_CONTAINER = (
    Row("kill -9 of the service", (f"{SERVICE}::test_killed_it_is_ready_again",), {"seconds": 1.5}),
    Row("hang of the event loop", (f"{SERVICE}::test_hanging_it_is_ready_again",), {"seconds": 8.0}),
    Row("SIGSTOP of the service", (f"{SERVICE}::test_stopped_in_its_tracks_it_is_ready_again",), {"seconds": 8.0}),
    Row(
        "socket of the service is removed",
        (f"{SERVICE}::test_without_its_socket_it_is_ready_again",),
        {"seconds": 8.0},
    ),
    Row("reload of the service", (f"{SERVICE}::test_a_reload_brings_new_policies",), {"seconds": 0.5}),
    Row("invalid reload of the service", (f"{SERVICE}::test_an_invalid_reload_is_refused",)),
    Row("stop of the service under load", (f"{SERVICE}::test_stopped_under_load_all_accepted_is_answered",)),
    Row("a configuration that cannot start", (f"{SERVICE}::test_a_daemon_that_cannot_start_is_given_up",)),
    Row("upgrade of the package", (f"{SERVICE}::test_an_upgrade_keeps_the_journal",)),
)


class Result(NamedTuple):
    """What a row came to: its figures, their bars, and what is wrong."""

    fault: str
    figures: dict[str, Any]
    bars: Mapping[str, float]
    wrong: list[str]


class _Reports:
    """What pytest tells: per test its outcome and the properties that it recorded."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.figures: dict[str, list[Any]] = defaultdict(list)
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a report."""
        if report.outcome != "passed":
            self.wrong.append(f"{report.nodeid}: {report.outcome}")
        elif report.when == "call":
            self.passed += 1
            for name, value in report.user_properties:
                self.figures[name].append(value)


def run(row: Row) -> Result:
    """Run the tests of a row."""
    reports = _Reports()
    pytest.main(["-q", "--no-header", "--no-summary", "--e2e", *row.tests], plugins=[reports])
    figures = {name: max(values) for name, values in reports.figures.items()}
    wrong = reports.wrong or ([] if reports.passed else ["no test ran"])
    return Result(row.fault, {"tests": reports.passed, **figures}, row.bars, wrong + _beyond(figures, row.bars))


def attacks(only: str) -> list[Result]:
    """Attack daemons in full, each a fresh one."""
    image, results = digits.load()[1].images[0], []
    for attack in ATTACKS:
        if only not in attack.name:
            continue
        with running(stick_configuration(POLICY, "roomy")) as daemon:
            survived = survive(daemon, image, attack, attack.size)
        figures = {
            "size": attack.size, "requests": len(survived.seconds), "failures": len(survived.failures),
            "p99_seconds": survived.p99_seconds, "quiet_p99_seconds": survived.quiet_p99_seconds,
            "kept_mebibytes": (survived.after_bytes - survived.before_bytes) / MEBIBYTE,
        }  # fmt: skip
        bars = {"failures": 0, "p99_seconds": P99_SECONDS, "kept_mebibytes": KEPT_BYTES / MEBIBYTE}
        results.append(Result(attack.name, figures, bars, _beyond(figures, bars)))
    return results


def _beyond(figures: Mapping[str, Any], bars: Mapping[str, float]) -> list[str]:
    missing = [f"{name} was not recorded" for name in bars if name not in figures]
    return missing + [f"{name} is beyond its bar" for name, bar in bars.items() if figures.get(name, bar) > bar]


def _line(result: Result) -> str:
    figures = ", ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in result.figures.items()
    )
    bars = ", ".join(f"{name} {bar:g}" for name, bar in result.bars.items()) or "its tests pass"
    return f"| {result.fault} | {figures} | {bars} | {'; '.join(result.wrong) or 'passed'} |"


def main() -> None:
    """Run what the command line asks for; the status is 1 where a row fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--e2e", action="store_true", help="also what needs systemd in a container")
    parser.add_argument("--only", default="", help="only faults whose name contains this")
    options = parser.parse_args()
    rows = [row for row in (*ROWS, *(IN_A_CONTAINER if options.e2e else ())) if options.only in row.fault]
    results = [*attacks(options.only), *map(run, rows)]
    print("| fault | figures | bars | result |\n|---|---|---|---|")
    for result in results:
        print(_line(result))
    if options.json:
        options.json.write_text(
            json.dumps([{**result._asdict(), "bars": dict(result.bars)} for result in results], indent=1) + "\n"
        )
    sys.exit(any(result.wrong for result in results))


if __name__ == "__main__":
    main()
