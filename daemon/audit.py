"""Check a history against what the daemon promises: a journal's, or that of a simulation.

Nothing here asks the daemon's own books: every promise is checked anew on what was recorded. Their numbers are those by
which the project knows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from daemon.errors import STATUS
from daemon.history import NO_SEAL, History
from daemon.journal_schema import LOST, MAINTENANCE, RUNNING
from daemon.windows import worst_bursts, worst_windows

ANSWERED = "ok"
CANCELLED = "cancelled"
TERMINAL = sorted({ANSWERED, CANCELLED, LOST, MAINTENANCE, *STATUS.values()})
# Sums in floating point may be off by this much, relative to a limit.
EXACT = 1e-9
# Of many violations of one kind, this many are named.
NAMED = 5


@dataclass(frozen=True)
class Finding:
    """What the check of one promise came to: figures with their units in the names, and a sentence per violation."""

    invariant: str
    promise: str
    figures: dict[str, int | float]
    violations: list[str]


def audit(history: History) -> list[Finding]:
    """Check all promises that requests, reigns and sessions can show."""
    return [terminal(history), in_time(history), within_budget(history), gapless(history)]


def terminal(history: History) -> Finding:
    """Check that every accepted request ended in exactly one terminal status.

    In the last session, while it goes on, requests may be under way. Requests are numbered in the order in which they
    are accepted; those that a killed daemon had accepted and not dispatched yet left no record, and no reply either.
    """
    requests = history.requests
    numbers, counts = np.unique(requests.numbers, return_counts=True)
    violations = named(f"request {number}: {count} records" for number, count in
                        zip(numbers[counts > 1], counts[counts > 1], strict=True))  # fmt: skip
    running = requests.statuses == RUNNING
    goes_on = bool(history.sessions) and not history.sessions[-1].ended
    under_way = running & (requests.sessions == history.sessions[-1].number) if goes_on else np.zeros_like(running)
    ended = np.isin(requests.statuses, TERMINAL)
    wrong = ~ended & ~under_way
    violations += named(
        f"request {number}: '{status}' is no terminal status"
        for number, status in zip(requests.numbers[wrong], requests.statuses[wrong], strict=True)
    )
    last = unrecorded = 0
    for session in history.sessions:
        own = np.unique(requests.numbers[requests.sessions == session.number])
        seal = history.seals.get(session.number, NO_SEAL)
        top = int(max([*own[-1:], seal.last_request, last]))
        missing = np.setdiff1d(np.arange(last + 1, top + 1), own)
        last = top
        if len(missing) < seal.requests:
            violations.append(f"session {session.number}: {seal.requests - len(missing)} sealed requests are there too")
        elif not session.ended:
            unrecorded += len(missing) - seal.requests
        elif not seal.requests:
            violations += named(f"request {number}: no record, and its session ended in order" for number in missing)
        elif len(missing) > seal.requests:
            lost = len(missing) - seal.requests
            violations.append(f"session {session.number}: {lost} requests are neither recorded nor sealed")
    return Finding(
        "I1",
        "every accepted request ends in exactly one terminal status",
        {
            "requests": len(requests.numbers), "ended": int(ended.sum()), "under_way": int(under_way.sum()),
            "lost_in_a_kill": int((requests.statuses == LOST).sum()), "undispatched_at_a_kill": unrecorded,
            "sealed": sum(seal.requests for seal in history.seals.values()),
        },
        violations,
    )  # fmt: skip


def in_time(history: History) -> Finding:
    """Check that no answer counts as success that came after its request's deadline."""
    requests = history.requests
    answered = requests.statuses == ANSWERED
    known = answered & (requests.deadlines > 0)
    late = known & (requests.ended > requests.deadlines)
    violations = named(
        f"request {number}: answered {seconds:.9f} s after its deadline"
        for number, seconds in zip(
            requests.numbers[late], (requests.ended - requests.deadlines)[late] / 1e9, strict=True
        )
    )
    violations += [
        f"session {number}: {seal.late} sealed answers came after their deadlines"
        for number, seal in history.seals.items()
        if seal.late
    ]
    left = (requests.deadlines - requests.ended)[known]
    return Finding(
        "I2",
        "no answer after its deadline counts as success",
        {
            "answers": int(answered.sum()), "without_a_deadline": int((answered & ~known).sum()),
            "least_seconds_left": float(left.min() / 1e9) if len(left) else 0.0,
        },
        violations,
    )  # fmt: skip


def within_budget(history: History) -> Finding:
    """Check all windows, by brute force and across restarts, and that nothing was dispatched under a limit of zero."""
    reigns, requests = list(history.reigns), history.requests
    windows = worst_windows(reigns, history.spending)
    bursts = worst_bursts(reigns, history.spending)
    violations = [
        f"policy {policy!r}: a {kind} holds {fraction:.7f} of its limit"
        for kind, fractions in (("window", windows), ("burst", bursts))
        for policy, fraction in fractions.items()
        if fraction > 1 + EXACT
    ]
    under_zero = requests.numbers[(requests.limits == 0) & (requests.nanojoules > 0)]
    violations += named(f"request {number}: dispatched under a limit of zero" for number in under_zero)
    return Finding(
        "I4",
        "no window over budget, and no dispatch under a limit of zero",
        {
            "reigns": len(reigns), "worst_window_fraction": max(windows.values(), default=0.0),
            "worst_burst_fraction": max(bursts.values(), default=0.0),
            "spent_nanojoules": int(history.spending.nanojoules.sum()),
        },
        violations,
    )  # fmt: skip


def gapless(history: History) -> Finding:
    """Check that no terminal record is missing: each session numbers its own from 1 on, in the order of the replies.

    So what a killed daemon left is all that it had acknowledged.
    """
    requests = history.requests
    violations: list[str] = []
    recorded = 0
    for session in history.sessions:
        own = np.sort(requests.sequences[(requests.sessions == session.number) & (requests.sequences > 0)])
        seal = history.seals.get(session.number, NO_SEAL)
        recorded += len(own) + seal.acknowledged
        missing = np.setdiff1d(np.arange(1, max([*own[-1:], seal.last_sequence]) + 1), own)
        if not seal.acknowledged:
            violations += named(f"session {session.number}: terminal record {number} is missing" for number in missing)
        elif len(missing) != seal.acknowledged:
            violations.append(
                f"session {session.number}: of the terminal records {len(missing)} are not there, "
                f"and {seal.acknowledged} are sealed"
            )
        twice = own[1:][np.diff(own) == 0]
        violations += named(f"session {session.number}: two terminal records are number {number}" for number in twice)
    return Finding(
        "I5",
        "what was acknowledged is recorded, without a gap",
        {
            "sessions": len(history.sessions), "ended_in_order": sum(session.ended for session in history.sessions),
            "acknowledged": recorded,
        },
        violations,
    )  # fmt: skip


def named(violations: Iterable[str]) -> list[str]:
    """Name the first violations of a kind, and count the others."""
    listed = list(violations)
    rest = len(listed) - NAMED
    return listed if rest <= 0 else [*listed[:NAMED], f"and {rest} more like this"]
