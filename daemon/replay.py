"""What recorded requests would have cost under a policy: the real router and budget, in simulated time.

The journal gives when each request arrived and by when it wanted its answer, and what it cost beside others of its
operating point: an image that took one and a half times the mean there takes that anywhere. The daemon gives the
operating points and devices; where the journal has seen a point, its mean of energy and time there stands for it, and a
point that it has not seen differs from the daemon's figure as much as those of the same variant and device that it has.
What requests asked for besides is not in the journal: none is taken to have had constraints of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from daemon.audit import ANSWERED
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.journal_reader import NoJournal, reading
from daemon.journal_schema import MAINTENANCE
from daemon.points import Point
from daemon.router import Constraints
from daemon.simulation import Policy, Request, Simulation
from daemon.tally import Served, served_by
from hal.device import Cost

# Of a request whose deadline was not recorded.
DEADLINE_NANOSECONDS = NANO
ROWS = f"""
SELECT accepted_unix, IIF(deadline > 0, deadline - accepted, {DEADLINE_NANOSECONDS}), images, status,
  COALESCE(model, ''), COALESCE(variant, ''), COALESCE(device, ''), COALESCE(steps, 0), COALESCE(margin, 0),
  COALESCE(accuracy, 0), dynamic_nanojoules, started, ended
FROM requests LEFT JOIN points ON points.id = point
WHERE accepted_unix >= ?1 AND accepted_unix < ?2 AND status != '{MAINTENANCE}' ORDER BY accepted_unix
"""
# Reigns by the wall clock: when each began, what was drawn, under which policy. A daemon that has ended draws nothing.
REIGNS = """
SELECT began + started_unix - started AS at, static_watts, policy FROM reigns
JOIN sessions ON sessions.id = session WHERE at < ?1
UNION ALL SELECT ended + started_unix - started AS at, 0.0, '' FROM sessions WHERE at < ?1 ORDER BY at
"""
# What powering up took, and attempts that failed.
BESIDES = f"""
SELECT COALESCE(SUM(nanojoules), 0) FROM (
SELECT dynamic_nanojoules AS nanojoules FROM requests JOIN sessions ON sessions.id = session
WHERE status = '{MAINTENANCE}' AND requests.ended + started_unix - sessions.started BETWEEN ?1 AND ?2
UNION ALL SELECT attempts.dynamic_nanojoules FROM attempts JOIN requests ON requests.id = request
WHERE accepted_unix >= ?1 AND accepted_unix < ?2)
"""


class Row(NamedTuple):
    """A recorded request: when it was accepted and how long it could wait, in nanoseconds; its part of the batch."""

    accepted_unix: int
    patience: int
    images: int
    status: str
    key: Served
    accuracy: float
    nanojoules: int
    seconds: float


@dataclass(frozen=True)
class Bill:
    """What a span of time came to: requests by status, joules, and the answers that are expected to be right."""

    statuses: dict[str, int]
    dynamic_joules: float
    static_joules: float
    expected_right: float

    @property
    def joules(self) -> float:
        """Give the dynamic and the static part together."""
        return self.dynamic_joules + self.static_joules


@dataclass(frozen=True)
class Recording:
    """A span of a journal. `runs` are from when to when a daemon ran, `policies` those that were in force."""

    begin_unix: int
    end_unix: int
    rows: Sequence[Row]
    runs: Sequence[tuple[int, int]]
    policies: Sequence[str]
    bill: Bill


def read(path: Path, since_unix: int, until_unix: int) -> Recording:
    """Read what was recorded between two moments. Raises `NoJournal`."""
    with reading(path) as database:
        found = database.execute(ROWS, (since_unix, until_unix)).fetchall()
        reigns = database.execute(REIGNS, (until_unix,)).fetchall()
        (besides,) = database.execute(BESIDES, (since_unix, until_unix)).fetchone()
    if not found:
        raise NoJournal(f"{path}: no request was recorded in this span")
    together = Counter((row[6], row[11], row[12]) for row in found)
    rows = [
        Row(
            accepted, patience, images, status, Served(*key), accuracy, nanojoules,
            (ended - started) / NANO / together[key[2], started, ended],
        )
        for accepted, patience, images, status, *key, accuracy, nanojoules, started, ended in found
    ]  # fmt: skip
    begin, end = rows[0].accepted_unix, rows[-1].accepted_unix
    drawn = [(at, watts) for at, watts, _ in reigns]
    in_force = [policy for at, _, policy in reigns if at <= begin][-1:]
    bill = Bill(
        dict(Counter(row.status for row in rows)),
        (sum(row.nanojoules for row in rows) + besides) / NANO,
        _drawn_joules(drawn, begin, end),
        sum(row.accuracy for row in rows if row.status == ANSWERED),
    )
    policies = sorted({*in_force, *(policy for at, _, policy in reigns if begin < at <= end and policy)})
    ends = [*(at for at, _, _ in reigns[1:]), end]
    runs = [(max(at, begin), min(until, end)) for (at, _, policy), until in zip(reigns, ends, strict=True) if policy]
    return Recording(begin, end, rows, [run for run in runs if run[0] < run[1]], policies, bill)


def _drawn_joules(drawn: Sequence[tuple[int, float]], begin: int, end: int) -> float:
    """Add up what was drawn between two moments."""
    bounds = [*drawn[1:], (end, 0.0)]
    return (
        sum(
            watts * max(min(until, end) - max(since, begin), 0)
            for (since, watts), (until, _) in zip(drawn, bounds, strict=True)
        )
        / NANO
    )


def replay(
    recording: Recording,
    name: str,
    policy: PolicyConfig,
    points: Sequence[Point],
    static_watts: Mapping[str, float],
    reopening: Mapping[str, Cost],
) -> Bill:
    """Let the recorded requests arrive again, under a policy. The devices begin powered on.

    Each model has its own points, but all share budget and devices: requests of several models cannot be replayed yet,
    and a recording of them raises `ValueError`.
    """
    models = {row.key.model for row in recording.rows if row.key.model}
    if len(models) > 1:
        raise ValueError(f"requests of several models: {', '.join(sorted(models))}")
    learned = _learned(recording.rows)
    begin = recording.begin_unix
    simulation = Simulation(
        _as_recorded([point for point in points if not models or point.model in models], learned),
        static_watts,
        Policy(name, policy, policy.limit),
        reopening={device: cost for device, cost in reopening.items() if device in policy.power_down},
    )
    simulation.play(
        (
            (row.accepted_unix - begin, _request(number, row, begin, learned))
            for number, row in enumerate(recording.rows, 1)
        ),
        until=recording.end_unix - begin,
    )
    history = simulation.history()
    drawn = [(reign.began, reign.static_watts) for reign in history.reigns]
    return Bill(
        dict(Counter(end.status for end in simulation.ends)),
        int(history.spending.nanojoules.sum()) / NANO,
        sum(_drawn_joules(drawn, began - begin, ended - begin) for began, ended in recording.runs),
        sum(end.point.accuracy for end in simulation.ends if end.point is not None),
    )


class _Means(NamedTuple):
    nanojoules: float
    seconds: float


def _learned(rows: Sequence[Row]) -> dict[Served, _Means]:
    """Give the mean energy and time of an image at each operating point that answered some."""
    answered: dict[Served, list[Row]] = defaultdict(list)
    for row in rows:
        if row.status == ANSWERED and row.nanojoules:
            answered[row.key].append(row)
    return {
        key: _Means(
            sum(each.nanojoules for each in some) / sum(each.images for each in some),
            sum(each.seconds for each in some) / sum(each.images for each in some),
        )
        for key, some in answered.items()
    }


def _as_recorded(points: Sequence[Point], learned: Mapping[Served, _Means]) -> list[Point]:
    """Let each point cost what was recorded; one that was not seen differs from its figure as those of its variant do.

    Images that end early at one margin end early at another: else a point would look dear only for not being seen.
    """
    shares: dict[tuple[str, str], list[float]] = defaultdict(list)
    for point in points:
        if means := learned.get(served_by(point)):
            shares[point.variant, point.device].append(means.nanojoules / point.dynamic_nanojoules)
    found = []
    for point in points:
        share = fmean(shares.get((point.variant, point.device), [1.0]))
        means = learned.get(served_by(point), _Means(share * point.dynamic_nanojoules, point.seconds))
        nanojoules = max(round(means.nanojoules), 1)
        made = replace(
            point, dynamic_nanojoules=nanojoules, upper_nanojoules=max(point.upper_nanojoules, nanojoules),
            seconds=means.seconds, service_seconds=means.seconds,
        )  # fmt: skip
        found.append(made)
    return found


def _request(number: int, row: Row, begin: int, learned: Mapping[Served, _Means]) -> Request:
    """Make a request of a recorded one; one that nothing answered costs the mean of any point."""
    means = learned.get(row.key)
    share = row.nanojoules / (means.nanojoules * row.images) if means and row.status == ANSWERED else 1.0
    wanted = Constraints(row.accepted_unix - begin + row.patience, row.images)
    return Request(number, wanted, 0.0, 0.0, share * row.images)
