"""Reading the meters: on a thread of its own at an interval, into the books on the event loop."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from daemon.attribution import CpuShare
from daemon.background import repeat
from daemon.books import AccountBook, Books, Closed, MeterBook
from daemon.clock import NANO, Clock
from daemon.config import MetersConfig
from daemon.feed import Feed
from daemon.journal import Journal
from daemon.lane import Lane
from hal.device import Provenance, weakest
from hal.energy.cputime import CpuTime
from hal.energy.epochs import Epochs, Gap, Span
from hal.energy.frontier import Account, Choice, Found, choose, detect
from hal.energy.meter import Meter, MeterBoundary
from hal.energy.modelled import ModelledDevice
from hal.open import boundary_of, model_provenance_of

# Above a sampling interval, for what else the host has to do: more than that and the daemon, or the host, stood still.
PAUSE_SAMPLES, PAUSE_NANOSECONDS = 10, 5 * NANO
# How long an epoch stays open for a meter that cannot be read.
PATIENCE_SAMPLES, PATIENCE_NANOSECONDS = 10, NANO
# What such a meter counts, other programs use as well.
SHARED_BOUNDARIES = (MeterBoundary.CHIP, MeterBoundary.HOST, MeterBoundary.BOARD, MeterBoundary.WALL)
PROC = Path("/proc")

log = structlog.get_logger()


class MeterState(NamedTuple):
    """How a meter of the frontier fares, for people. `detail` says why it is down."""

    name: str
    devices: tuple[str, ...]
    boundary: str
    provenance: str
    up: bool
    detail: str
    resets: int
    rejected: int


@dataclass
class _Watch:
    """A meter that is read. `down` is why the model has taken over, empty while it has not."""

    epochs: Epochs
    book: MeterBook
    account: AccountBook
    cpu: CpuTime | None
    used: tuple[int, int] = (0, 0)
    down: str = ""
    spans: list[tuple[Span, CpuShare | None]] = field(default_factory=list)

    def advance(self, *, last: bool) -> None:
        """Read the meter, on the meters' thread."""
        spans = self.epochs.finish() if last else self.epochs.advance()
        share = self._cpu_share() if spans and self.cpu is not None else None
        # Added to what a turn that failed left behind.
        self.spans += [(span, share) for span in spans]

    def _cpu_share(self) -> CpuShare | None:
        """Give the CPU time since the last span, of the daemon with its workers and of all."""
        assert self.cpu is not None  # noqa: S101
        try:
            used = self.cpu.used_by([os.getpid(), *self.cpu.children(os.getpid())]), self.cpu.used_by_all()
        except OSError:
            return None
        before, self.used = self.used, used
        return CpuShare(used[0] - before[0], used[1] - before[1]) if any(before) else None


class Metering:
    """The meters of the frontier and their books.

    `closed` is called on the event loop with what came of each reading, after the journal has it; `feed` tells the
    final figures to whoever reads them. `choice` tells which meters account for which devices, and why.
    """

    def __init__(self, config: MetersConfig, lanes: Mapping[str, Lane], found: list[Found], choice: Choice,
                 journal: Journal, clock: Clock) -> None:  # fmt: skip
        """Open the accounts of a frontier."""
        self.choice = choice
        # What comes of readings before anybody listens: what loading takes is spent, too.
        self.early: deque[Closed] = deque()
        self.closed: Callable[[Closed], None] = self.early.append
        self.feed = Feed()
        self._config = config
        self._lanes = lanes
        self._journal = journal
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "meters")
        self._sampling = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._watches: list[_Watch] = []
        meters = {entry.meter.name: entry.meter for entry in found}
        # A model counts the joules of one device only.
        metered = [account for account in choice.accounts if account.meters]
        single = [Account((name,)) for each in choice.accounts if not each.meters for name in each.devices]
        self.books = Books([self._open(number, each, meters) for number, each in enumerate(metered + single)])
        for name, lane in lanes.items():
            lane.maintained = partial(self.books.maintained, name)

    def _open(self, number: int, account: Account, known: Mapping[str, Meter]) -> AccountBook:
        """Open the book of an account, with a model for its devices where it has no meter."""
        lanes = [self._lanes[device] for device in account.devices]
        provenance = weakest(model_provenance_of(lane.config.driver) for lane in lanes)
        meters = [known[name] for name in account.meters] or [self._model(lanes[0], provenance)]
        numbers = self._journal.open_account(
            number, account.devices, [(each.name, each.boundary.value) for each in meters]
        )
        books = [MeterBook(meter, entry, provenance) for meter, entry in zip(meters, numbers, strict=True)]
        opened = AccountBook({lane.name: lane.occupancy for lane in lanes}, books)
        self._watches += [self._watch(book, opened) for book in books]
        return opened

    def _model(self, lane: Lane, provenance: Provenance) -> ModelledDevice:
        model = lane.occupancy.model = ModelledDevice(
            lane.name, self._clock, provenance=provenance, static_watts=0.0,
            update_nanoseconds=round(self._config.sampling_seconds * NANO),
        )  # fmt: skip
        return model

    def _watch(self, book: MeterBook, account: AccountBook) -> _Watch:
        interval = round(self._config.sampling_seconds * NANO)
        epochs = Epochs(
            book.meter,
            self._clock,
            pause_nanoseconds=max(PAUSE_SAMPLES * interval, PAUSE_NANOSECONDS),
            patience_nanoseconds=max(PATIENCE_SAMPLES * interval, PATIENCE_NANOSECONDS),
        )
        return _Watch(epochs, book, account, CpuTime(PROC) if book.meter.boundary in SHARED_BOUNDARIES else None)

    @property
    def states(self) -> list[MeterState]:
        """Tell how the meters fare."""
        return [
            MeterState(
                watch.book.meter.name, tuple(watch.account.devices), watch.book.meter.boundary.value,
                watch.book.meter.provenance.value, not watch.down, watch.down, watch.epochs.resets,
                watch.epochs.rejected,
            )
            for watch in self._watches
        ]  # fmt: skip

    def start(self) -> None:
        """Begin to read at the interval."""
        self._task = asyncio.create_task(repeat("meters", self.sample, self._config.sampling_seconds))

    async def sample(self, *, last: bool = False) -> None:
        """Read every meter now and close what can be closed."""
        async with self._sampling:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._advance, last)
            for watch in self._watches:
                self._judge(watch)
                watch.book.spans.extend(watch.spans)
                watch.spans.clear()
            self._shed()
            closed = self.books.close(at_once=last)
            if closed.ranges or closed.finals:
                self._journal.settled(closed.finals, closed.ranges)
            if closed.finals:
                self.feed.tell(closed.finals)
            self.closed(closed)

    def _advance(self, last: bool) -> None:
        for watch in self._watches:
            watch.advance(last=last)

    def _judge(self, watch: _Watch) -> None:
        """Notice that a meter is gone, so that the model takes over, or back."""
        fault, name = watch.epochs.fault, watch.book.meter.name
        if fault is None and watch.down:
            watch.down = ""
            log.info("meter is back", meter=name)
        elif fault is not None and not watch.down and any(isinstance(span, Gap) for span, _ in watch.spans):
            watch.down = fault.detail
            log.error("meter lost, a model takes over", meter=name, reason=fault.detail)

    def _shed(self) -> None:
        """Leave devices unused whose meter is down and whose model is less certain than the limit."""
        for account in self.books.accounts:
            down = any(watch.down for watch in self._watches if watch.account is account)
            for name in account.devices:
                lane = self._lanes[name]
                shed = down and lane.relative_uncertainty > self._config.uncertainty_limit
                if shed != lane.shed:
                    lane.shed = shed
                    lane.changed()
                    log.warning("device is shed" if shed else "device is used again", device=name)

    async def close(self) -> None:
        """Read a last time, when nothing runs any more, and close the books."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.sample(last=True)
        self._thread.shutdown()


async def open_metering(config: MetersConfig, lanes: Mapping[str, Lane], journal: Journal, clock: Clock) -> Metering:
    """Find the meters of this host, choose the frontier and open its accounts. Raises `FrontierError`."""
    interval = round(config.sampling_seconds * NANO)
    found = await asyncio.to_thread(detect, Path(config.sysfs), clock, sampling_nanoseconds=interval)
    devices = {name: boundary_of(lane.config.driver) for name, lane in lanes.items()}
    frontier = None if config.account is None else [Account(each.devices, each.meters) for each in config.account]
    choice = choose(found, devices, frontier)
    for reason in choice.reasons:
        log.info("accounting frontier", choice=reason)
    return Metering(config, lanes, found, choice, journal, clock)
