"""Once a second: how the daemon stands, what its devices drew since, and what has changed.

The metrics, the page and `jouled top` show these samples. They are no more frequent than that on purpose: a meter of
the host that anybody could read at a high rate would tell what other programs compute (PLATYPUS, CVE-2020-8694).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from daemon.audit import ANSWERED
from daemon.books import AccountBook
from daemon.clock import NANO, Clock
from daemon.dispatcher import Dispatcher
from daemon.journal import Journal
from daemon.metering import Metering
from daemon.points import Point
from daemon.tally import Cell, Served, Tally, served_by
from hal.device import Kind
from hal.open import simulated_by

PULSE_SECONDS = 1.0
# How much of the past a page gets that has just been opened.
REMEMBERED_SAMPLES = 600
REMEMBERED_EVENTS = 100


class Bucket(msgspec.Struct, frozen=True):
    """What a meter counted of one kind since the daemon's start. `device` names several where they share meters."""

    device: str
    boundary: str
    provenance: str
    bucket: str
    nanojoules: int


class DeviceSample(msgspec.Struct, frozen=True):
    """How a device fares."""

    name: str
    driver: str
    simulated: bool
    health: str
    power: str
    static_watts: float
    queued: int
    detail: str


class PointSample(msgspec.Struct, frozen=True):
    """How many requests were answered at an operating point, and the dynamic joules of those whose figure is final."""

    name: str
    model: str
    variant: str
    device: str
    steps: int
    margin: int
    accuracy: float
    provenance: str
    answered: int
    finals: int
    joules: float


class Sample(msgspec.Struct, frozen=True):
    """How the daemon stands at a moment.

    `watts` is what each device, or those that share meters, drew since the sample before. The budget's window holds
    `used_joules`, static power included, of at most `limit_joules`.
    """

    unix_seconds: float
    policy: str
    window_seconds: float
    limit_joules: float
    used_joules: float
    reserved_joules: float
    overruns: int
    journal_gaps: int
    watts: dict[str, float]
    buckets: list[Bucket]
    devices: list[DeviceSample]
    meters: dict[str, str]
    points: list[PointSample]
    statuses: dict[str, int]


class Event(msgspec.Struct, frozen=True):
    """Something that has changed from one sample to the next. `grave` is what an operator should look at."""

    unix_seconds: float
    text: str
    grave: bool


@dataclass(frozen=True)
class _Reading:
    """What the meters of an account had counted, in nanojoules, and until when."""

    nanojoules: int
    until: int
    watts: float


class Pulse:
    """Takes the samples. `latest` is the last one, `past` those before with it, `events` what changed."""

    def __init__(
        self, dispatcher: Dispatcher, metering: Metering, journal: Journal, tally: Tally, clock: Clock, unix: Clock
    ) -> None:
        self.past: deque[Sample] = deque(maxlen=REMEMBERED_SAMPLES)
        self.events: deque[Event] = deque(maxlen=REMEMBERED_EVENTS)
        self.ended = False
        self._dispatcher = dispatcher
        self._metering = metering
        self._journal = journal
        self._tally = tally
        self._clock = clock
        self._unix = unix
        self._readings: dict[str, _Reading] = {}
        self._news = asyncio.Event()
        self.take()

    @property
    def latest(self) -> Sample:
        """Give the last sample."""
        return self.past[-1]

    async def next(self) -> None:
        """Wait for the next sample, or for the end."""
        await self._news.wait()

    def end(self) -> None:
        """Let everybody go who waits: the daemon drains."""
        self.ended = True
        self._news.set()

    def take(self) -> None:
        """Take a sample."""
        sample = self._sample()
        if self.past:
            self.events.extend(changes(self.latest, sample))
        self.past.append(sample)
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _sample(self) -> Sample:
        now, dispatcher = self._clock(), self._dispatcher
        budget, accounts = dispatcher.budget, self._metering.books.accounts
        self._readings = {_name(each): _read(each, self._readings.get(_name(each))) for each in accounts}
        statuses: Counter[str] = Counter()
        for cell in self._tally.cells.values():
            statuses += cell.statuses
        return Sample(
            unix_seconds=self._unix() / NANO,
            policy=dispatcher.router.name,
            window_seconds=budget.limit.window_nanoseconds / NANO,
            limit_joules=budget.limit.nanojoules / NANO,
            used_joules=budget.used_nanojoules(now) / NANO,
            reserved_joules=budget.reserved_nanojoules / NANO,
            overruns=dispatcher.settlement.overruns,
            journal_gaps=self._journal.gaps,
            watts={name: reading.watts for name, reading in self._readings.items()},
            buckets=[bucket for account in accounts for bucket in _buckets(account)],
            devices=self._devices(),
            meters={meter.name: "" if meter.up else meter.detail for meter in self._metering.states},
            points=[_point(point, self._tally.cells.get(served)) for served, point in self._points().items()],
            statuses=dict(statuses),
        )

    def _points(self) -> dict[Served, Point]:
        """Give the operating points by name; of those of several versions of a model, which share it, the latest."""
        return {served_by(point): point for point in self._dispatcher.fleet.points()}

    def _devices(self) -> list[DeviceSample]:
        return [
            DeviceSample(
                name=lane.name,
                driver=lane.config.driver,
                simulated=simulated_by(lane.config.driver),
                health="shed" if lane.shed else lane.state.value,
                power=self._dispatcher.power.supplies[lane.name].state.value,
                static_watts=lane.static_watts,
                queued=lane.queued,
                detail=str(lane.health.failure) if lane.health.failure else "",
            )
            for lane in self._dispatcher.fleet.lanes.values()
        ]


def _name(account: AccountBook) -> str:
    """Name an account by its devices."""
    return "+".join(account.devices)


def _read(account: AccountBook, before: _Reading | None) -> _Reading:
    """Read an account, and what it drew since: over the time that its meters have closed, not that of the clock."""
    nanojoules = sum(book.metered_nanojoules for book in account.meters)
    until = min(book.rows.closed_until for book in account.meters)
    if before is None or until <= before.until:
        return _Reading(nanojoules, until, before.watts if before else 0.0)
    watts = (nanojoules - before.nanojoules) / (until - before.until) if before.until else 0.0
    return _Reading(nanojoules, until, watts)


def _buckets(account: AccountBook) -> list[Bucket]:
    return [
        Bucket(_name(account), book.meter.boundary.value, provenance.value, kind, nanojoules)
        for book in account.meters
        for provenance, buckets in book.rows.buckets.items()
        for kind, nanojoules in buckets._asdict().items()
    ]


def _point(point: Point, cell: Cell | None) -> PointSample:
    margin = f", margin {point.margin}" if point.margin else ""
    steps = f", {point.steps} steps{margin}" if point.kind is Kind.SNN else ""
    final = list(cell.energies.values()) if cell else []
    return PointSample(
        name=f"{point.model}/{point.variant} on {point.device}{steps}",
        model=point.model,
        variant=point.variant,
        device=point.device,
        steps=point.steps,
        margin=point.margin,
        accuracy=point.accuracy,
        provenance=point.provenance,
        answered=cell.statuses[ANSWERED] if cell else 0,
        finals=sum(histogram.count for histogram in final),
        joules=sum(histogram.sum for histogram in final),
    )


# A device that is powered down has no health but that: its power state tells the same.
POWERED = {
    "on": "is powered up", "closing": "is being powered down", "off": "is powered down",
    "waiting": "waits for power", "opening": "is being powered up",
}  # fmt: skip


def changes(before: Sample, after: Sample) -> list[Event]:
    """Tell what changed between two samples, in words."""
    at = after.unix_seconds
    events = []
    if after.policy != before.policy:
        events.append(Event(at, f"policy {after.policy} is in force, before it was {before.policy}", grave=False))
    known = {device.name: device for device in before.devices}
    for device in after.devices:
        was = known[device.name]
        if device.health not in {was.health, "off"}:
            why = f": {device.detail}" if device.detail else ""
            grave = device.health in {"lost", "shed"}
            events.append(Event(at, f"{device.name} is {device.health}{why}", grave=grave))
        elif (device.health, device.power) != (was.health, was.power):
            events.append(Event(at, f"{device.name} {POWERED[device.power]}", grave=False))
    events += [Event(at, text, grave=bool(detail)) for text, detail in _meter_changes(before.meters, after.meters)]
    if after.overruns > before.overruns:
        events.append(Event(at, "the meters counted more than the budget allows", grave=True))
    if after.journal_gaps > before.journal_gaps:
        lost = after.journal_gaps - before.journal_gaps
        events.append(Event(at, f"{lost} records could not be written to the journal", grave=True))
    return events


def _meter_changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[tuple[str, str]]:
    """Tell which meters went or came back, each with the reason why it went."""
    return [
        (f"meter {name} is lost, a model takes over: {detail}" if detail else f"meter {name} is back", detail)
        for name, detail in after.items()
        if bool(detail) != bool(before[name])
    ]
