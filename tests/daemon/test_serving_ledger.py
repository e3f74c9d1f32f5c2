"""The ledger of a real daemon under load adds up to the nanojoule, whatever happens to requests, devices and meters."""

from __future__ import annotations

import math
import os
import random
import sqlite3
import threading
import time
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self

import grpc

from daemon.identity import check_identity
from protos import jouled_pb2 as pb
from tests.daemon.serving import CALL_SECONDS, configuration, digit_request, running
from tests.energy.trees import fails_with_eio, zone

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.serving import Daemon

# A minute, and ten of them under `make soak`.
LOAD_SECONDS = float(os.environ.get("JOULED_SOAK_SECONDS", "60"))
IN_FLIGHT = 24
POLICIES = """
[policy.accurate]
strategy = "accuracy"
budget_watts = 100.0
[policy.stick]
strategy = "pin"
pin = "ncs2-sim"
budget_watts = 50.0
[policy.processor]
strategy = "pin"
pin = "cpu"
budget_watts = 100.0
[policy.frugal]
strategy = "saver"
budget_watts = 40.0
[policy.nothing]
strategy = "saver"
budget_watts = 0.0
[meters]
sysfs = "{sysfs}"
"""
DEVICES = """
[device.loihi-sim]
driver = "loihi-sim"
[device.ncs2-sim]
driver = "ncs2-sim"
[device.cpu]
driver = "cpu"
time_limit_seconds = 0.05
"""
# A run that failed, a meter that did, and what either brings with it.
MAY_LOG = ("device lost", "device unavailable", "meter lost", "the meters counted more than the budget allows")
PACKAGE_WATTS = 8.0
WRAPS_AT = 262_143_328_850
FAILURE_SECONDS = 3.0


class Package:
    """A processor's RAPL counter: it wraps soon, fails for a while from `fails_at` on, and is reset then."""

    def __init__(self, sysfs: Path) -> None:
        self._folder = zone(sysfs, "rapl:0", "package-0", WRAPS_AT - 20_000_000, wraps_at=WRAPS_AT)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count)
        self.fails_at = math.inf

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _count(self) -> None:
        started, offset = time.monotonic(), WRAPS_AT - 20_000_000
        counter, fresh = self._folder / "energy_uj", self._folder / "fresh"
        while not self._ended.wait(0.02):
            now = time.monotonic()
            microjoules = round(PACKAGE_WATTS * (now - started) * 1e6)
            if self.fails_at < now < self.fails_at + FAILURE_SECONDS:
                if not counter.is_symlink():
                    fails_with_eio(counter)
                offset = -microjoules
                continue
            fresh.write_text(f"{(microjoules + offset) % WRAPS_AT}\n")
            fresh.replace(counter)


def _load(daemon: Daemon, image: NDArray[np.uint8], seconds: float) -> set[grpc.StatusCode]:
    """Send requests of all kinds under all policies; give how they ended."""
    chance, codes = random.Random(5), set[grpc.StatusCode]()  # noqa: S311
    names = ["accurate", "stick", "processor", "frugal", "accurate", "nothing"]
    calls: deque[Any] = deque()
    until, switch = time.monotonic() + seconds, 0.0
    while time.monotonic() < until:
        if time.monotonic() > switch:
            daemon.set_policy(chance.choice(names))
            switch = time.monotonic() + 1.0
        timeout = chance.choice([2.0, 2.0, 2.0, 0.003, 0.0008])
        calls.append(daemon.classifier.Classify.future(digit_request(image), timeout=timeout))
        if chance.random() < 0.05:
            chance.choice(calls).cancel()
        while len(calls) > IN_FLIGHT:
            codes.add(calls.popleft().code())
    return codes | {call.code() for call in calls}


def test_ledger_of_a_run_under_load(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    """Answers, refusals, failures, cancelled calls; a meter that wraps, fails and is reset, beside modelled devices."""
    sysfs, state = tmp_path / "sys", tmp_path / "state"
    with Package(sysfs) as package:
        config = configuration(POLICIES.format(sysfs=sysfs), start="accurate", devices=DEVICES)
        with running(config, may_log=MAY_LOG, state=state, program="tests.daemon.faulty") as daemon:
            # Only now: a daemon that starts while its counter fails has no such meter.
            package.fails_at = time.monotonic() + LOAD_SECONDS / 2
            codes = _load(daemon, image, LOAD_SECONDS)
            meters = {meter.name: meter for meter in daemon.status().meters}
            summary = daemon.control.EnergySummary(pb.EnergySummaryRequest(), timeout=CALL_SECONDS).rows
    assert codes >= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert list(meters["rapl:package-0"].devices) == ["cpu"]
    assert {row.provenance for row in summary if row.device == "cpu"} >= {"measured"}
    finding = check_identity(state / "journal.db")
    assert finding.violations == []
    assert finding.figures["not_final"] == 0
    assert min(finding.figures[f"{part}_nanojoules"] for part in ("dynamic", "static", "idle", "maintenance")) > 0
    with closing(sqlite3.connect(state / "journal.db")) as database:
        (failed,) = database.execute("SELECT COUNT(*) FROM attempts").fetchone()
        (gaps,) = database.execute("SELECT COUNT(*) FROM ledger JOIN meters ON id = meter "
                                   "WHERE name = 'rapl:package-0' AND provenance = 'modelled'").fetchone()  # fmt: skip
    assert failed > 0
    assert gaps > 0
