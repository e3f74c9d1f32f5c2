"""Kill the daemon again and again under load, and audit the joined journal of all its lives.

    python -m tests.soak.kills [--kills N] [--seed N]

After each restart every answer that a client got is in the journal, and the audit is clean: no record is missing, and
no window over all lives, found by brute force, is over its limit. A window is longer than a life, so a daemon that
began with a fresh budget would be caught.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import tempfile
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from daemon.audit import Finding, audit
from daemon.history import read_journal
from hal.energy import ncs2
from models.data import digits
from tests.daemon.serving import Daemon, configuration, digit_request, running, stick_joules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

WINDOW_SECONDS = 4.0
IN_FLIGHT = 50
# A switch of the policy for so many requests.
REQUESTS_PER_SWITCH = 150
# What the policies allow in a window.
ANSWERS = (60, 20, 120)
LIVES = (0.2, 1.2)
DEADLINES = (0.05, 0.5, 5.0)
CLEAN_LOG = ["requests of a daemon that died are charged in full", "figures of a daemon that died stay provisional"]


def stick_policies(*answers: int, window_seconds: float = WINDOW_SECONDS) -> str:
    """Configure policies that allow so many answers of the simulated stick in a window, named by that number."""
    return "\n".join(
        f'[policy.allow-{each}]\nstrategy = "accuracy"\nwindow_seconds = {window_seconds}\n'
        f"budget_watts = {ncs2.IDLE_WATTS + (each + 0.5) * stick_joules() / window_seconds!r}"
        for each in answers
    )


def stick_configuration(policies: str, start: str) -> str:
    """Configure a daemon with nothing but a simulated stick, whose answers all cost the same."""
    return configuration(policies, start=start, devices='[device.stick]\ndriver = "ncs2-sim"\n')


def press(
    daemon: Daemon, image: NDArray[np.uint8], seconds: float, chance: random.Random, now_and_then: Callable[[], object]
) -> list[Any]:
    """Keep many requests under way for some time, of various deadlines; give all calls, as grpc has them."""
    request, slots = digit_request(image), threading.Semaphore(IN_FLIGHT)
    calls: list[Any] = []
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and slots.acquire(timeout=left):
        call = daemon.classifier.Classify.future(request, timeout=chance.choice(DEADLINES))
        call.add_done_callback(lambda _: slots.release())
        calls.append(call)
        if len(calls) % REQUESTS_PER_SWITCH == 0:
            now_and_then()
    return calls


@dataclass
class Tally:
    """What came of a loop of kills."""

    replies: set[int] = field(default_factory=set)
    recorded: set[int] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def figure(self, name: str) -> float:
        """Give a figure of the last audit."""
        return next(finding.figures[name] for finding in self.findings if name in finding.figures)


def kill_again_and_again(state: Path, kills: int, seed: int) -> Iterator[Tally]:
    """Let a daemon live and be killed so many times on one journal; give what is known after each restart.

    Raises `AssertionError` where an acknowledged record is missing or the audit is not clean.
    """
    chance, image = random.Random(seed), digits.load()[1].images[0]  # noqa: S311
    config = stick_configuration(stick_policies(*ANSWERS), f"allow-{ANSWERS[0]}")
    tally = Tally()
    for life in range(kills + 1):
        with running(config, state=state, may_log=CLEAN_LOG) as daemon:
            if life:
                _check(state, tally)
                yield tally
            if life < kills:
                calls = press(daemon, image, chance.uniform(*LIVES), chance, partial(_switch, daemon, chance))
                daemon.kill()
                tally.replies |= {call.result().request_id for call in calls if call.code() is grpc.StatusCode.OK}
    _check(state, tally)
    yield tally


def _switch(daemon: Daemon, chance: random.Random) -> None:
    daemon.set_policy(f"allow-{chance.choice(ANSWERS)}")


def _check(state: Path, tally: Tally) -> None:
    history = read_journal(state / "journal.db")
    tally.recorded = set(history.requests.numbers[history.requests.statuses == "ok"].tolist())
    lost = tally.replies - tally.recorded
    assert not lost, f"acknowledged and not recorded: {sorted(lost)}"
    tally.findings = audit(history)
    broken = [violation for finding in tally.findings for violation in finding.violations]
    assert not broken, "; ".join(broken)


def main() -> None:
    """Kill as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jouled-kills-") as folder, contextlib.suppress(KeyboardInterrupt):
        for number, tally in enumerate(kill_again_and_again(Path(folder), options.kills, options.seed), 1):
            print(
                f"restart {number}: {tally.figure('requests'):.0f} requests, {len(tally.replies)} answers recorded, "
                f"{tally.figure('lost_in_a_kill'):.0f} charged in full, "
                f"fullest window {tally.figure('worst_window_fraction'):.7f} of its limit",
                flush=True,
            )


if __name__ == "__main__":
    main()
