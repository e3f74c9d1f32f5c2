"""Who gets the joules of an epoch: whole nanojoules that add up to what the meter counted, none more, none less.

For a meter and any closed range of epochs

    rows (dynamic + static) + idle + background + unattributed = metered

where the rows are the requests, answered, failed or aborted, and maintenance such as loading and calibrating.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, hypot, sqrt
from typing import NamedTuple

from hal.device import Provenance, weakest
from hal.energy.epochs import Epoch, Gap
from hal.energy.meter import NANO

# A measured figure is a request's own only where it spans as many updates of the sensor: its first and its last one
# are shared with what ran before and after.
UPDATES_OF_ITS_OWN = 10


class Row(NamedTuple):
    """What occupies a device from `started` to `ended`, None while it runs: a request, or maintenance.

    `dynamic_nanojoules` is what the model says that it costs, with `uncertainty_nanojoules`, over `model_nanoseconds`.
    `occupancy` is its part of a batch, in images.
    """

    row_id: int
    started: int
    ended: int | None
    dynamic_nanojoules: int
    uncertainty_nanojoules: int
    model_nanoseconds: int
    occupancy: int = 1
    maintenance: bool = False

    def overlap(self, began: int, ended: int) -> int:
        """Give the nanoseconds that it ran within these bounds."""
        return max(min(self.ended if self.ended is not None else ended, ended) - max(self.started, began), 0)

    @property
    def model_length(self) -> int:
        """Give the nanoseconds over which the model spreads its joules."""
        return max(self.model_nanoseconds if self.ended is None else self.ended - self.started, 1)

    @property
    def nanowatts(self) -> int:
        """Give its modelled dynamic power."""
        return self.dynamic_nanojoules * NANO // self.model_length


class CpuShare(NamedTuple):
    """CPU time within an epoch, of the daemon's processes and of all."""

    own_nanoseconds: int
    all_nanoseconds: int


class Portion(NamedTuple):
    """What a row gets of an epoch. `edge_nanojoules` is what may belong to the idle time before or after it.

    `alone` means that no other row ran at the same time, `split` that the model divided joules with other rows.
    """

    row: Row
    dynamic_nanojoules: int
    static_nanojoules: int
    edge_nanojoules: float
    alone: bool
    split: bool


class Attribution(NamedTuple):
    """An epoch's joules and where they went."""

    epoch: Epoch
    portions: tuple[Portion, ...]
    idle_nanojoules: int
    background_nanojoules: int
    unattributed_nanojoules: int


class Buckets(NamedTuple):
    """Where the joules of epochs went, in nanojoules: together what was counted, or modelled."""

    requests_dynamic: int = 0
    requests_static: int = 0
    idle: int = 0
    background: int = 0
    unattributed: int = 0
    maintenance: int = 0


class Final(NamedTuple):
    """The final figure of a row on one meter, or on several, with its labels."""

    row_id: int
    maintenance: bool
    dynamic_nanojoules: int
    static_nanojoules: int
    uncertainty_nanojoules: int
    provenance: Provenance
    sharing: str

    @property
    def total_nanojoules(self) -> int:
        """Give the dynamic and the static part together."""
        return self.dynamic_nanojoules + self.static_nanojoules


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split a whole number by weights, of which one is positive, so that the parts add up: by largest remainder.

    Of equal remainders the first is served first.
    """
    whole = sum(weights)
    shares = [divmod(total * weight, whole) for weight in weights]
    parts, remainders = [share[0] for share in shares], [share[1] for share in shares]
    order = sorted(range(len(weights)), key=remainders.__getitem__, reverse=True)
    for index in order[: total - sum(parts)]:
        parts[index] += 1
    return parts


def static_nanojoules(states: Sequence[tuple[int, float]], began: int, ended: int) -> int:
    """Integrate static power over an epoch: `states` are (since, watts) in order, the first before the epoch began."""
    bounds = [*states, (max(ended, states[-1][0]), 0.0)]
    return round(
        sum(watts * max(min(until, ended) - max(since, began), 0) for (since, watts), (until, _) in pairwise(bounds))
    )


def attribute(
    epoch: Epoch, rows: Iterable[Row], static: int, *, update_nanoseconds: int, cpu: CpuShare | None = None
) -> Attribution:
    """Give an epoch's joules to the rows that ran in it.

    `static` are the nanojoules that the device would have drawn without them, from calibration; `cpu` is for a meter
    that counts other programs too. Rows that did not run in the epoch are ignored.
    """
    began, ended = epoch.began, epoch.ended
    ran = [(row, overlap) for row in rows if (overlap := row.overlap(began, ended)) > 0]
    floor = min(epoch.nanojoules, static)
    dynamic, background = _without_background(epoch.nanojoules - floor, cpu)
    if not ran:
        return Attribution(epoch, (), floor, background, dynamic)
    busy, crowded = _occupied([row for row, _ in ran], began, ended)
    length = ended - began
    occupied = floor * busy // length
    # Joules rather than watts, so that a row that lies within the epoch weighs exactly what the model says of it.
    weights = [NANO * row.dynamic_nanojoules * overlap // row.model_length for row, overlap in ran]
    if not any(weights):
        weights = [overlap * row.occupancy for row, overlap in ran]
    dynamics = apportion(dynamic, weights)
    statics = apportion(occupied, [overlap * row.occupancy for row, overlap in ran])
    edge = _edge_nanojoules(max(row.nanowatts for row, _ in ran), update_nanoseconds, 1 - busy / length)
    if epoch.provenance is not Provenance.MEASURED:
        edge = 0.0
    whole = sum(weights)
    portions = tuple(
        Portion(row, given, stood, edge * weight / whole, row.row_id not in crowded and not background, len(ran) > 1)
        for (row, _), given, stood, weight in zip(ran, dynamics, statics, weights, strict=True)
    )
    return Attribution(epoch, portions, floor - occupied, background, 0)


def _without_background(dynamic: int, cpu: CpuShare | None) -> tuple[int, int]:
    """Split dynamic joules between the daemon's processes and the rest by CPU time, which is read in coarse ticks."""
    if cpu is None or cpu.all_nanoseconds <= 0:
        return dynamic, 0
    own = dynamic * min(cpu.own_nanoseconds, cpu.all_nanoseconds) // cpu.all_nanoseconds
    return own, dynamic - own


def _occupied(rows: list[Row], began: int, ended: int) -> tuple[int, set[int]]:
    """Give the nanoseconds in which anything ran, and the rows that did not run alone."""
    busy, until, last = 0, began, -1
    crowded: set[int] = set()
    for row in sorted(rows, key=lambda row: row.started):
        start = max(row.started, began)
        end = start + row.overlap(began, ended)
        if start < until:
            crowded |= {row.row_id, last}
        busy += max(end - max(start, until), 0)
        if end > until:
            until, last = end, row.row_id
    return busy, crowded


def _edge_nanojoules(nanowatts: int, update_nanoseconds: int, idle: float) -> float:
    """Give the standard uncertainty of where a sensor saw dynamic power begin and end.

    Each edge lies anywhere within an update, with a variance of a twelfth of its square. An epoch that is busy
    throughout has no edges; the part that is `idle` stands for how much they count.
    """
    return nanowatts * update_nanoseconds / NANO / sqrt(6) * idle


def modelled(gap: Gap, rows: Iterable[Row], static: int, provenance: Provenance) -> Epoch:
    """Fill a gap with what the model says, under the model's label."""
    spent = sum(row.dynamic_nanojoules * row.overlap(gap.began, gap.ended) // row.model_length for row in rows)
    return Epoch(gap.began, gap.ended, static + spent, provenance)


def combine(finals: Sequence[Final]) -> Final:
    """Add the figures of one row on several meters, of which each counts its own joules."""
    return Final(
        finals[0].row_id,
        finals[0].maintenance,
        sum(final.dynamic_nanojoules for final in finals),
        sum(final.static_nanojoules for final in finals),
        ceil(hypot(*(final.uncertainty_nanojoules for final in finals))),
        weakest(final.provenance for final in finals),
        "exclusive" if all(final.sharing == "exclusive" for final in finals) else "shared",
    )


@dataclass(slots=True)
class _Tally:
    """A row that is not final, and what it got so far."""

    row: Row
    dynamic: int = 0
    static: int = 0
    by_model: int = 0
    edges: float = 0.0
    alone: bool = True
    provenance: Provenance | None = None

    def add(self, portion: Portion, provenance: Provenance) -> None:
        self.dynamic += portion.dynamic_nanojoules
        self.static += portion.static_nanojoules
        if portion.split or provenance is not Provenance.MEASURED:
            self.by_model += portion.dynamic_nanojoules
        self.edges = hypot(self.edges, portion.edge_nanojoules)
        self.alone = self.alone and portion.alone
        self.provenance = provenance if self.provenance is None else weakest((self.provenance, provenance))


class Account:
    """The rows of one meter, until the epoch that holds their end has closed. Not for several threads at once.

    `buckets` tells where the joules went so far, by their provenance, `closed` where those of the last span went, which
    ended at `closed_until`.
    """

    def __init__(self, *, update_nanoseconds: int, relative_uncertainty: float, model_provenance: Provenance) -> None:
        """Keep an account for a meter with this update time and uncertainty, whose gaps a model fills."""
        self.buckets: dict[Provenance, Buckets] = {}
        self.closed = Buckets()
        self.closed_until = 0
        self._update = update_nanoseconds
        self._relative = relative_uncertainty
        self._model = model_provenance
        self._tallies: dict[int, _Tally] = {}

    def begin(self, row: Row) -> None:
        """Enter a row, before it starts."""
        self._tallies[row.row_id] = _Tally(row)

    def end(
        self, row_id: int, ended: int, dynamic_nanojoules: int | None = None, uncertainty_nanojoules: int | None = None
    ) -> None:
        """Enter the end of a row, answered or not, and the model's figure where that is known better by now."""
        tally = self._tallies[row_id]
        row = tally.row
        tally.row = row._replace(
            ended=ended,
            dynamic_nanojoules=row.dynamic_nanojoules if dynamic_nanojoules is None else dynamic_nanojoules,
            uncertainty_nanojoules=row.uncertainty_nanojoules
            if uncertainty_nanojoules is None
            else uncertainty_nanojoules,
        )

    def close(self, span: Epoch | Gap, static: int, cpu: CpuShare | None = None) -> tuple[Attribution, list[Final]]:
        """Give the joules of a span to the rows; tell which are final with it. Spans come in order, without a hole."""
        rows = [tally.row for tally in self._tallies.values()]
        if isinstance(span, Gap):
            # The model knows the daemon's own joules only.
            epoch, cpu = modelled(span, rows, static, self._model), None
        else:
            epoch = span
        attribution = attribute(epoch, rows, static, update_nanoseconds=self._update, cpu=cpu)
        for portion in attribution.portions:
            self._tallies[portion.row.row_id].add(portion, epoch.provenance)
        self.closed, self.closed_until = _buckets(attribution), epoch.ended
        before = self.buckets.get(epoch.provenance, Buckets())
        self.buckets[epoch.provenance] = Buckets(*(sum(pair) for pair in zip(before, self.closed, strict=True)))
        done = [row.row_id for row in rows if row.ended is not None and row.ended <= epoch.ended]
        return attribution, [self._final(self._tallies.pop(row_id)) for row_id in done]

    @property
    def pending_nanojoules(self) -> int:
        """Give what the requests that are not final have got so far."""
        return sum(each.dynamic + each.static for each in self._tallies.values() if not each.row.maintenance)

    def ended_nanojoules(self, until: int) -> int:
        """Give what the model says of the rows that ended by then and are not final."""
        rows = (tally.row for tally in self._tallies.values())
        return sum(row.dynamic_nanojoules for row in rows if row.ended is not None and row.ended <= until)

    def _final(self, tally: _Tally) -> Final:
        row = tally.row
        total = tally.dynamic + tally.static
        by_model = tally.by_model * row.uncertainty_nanojoules / row.dynamic_nanojoules if row.dynamic_nanojoules else 0
        # What ran and met no epoch was entered too late: no meter speaks for it.
        provenance = tally.provenance or self._model
        spans = (row.ended or row.started) - row.started >= UPDATES_OF_ITS_OWN * self._update
        exclusive = tally.alone and (spans or provenance is not Provenance.MEASURED)
        return Final(
            row.row_id, row.maintenance, tally.dynamic, tally.static,
            ceil(hypot(self._relative * total, by_model, tally.edges)), provenance,
            "exclusive" if exclusive else "shared",
        )  # fmt: skip


def _buckets(attribution: Attribution) -> Buckets:
    requests = [portion for portion in attribution.portions if not portion.row.maintenance]
    maintenance = [portion for portion in attribution.portions if portion.row.maintenance]
    return Buckets(
        sum(portion.dynamic_nanojoules for portion in requests),
        sum(portion.static_nanojoules for portion in requests),
        attribution.idle_nanojoules,
        attribution.background_nanojoules,
        attribution.unattributed_nanojoules,
        sum(portion.dynamic_nanojoules + portion.static_nanojoules for portion in maintenance),
    )
