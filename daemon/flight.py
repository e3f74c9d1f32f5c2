"""A request under way: what is known of it until it has ended, and the record and the answer that it comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from daemon.journal import Record
from daemon.ledger import Energy

if TYPE_CHECKING:
    import asyncio

    import numpy as np
    from numpy.typing import NDArray

    from daemon.points import Model, Point
    from daemon.tasks import Job


class Answer(NamedTuple):
    """What a request came to. `scores` is (N, classes)."""

    request_id: int
    scores: NDArray[np.float32]
    steps: int
    point: Point
    policy: str
    energy: Energy
    device_seconds: float
    queue_seconds: float
    journaled: bool


@dataclass(eq=False)
class Flight:
    """A request under way: what its record needs, and the attempt that runs now.

    `ended_as` is its terminal status once that is decided, `sequence` the number of the record that says so; an attempt
    that lands later only adds what it spent. `turn` is set while it waits in line for the budget.
    `landed` is the last attempt that ended on its device, `energy` what it spent if it succeeded and `device_seconds`
    how long the device was busy with it. `failures` are the attempts that failed, which may have spent
    `failed_nanojoules`.
    """

    request_id: int
    model: Model
    accepted_unix: int
    accepted: int
    images: int
    deadline: int
    priority: int
    landing: asyncio.Future[Answer]
    policy: str = ""
    reign: int = 0
    job: Job | None = None
    landed: Job | None = None
    energy: Energy | None = None
    device_seconds: float = 0.0
    turn: asyncio.Future[None] | None = None
    reserved_nanojoules: int = 0
    failures: int = 0
    failed_nanojoules: int = 0
    ended_as: str = ""
    sequence: int = 0


def record(flight: Flight, now: int) -> Record:
    """Make a request's terminal record. While an attempt still runs, its reservation stands for its energy."""
    energy, ran = flight.energy, flight.job or flight.landed
    ended = ran.ended if energy and ran else now
    if flight.job is not None:
        held, point = flight.job.reservation.nanojoules, flight.job.point
        energy = Energy(held, 0, held, point.provenance, point.boundary, "shared")
    return Record(
        flight.request_id, flight.reign, flight.ended_as, flight.images, flight.accepted_unix, flight.accepted,
        ended, ran.point if ran else None, ran.started if ran else 0,
        flight.reserved_nanojoules, energy, flight.device_seconds, flight.deadline, flight.sequence,
        flight.model.name, flight.model.version, flight.policy,
        ran.batch if ran else 0, ran.first if ran else 0, flight.failed_nanojoules,
    )  # fmt: skip
