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
from daemon.ledger import row_id
from daemon.points import Point

# From a spiking network's few nanojoules to the joules of a large one on a processor, two buckets to the decade.
ENERGY_BOUNDS_JOULES = tuple(float(f"{digit}e{power}") for power in range(-8, 2) for digit in (1, 3))
DURATION_BOUNDS_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
LATEST = 12
FOUND_LIMIT = 1000
NOBODY = (None, None)


# The last request whose value fell into a bucket: its number, the value, when that was in seconds since 1970.
Exemplar = tuple[int, float, float]


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

    def observe(self, request_id: int, value: float, unix_seconds: float) -> None:
        """Count a value of a request."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.exemplars[bucket] = request_id, value, unix_seconds
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Add the values of another histogram of the same bounds; of two exemplars the later one stays."""
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
        pairs = zip(self.exemplars, other.exemplars, strict=True)
        self.exemplars = [max(filter(None, pair), key=_moment, default=None) for pair in pairs]


def _moment(exemplar: Exemplar) -> float:
    return exemplar[2]


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


class Cell:
    """What is counted of one operating point, or of the requests to a model for which nothing ran.

    `statuses` counts terminal statuses, `right` adds up the accuracy expected of its answers. `durations` are those of
    answers, `energies` their dynamic joules by provenance, final figures only.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self.statuses: Counter[str] = Counter()
        self.right = 0.0
        self.durations = Histogram(DURATION_BOUNDS_SECONDS)
        self.energies: dict[str, Histogram] = {}


class Tally:
    """Counts requests when they end, and their energy when it is final.

    `cells` are what is counted, by what requests were served by; `latest` are the last requests that are done with.
    """

    def __init__(self, unix: Clock) -> None:
        self.cells: dict[Served, Cell] = {}
        self.latest: deque[Ended] = deque(maxlen=LATEST)
        self._unix = unix
        # The same cells, found quickly: this is on the way of every answer.
        self._of: dict[Point | str, Cell] = {}
        # What has ended and whose figure is not final, by the number of its attempt in the books.
        self._awaited: dict[int, tuple[Cell, Record]] = {}

    def _find(self, key: Point | str) -> Cell:
        served = Served(key) if isinstance(key, str) else served_by(key)
        if len(self._of) >= FOUND_LIMIT:
            # Models that come and go leave points behind.
            self._of.clear()
        cell = self._of[key] = self.cells.setdefault(served, Cell(served))
        return cell

    def ended(self, record: Record) -> None:
        """Count a request, which no attempt runs for any more, by its terminal record."""
        point = record.point
        key = point or record.model
        cell = self._of.get(key) or self._find(key)
        cell.statuses[record.status] += 1
        if record.status == ANSWERED and point is not None:
            seconds = (record.ended - record.accepted) / NANO
            cell.right += point.accuracy
            cell.durations.observe(record.request_id, seconds, record.accepted_unix / NANO + seconds)
        if record.energy is not None:
            self._awaited[row_id(record.request_id)] = cell, record
        else:
            self.latest.append(_done(cell, record, None))

    def final(self, finals: list[Final]) -> None:
        """Count the energy of answered requests whose figures are final."""
        unix_seconds = self._unix() / NANO
        done: deque[tuple[Cell, Record, Final]] = deque(maxlen=LATEST)
        for final in finals:
            cell, record = self._awaited.pop(final.row_id, NOBODY)
            if cell is None or record is None:
                continue
            done.append((cell, record, final))
            if record.status == ANSWERED:
                histogram = cell.energies.get(final.provenance.value)
                if histogram is None:
                    histogram = cell.energies[final.provenance.value] = Histogram(ENERGY_BOUNDS_JOULES)
                histogram.observe(record.request_id, final.dynamic_nanojoules / NANO, unix_seconds)
        self.latest.extend(_done(*each) for each in done)


def _done(cell: Cell, record: Record, final: Final | None) -> Ended:
    seconds = (record.ended - record.accepted) / NANO
    moment = record.accepted_unix / NANO + seconds
    return Ended(record.request_id, record.status, cell.served, moment, seconds, final)
