"""The long runs of `make soak`, short."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import grpc

from daemon.audit import EXACT, audit
from daemon.history import read_journal
from models.data import digits
from tests.daemon.serving import running
from tests.soak.cut import check_cut
from tests.soak.kills import kill_again_and_again, press, stick_configuration, stick_policies

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KILLS = 60 if os.environ.get("JOULED_SOAK_SECONDS") else 10


def test_kills(tmp_path: Path, record_property: Callable[[str, Any], None]) -> None:
    """Kills under load lose no acknowledged record, and no window over all lives is over its limit."""
    *_, tally = kill_again_and_again(tmp_path, KILLS, seed=1)
    record_property("kills", KILLS)
    record_property("answers", len(tally.replies))
    record_property("acknowledged_and_lost", len(tally.replies - tally.recorded))
    record_property("worst_window_fraction", tally.figure("worst_window_fraction"))
    assert len(tally.replies) > KILLS
    assert (tally.figure("sessions"), tally.figure("ended_in_order")) == (KILLS + 1, 1)
    assert 0.9 < tally.figure("worst_window_fraction") <= 1 + EXACT


def test_cut_to_a_third(tmp_path: Path) -> None:
    """A real daemon at full load keeps to a third of its budget as soon as it dispatches again, within one window."""
    window_seconds = 2.0
    config = stick_configuration(stick_policies(90, 30, window_seconds=window_seconds), "allow-90")
    with running(config, state=tmp_path) as daemon:
        image, chance = digits.load()[1].images[0], random.Random(2)  # noqa: S311
        calls = press(daemon, image, 1.5 * window_seconds, chance, list)
        daemon.set_policy("allow-30")
        calls += press(daemon, image, 2.5 * window_seconds, chance, list)
        answered = sum(call.code() is grpc.StatusCode.OK for call in calls)
    history = read_journal(tmp_path / "journal.db")
    assert [violation for finding in audit(history) for violation in finding.violations] == []
    assert (history.requests.statuses == "ok").sum() >= answered > 90
    check_cut(history, history.reigns[1].began)
