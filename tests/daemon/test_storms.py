"""Policies that change ten times a second, and a wall clock that jumps, let no window over its limit.

`JOULED_SOAK_SECONDS` makes them longer; figures are recorded for `python -m tests.bench.faults`.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any

import grpc

from daemon.audit import EXACT, audit
from daemon.history import read_journal
from tests.daemon.serving import Daemon, running
from tests.soak.kills import press, stick_configuration, stick_policies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Record = Callable[[str, Any], None]

SECONDS = float(os.environ.get("JOULED_SOAK_SECONDS", "4"))
SWITCH_SECONDS = 0.1
JUMP_SECONDS = 0.5
WINDOW_SECONDS = 1.0
# What the policies allow in a window: nothing is one of them.
ANSWERS = (20, 0, 8, 14)
EXPECTED = {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}


@contextmanager
def _again_and_again(deed: Callable[[], object], seconds: float) -> Iterator[None]:
    """Do something each so many seconds until the end of the block; what it raises ends the block."""
    over, raised = threading.Event(), list[Exception]()

    def repeat() -> None:
        try:
            while not over.wait(seconds):
                deed()
        except Exception as error:  # noqa: BLE001 (raised again below)
            raised.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if raised:
        raise raised[0]


def _press(daemon: Daemon, image: NDArray[np.uint8]) -> int:
    """Load a daemon; each call has a status of those that such a load may have. Give how many were answered."""
    calls = press(daemon, image, SECONDS, random.Random(3), list)  # noqa: S311
    codes = [call.code() for call in calls]
    assert set(codes) <= EXPECTED, set(codes) - EXPECTED
    return codes.count(grpc.StatusCode.OK)


def _fullest_window(state: Path, answered: int, record: Record) -> float:
    """Audit what a daemon has left; give its fullest window, as a fraction of the limit."""
    history = read_journal(state / "journal.db")
    findings = audit(history)
    assert [violation for finding in findings for violation in finding.violations] == []
    # An answer may be late for its client and still be in the journal.
    assert (history.requests.statuses == "ok").sum() >= answered > 0
    worst = max(finding.figures.get("worst_window_fraction", 0.0) for finding in findings)
    record("answered", answered)
    record("worst_window_fraction", worst)
    return worst


def test_ten_switches_a_second(tmp_path: Path, image: NDArray[np.uint8], record_property: Record) -> None:
    """Among much, little and no budget; the rule for windows that straddle a switch judges."""
    config = stick_configuration(stick_policies(*ANSWERS, window_seconds=WINDOW_SECONDS), f"allow-{ANSWERS[0]}")
    names = cycle(f"allow-{each}" for each in ANSWERS[1:] + ANSWERS[:1])
    with running(config, state=tmp_path) as daemon:
        switches = list[str]()
        with _again_and_again(lambda: switches.append(daemon.set_policy(next(names))), SWITCH_SECONDS):
            answered = _press(daemon, image)
    assert _fullest_window(tmp_path, answered, record_property) <= 1 + EXACT
    record_property("switches", len(switches))
    assert set(switches) == {f"allow-{each}" for each in ANSWERS}


def test_wall_clock_jumps(tmp_path: Path, image: NDArray[np.uint8], record_property: Record) -> None:
    """By an hour, forward and back, and over a restart: what was spent is still spent."""
    config = stick_configuration(stick_policies(ANSWERS[0], window_seconds=WINDOW_SECONDS), f"allow-{ANSWERS[0]}")
    answered, jumps = 0, cycle([signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR2, signal.SIGUSR1])
    for _ in range(2):
        with (
            running(config, state=tmp_path, program="tests.daemon.jumping_clock") as daemon,
            _again_and_again(lambda: daemon.process.send_signal(next(jumps)), JUMP_SECONDS),
        ):
            answered += _press(daemon, image)
    assert _fullest_window(tmp_path, answered, record_property) <= 1 + EXACT
