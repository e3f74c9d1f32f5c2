"""What requests came to, counted as they end: the numbers behind the metrics and the page.

Everything happens on the event loop, readers included, so there is nothing to lock. What is counted is bounded: by the
operating points, the statuses and the provenances that there are, never by what clients send.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from typing import NamedTuple

from daemon.attribution import Final
from daemon.audit import ANSWERED
from daemon.clock import NANO, Clock
from daemon.journal import Record
from daemon.ledger import row_id, split_row_id
from daemon.points import Point

# From a spiking network's few nanojoules to the joules of a large one on a processor, two buckets to the decade.
ENERGY_BOUNDS_JOULES = tuple(float(f"{digit}e{power}") for power in range(-8, 2) for digit in (1, 3))
DURATION_BOUNDS_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
LATEST = 12


class Exemplar(NamedTuple):
    """The last request whose value fell into a bucket."""

    request_id: int
    value: float
    unix_seconds: float


class Histogram:
    """Counts of values up to each bound and beyond the last one, their sum, and an exemplar of each bucket."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.exemplars: list[Exemplar | None] = [None] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """Tell how many values there are."""
        return sum(self.counts)

    def observe(self, exemplar: Exemplar) -> None:
        """Count a value."""
        bucket = bisect_left(self.bounds, exemplar.value)
        self.counts[bucket] += 1
        self.exemplars[bucket] = exemplar
        self.sum += exemplar.value

    def add(self, other: Histogram) -> None:
        """Add the values of another histogram of the same bounds; of two exemplars the later one stays."""
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
        pairs = zip(self.exemplars, other.exemplars, strict=True)
        self.exemplars = [max(filter(None, pair), key=_moment, default=None) for pair in pairs]


def _moment(exemplar: Exemplar) -> float:
    return exemplar.unix_seconds


class Served(NamedTuple):
    """What a request was served by, as metrics and page tell them apart; the model alone where nothing ran."""

    model: str
    variant: str = ""
    device: str = ""
    steps: int = 0
    margin: int = 0


def served_by(point: Point) -> Served:
    """Name an operating point. One that comes back, with its model or its device, has the same name."""
    return Served(point.model, point.variant, point.device, point.steps, point.margin)


class Ended(NamedTuple):
    """A request that has ended: with its final figures, or without any if nothing ran for it."""

    request_id: int
    status: str
    served: Served
    unix_seconds: float
    seconds: float
    final: Final | None = None


class Tally:
    """Counts requests when they end, and their energy when it is final.

    `requests` counts terminal statuses. `expected_right` adds up the accuracy of the points that answered, `durations`
    are those of answered requests, `energies` their dynamic joules by provenance, final figures only. `latest` are the
    last requests that are done with.
    """

    def __init__(self, unix: Clock) -> None:
        self.requests: Counter[tuple[Served, str]] = Counter()
        self.expected_right: dict[Served, float] = {}
        self.durations: dict[Served, Histogram] = {}
        self.energies: dict[tuple[Served, str], Histogram] = {}
        self.latest: deque[Ended] = deque(maxlen=LATEST)
        self._unix = unix
        # What has ended and whose figure is not final, by the number of its attempt in the books.
        self._awaited: dict[int, Ended] = {}

    def ended(self, record: Record) -> None:
        """Count a request, which no attempt runs for any more, by its terminal record."""
        point, seconds = record.point, (record.ended - record.accepted) / NANO
        served = served_by(point) if point else Served(record.model)
        ended = Ended(record.request_id, record.status, served, record.accepted_unix / NANO + seconds, seconds)
        self.requests[served, record.status] += 1
        if record.status == ANSWERED and point is not None:
            self.expected_right[served] = self.expected_right.get(served, 0.0) + point.accuracy
            if served not in self.durations:
                self.durations[served] = Histogram(DURATION_BOUNDS_SECONDS)
            self.durations[served].observe(Exemplar(record.request_id, seconds, ended.unix_seconds))
        if record.energy is not None:
            self._awaited[row_id(record.request_id)] = ended
        else:
            self.latest.append(ended)

    def final(self, finals: list[Final]) -> None:
        """Count the energy of answered requests whose figures are final."""
        for final in finals:
            ended = self._awaited.pop(final.row_id, None)
            if ended is None:
                continue
            self.latest.append(ended._replace(final=final))
            if ended.status == ANSWERED:
                key = ended.served, final.provenance.value
                if key not in self.energies:
                    self.energies[key] = Histogram(ENERGY_BOUNDS_JOULES)
                joules = final.dynamic_nanojoules / NANO
                self.energies[key].observe(Exemplar(split_row_id(final.row_id)[0], joules, self._unix() / NANO))

    def answered(self, served: Served) -> int:
        """Tell how many requests were answered at an operating point."""
        return self.requests[served, ANSWERED]
