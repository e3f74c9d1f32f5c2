"""The books of the accounting frontier: for each account its meters, and which rows their joules go to.

Everything runs on the event loop. Rows are entered when they have landed, from beginning to end; so a span of a meter
waits until all that ran in it is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from daemon.attribution import Account, CpuShare, Final, Portion, Row, combine, static_nanojoules
from daemon.clock import NANO
from daemon.occupancy import Occupancy
from hal.device import Provenance
from hal.energy.epochs import Epoch, Span
from hal.energy.meter import Meter
from hal.energy.modelled import ModelledDevice

# Spans in which no request ran are put together, as long as they come to no more than this.
QUIET_NANOSECONDS = 10 * NANO


class Range(NamedTuple):
    """A closed range of time of one meter, by its number in the journal: what it counted and where that went.

    `dynamic` and `static` are what requests got. `pending` is what those that are not final at its end have got so far.
    """

    meter: int
    began: int
    ended: int
    provenance: Provenance
    metered: int
    dynamic: int
    static: int
    idle: int
    background: int
    unattributed: int
    maintenance: int
    pending: int = 0


class Unasked(NamedTuple):
    """Joules above static power that a meter counted until `ended` and that no request is charged with."""

    ended: int
    nanojoules: int


class Closed(NamedTuple):
    """What came of closing spans: figures that are final, ranges for the journal, joules that nobody asked for."""

    finals: list[Final]
    ranges: list[Range]
    unasked: list[Unasked]


class MeterBook:
    """The book of one meter, which the journal knows by `number`.

    `spans` are those that are not closed yet, `awaited` the figures of rows that other meters have no figure for yet.
    """

    def __init__(self, meter: Meter, number: int, model_provenance: Provenance) -> None:
        self.meter = meter
        self.number = number
        self.metered_nanojoules = 0
        self.spans: deque[tuple[Span, CpuShare | None]] = deque()
        self.awaited: dict[int, Final] = {}
        self.rows = Account(
            update_nanoseconds=meter.update_nanoseconds,
            relative_uncertainty=meter.relative_uncertainty,
            model_provenance=model_provenance,
        )
        self._open: Range | None = None
        self._eventful = False
        self._pending = 0

    @property
    def closed_some(self) -> bool:
        """Tell whether a span was closed since the last range was complete."""
        return self._open is not None

    def enter(self, span: Range) -> list[Range]:
        """Enter a span; give the range before it where the two do not belong together."""
        self.metered_nanojoules += span.metered
        self._eventful = self._eventful or span.dynamic > 0 or span.static > 0
        last, self._open = self._open, span
        if last is None:
            return []
        if last.provenance is not span.provenance or span.ended - last.began > QUIET_NANOSECONDS:
            return [last._replace(pending=self._pending)]
        sums = [earlier + later for earlier, later in zip(last[4:11], span[4:11], strict=True)]
        self._open = Range(span.meter, last.began, span.ended, span.provenance, *sums)
        return []

    def complete(self, *, at_once: bool = False) -> list[Range]:
        """Give the open range, if requests have part in it, or else only if `at_once`."""
        pending = self.rows.pending_nanojoules + sum(each.total_nanojoules for each in self.awaited.values())
        eventful = self._eventful or pending != self._pending
        if self._open is None or not (eventful or at_once):
            return []
        last, self._open, self._eventful, self._pending = self._open, None, False, pending
        return [last._replace(pending=pending)]


class AccountBook:
    """One account of the frontier: its devices, and the meters that together count their joules.

    `measured` tells whether a meter counts them, or a model does.
    """

    def __init__(self, devices: Mapping[str, Occupancy], meters: Sequence[MeterBook]) -> None:
        self.devices = devices
        self.meters = meters
        self.measured = not isinstance(meters[0].meter, ModelledDevice)
        self._static_watts = dict.fromkeys(devices, 0.0)
        self._static: list[tuple[int, float]] = [(0, 0.0)]

    def change_static(self, device: str, watts: float, at: int) -> None:
        """Note what a device draws without a request from now on."""
        if watts == self._static_watts[device]:
            return
        self._static_watts[device] = watts
        self._static.append((max(at, self._static[-1][0]), sum(self._static_watts.values())))
        for book in self.meters:
            if isinstance(book.meter, ModelledDevice):
                book.meter.change(at, watts)

    def enter(self, row: Row) -> None:
        """Enter what ran, from beginning to end."""
        for book in self.meters:
            book.rows.begin(row)

    def close(self, closed: Closed, *, at_once: bool = False) -> None:
        """Close the spans in which all that ran is known, and add what comes of it."""
        until = min((since for runs in self.devices.values() if (since := runs.known_until) is not None), default=None)
        for book in self.meters:
            while book.spans and (until is None or book.spans[0][0].ended <= until):
                self._close(book, *book.spans.popleft(), closed)
        closed.finals.extend(self._settled())
        for book in self.meters:
            closed.ranges.extend(book.complete(at_once=at_once))

    def _close(self, book: MeterBook, span: Span, cpu: CpuShare | None, closed: Closed) -> None:
        attribution, finals = book.rows.close(span, self._static_nanojoules(book, span), cpu)
        book.awaited.update((final.row_id, final) for final in finals if not final.maintenance)
        (began, ended, metered, provenance), buckets = attribution.epoch, book.rows.closed
        closed.ranges.extend(book.enter(Range(book.number, began, ended, provenance, metered, *buckets)))
        upkeep = sum(self._uncharged(each, span) for each in attribution.portions if each.row.maintenance)
        unasked = buckets.background + buckets.unattributed + upkeep
        if self.measured and unasked:
            closed.unasked.append(Unasked(ended, unasked))

    def _uncharged(self, portion: Portion, span: Span) -> int:
        """Give what maintenance took above its row's nanojoules, which the budget is charged with: a power-up's."""
        row = portion.row
        overlap = row.overlap(span.began, span.ended)
        charged = row.dynamic_nanojoules * overlap // (row.model_length * len(self.meters))
        return max(portion.dynamic_nanojoules - charged, 0)

    def _static_nanojoules(self, book: MeterBook, span: Span) -> int:
        """Give what the devices would have drawn without any row; of several meters each counts its part of it."""
        if not self.measured and isinstance(span, Epoch):
            # A model counts the runs that ended, and static power besides.
            return max(span.nanojoules - book.rows.ended_nanojoules(span.ended), 0)
        while len(self._static) > 1 and self._static[1][0] <= min(each.rows.closed_until for each in self.meters):
            del self._static[0]
        static = static_nanojoules(self._static, span.began, span.ended)
        metered = sum(each.metered_nanojoules for each in self.meters)
        return static * book.metered_nanojoules // metered if metered else static // len(self.meters)

    def _settled(self) -> list[Final]:
        """Take the figures of rows that are final on every meter, once each has a range that can tell of it."""
        if not all(book.closed_some for book in self.meters):
            return []
        if len(self.meters) == 1:
            finals = list(self.meters[0].awaited.values())
            self.meters[0].awaited.clear()
            return finals
        done = set.intersection(*(set(book.awaited) for book in self.meters))
        return [combine([book.awaited.pop(row_id) for book in self.meters]) for row_id in sorted(done)]


class Books:
    """All accounts of the frontier, by device."""

    def __init__(self, accounts: Sequence[AccountBook]) -> None:
        self.accounts = accounts
        self._of = {device: account for account in accounts for device in account.devices}
        self._maintenance = 0

    def measured(self, device: str) -> bool:
        """Tell whether a meter counts a device's joules, so that the figure of a request is known only later."""
        return self._of[device].measured

    def change_static(self, device: str, watts: float, at: int) -> None:
        """Note what a device draws without a request from now on."""
        self._of[device].change_static(device, watts, at)

    def ran(self, device: str, row: Row) -> None:
        """Enter an attempt of a request, answered or not, from beginning to end."""
        self._of[device].enter(row)

    def maintained(self, device: str, began: int, ended: int, nanojoules: int) -> None:
        """Enter what a device did for no request, such as loading or powering up.

        `nanojoules` is what a model knows of it; with that the budget is charged by whoever had it done.
        """
        self._maintenance -= 1
        # Nothing takes less than a nanosecond: a row without a length would have no part in its epoch.
        began = min(began, ended - 1)
        self._of[device].enter(Row(self._maintenance, began, ended, nanojoules, nanojoules, 0, maintenance=True))

    def close(self, *, at_once: bool = False) -> Closed:
        """Close what can be closed; `at_once` completes also the ranges in which no request had part."""
        closed = Closed([], [], [])
        for account in self.accounts:
            account.close(closed, at_once=at_once)
        return closed
