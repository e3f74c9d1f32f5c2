"""What recorded requests would have cost, in simulated time."""

from __future__ import annotations

import dataclasses
import sqlite3
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.journal import Journal, Record
from daemon.journal_reader import NoJournal
from daemon.ledger import Energy
from daemon.replay import Bill, Recording, read, replay
from daemon.router import Constraints
from daemon.simulation import Policy, Request, Simulation
from hal.device import Kind
from tests.daemon.builders import ManualClock, make_point

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.points import Point

HOUR = 3600 * NANO
FROM = 1000 * HOUR
STATIC = {"chip": 0.1, "stick": 0.5}
ACCURATE = PolicyConfig("accuracy", 5.0)
FRUGAL = PolicyConfig("saver", 1.0)


def points() -> list[Point]:
    """Make a cheap point and a dear one that is more accurate."""
    return [
        make_point(accuracy=0.9, dynamic_nanojoules=1_000_000, upper_nanojoules=5_000_000, seconds=0.001),
        make_point(
            variant="dnn", kind=Kind.DNN, device="stick", steps=1, accuracy=0.99, dynamic_nanojoules=20_000_000,
            upper_nanojoules=60_000_000, seconds=0.004,
        ),
    ]  # fmt: skip


def record(folder: Path, policy: PolicyConfig, requests: int = 8000) -> Bill:
    """Write the journal of an hour that the router itself has lived through, with energies that vary; give its bill.

    The energies are not those of the replay: each image has its own, as in life.
    """
    rng = np.random.default_rng(7)
    made = points()
    simulation = Simulation(made, STATIC, Policy("recorded", policy, policy.limit))
    simulation.play(
        (moment, Request(number, Constraints(moment + NANO), 0.0, 0.0, share))
        for number, (moment, share) in enumerate(
            zip(sorted(rng.integers(0, HOUR, requests).tolist()), rng.lognormal(-0.08, 0.4, requests).tolist(),
                strict=True), 1
        )
    )  # fmt: skip
    clock = ManualClock(0)
    journal = Journal(folder, "boot", clock, lambda: FROM)
    for point in made:
        journal.register(point)
    names = {(point.variant, point.device): point for point in made}
    reign = journal.reign("recorded", policy.limit, sum(STATIC.values()), 0)
    for end in simulation.ends:
        asked = end.request.wanted.deadline - NANO
        ran = names[end.point.variant, end.point.device] if end.point else None
        energy = Energy(end.request.spent_nanojoules, 0, 0, "simulated", "accelerator", "exclusive", "final")
        started = end.at - round(ran.seconds * NANO) if ran else 0
        journal.finished([
            Record(end.request.number, reign, end.status, 1, FROM + asked, asked, end.at, ran, started, 0,
                   energy if ran else None, 0.0, end.request.wanted.deadline)
        ])  # fmt: skip
    clock.advance(HOUR)
    journal.close()
    return read(folder / "journal.db", FROM, FROM + HOUR).bill


@pytest.mark.parametrize("policy", [ACCURATE, FRUGAL, PolicyConfig("balanced", 0.65)], ids=lambda each: each.strategy)
def test_an_hour_under_its_own_policy_costs_what_it_cost(tmp_path: Path, policy: PolicyConfig) -> None:
    """The replay comes within 2 % of the recorded energy, dynamic and together, and answers as many."""
    recorded = record(tmp_path, policy)
    recording = read(tmp_path / "journal.db", FROM, FROM + HOUR)
    replayed = replay(recording, "again", policy, points(), STATIC, {})
    assert recording.policies == ["recorded"]
    assert replayed.dynamic_joules == pytest.approx(recorded.dynamic_joules, rel=0.02)
    assert replayed.joules == pytest.approx(recorded.joules, rel=0.02)
    assert replayed.statuses.get("ok", 0) == pytest.approx(recorded.statuses["ok"], rel=0.01)
    assert replayed.expected_right == pytest.approx(recorded.expected_right, rel=0.01)


def test_another_policy_costs_what_it_says(tmp_path: Path) -> None:
    """The frugal policy would have taken the cheap point for all: a twentieth of the dynamic energy."""
    recorded = record(tmp_path, ACCURATE, requests=5000)
    recording = read(tmp_path / "journal.db", FROM, FROM + HOUR)
    replayed = replay(recording, "frugal", FRUGAL, points(), STATIC, {})
    assert replayed.statuses == {"ok": 5000}
    assert replayed.dynamic_joules == pytest.approx(recorded.dynamic_joules / 20, rel=0.02)
    assert replayed.expected_right == pytest.approx(0.9 * 5000)
    assert replayed.static_joules == pytest.approx(recorded.static_joules)


def test_a_point_that_was_not_seen_is_priced_as_its_variant_is(tmp_path: Path) -> None:
    """Recorded images took half of what the daemon says of their point: so they would at the others beside it."""
    recorded = record(tmp_path, FRUGAL)
    recording = read(tmp_path / "journal.db", FROM, FROM + HOUR)
    seen = dataclasses.replace(points()[0], dynamic_nanojoules=2_000_000)
    cheaper = dataclasses.replace(seen, steps=2, dynamic_nanojoules=1_600_000)
    replayed = replay(recording, "again", FRUGAL, [seen, cheaper], STATIC, {})
    assert replayed.statuses == recorded.statuses
    assert replayed.dynamic_joules == pytest.approx(0.8 * recorded.dynamic_joules, rel=0.02)


def test_nothing_is_drawn_while_no_daemon_ran(tmp_path: Path) -> None:
    """Static power is counted from a session's first reign to its end, recorded and replayed alike."""
    for session, begin in enumerate((0, HOUR // 2)):
        clock = ManualClock(begin)
        journal = Journal(tmp_path, "boot", clock, lambda at=FROM + begin: at)  # type: ignore[misc]
        reign = journal.reign("tight", FRUGAL.limit, 0.6, begin)
        for number in range(2):
            at = begin + number * (HOUR // 4 - 1)
            journal.finished([Record(2 * session + number + 1, reign, "over_budget", 1, FROM + at, at, at)])
        clock.advance(HOUR // 4)
        journal.close()
    recording = read(tmp_path / "journal.db", FROM, FROM + 2 * HOUR)
    replayed = replay(recording, "frugal", FRUGAL, points(), STATIC, {})
    assert recording.bill.static_joules == pytest.approx(0.6 * 1800, rel=1e-6)
    assert replayed.static_joules == pytest.approx(recording.bill.static_joules, rel=1e-6)


def test_what_came_after_the_last_request_does_not_count(tmp_path: Path) -> None:
    """A policy that came into force later is not among those recorded, and the time until then costs nothing."""
    clock = ManualClock(0)
    journal = Journal(tmp_path, "boot", clock, lambda: FROM)
    reign = journal.reign("tight", FRUGAL.limit, 0.6, 0)
    for number, at in enumerate((0, HOUR // 4), 1):
        journal.finished([Record(number, reign, "over_budget", 1, FROM + at, at, at)])
    journal.reign("loose", ACCURATE.limit, 0.6, HOUR // 2)
    clock.advance(HOUR)
    journal.close()
    recording = read(tmp_path / "journal.db", FROM, FROM + 2 * HOUR)
    replayed = replay(recording, "frugal", FRUGAL, points(), STATIC, {})
    assert recording.policies == ["tight"]
    assert recording.bill.static_joules == pytest.approx(0.6 * 900)
    assert replayed.static_joules == pytest.approx(0.6 * 900)


def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    """An empty span, another format, and requests of several models are refused."""
    record(tmp_path, FRUGAL, requests=10)
    store = tmp_path / "journal.db"
    with pytest.raises(NoJournal, match="no request was recorded in this span"):
        read(store, 0, 1)
    with pytest.raises(NoJournal, match="no such file"):
        read(tmp_path / "other.db", 0, 1)
    recording = read(store, FROM, FROM + HOUR)
    other = recording.rows[0]._replace(key=recording.rows[0].key._replace(model="other"))
    changes: dict[str, Any] = {**vars(recording), "rows": [*recording.rows, other]}
    with pytest.raises(ValueError, match="several models: other, toy"):
        replay(Recording(**changes), "frugal", FRUGAL, points(), STATIC, {})
    database = sqlite3.connect(store)
    database.execute("PRAGMA user_version = 3")
    database.close()
    with pytest.raises(NoJournal, match="its format is 3"):
        read(store, FROM, FROM + HOUR)
