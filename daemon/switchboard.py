"""Carry out what the machine of power states decides: switch devices, tell the journal, log the event."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Protocol

import structlog

from daemon.clock import Clock
from daemon.config import PolicyConfig
from daemon.fleet import Fleet
from daemon.health import unavailable
from daemon.journal import Journal, Record
from daemon.journal_schema import MAINTENANCE
from daemon.lane import Lane
from daemon.ledger import Energy
from daemon.power import Power, PowerState, Switch

# How often the power states are looked at; a policy switch and a request look at once.
STEP_SECONDS = 0.5

log = structlog.get_logger()


class Owner(Protocol):
    """Who has the reign and those who wait."""

    reign: int

    def static_changed(self) -> None:
        """Begin another reign: static power has changed."""
        ...

    def settled(self) -> None:
        """Let those who wait look again: the budget has settled something."""
        ...


class Switchboard:
    """Powers devices up and down on their own threads, in order with what is queued there."""

    def __init__(self, power: Power, fleet: Fleet, journal: Journal, owner: Owner, clock: Clock, unix: Clock) -> None:
        self._power = power
        self._fleet = fleet
        self._journal = journal
        self._owner = owner
        self._clock = clock
        self._unix = unix

    def step(self, policy: PolicyConfig) -> None:
        """Look at all power states, and carry out what is due."""
        self._power.step(self._clock(), policy, lambda device: not self._fleet.lanes[device].queued)
        self.carry_out()

    def carry_out(self) -> None:
        """Send what is due to the devices' threads, before anything that is queued from now on."""
        while self._power.switches:
            switch = self._power.switches.pop(0)
            lane = self._fleet.lanes[switch.device]
            log.info("power switches", device=lane.name, to=switch.to, reason=switch.reason)
            self._draw(lane)
            record = self._begin_record(lane) if switch.on else None
            done = lane.switch(switch.on)
            done.add_done_callback(partial(self._end, lane, switch, record))

    def found(self, lane: Lane, watts: float) -> None:
        """Take a device into account that was not there before, or is again; what is to be down goes down again."""
        self._power.found(lane.name, watts, lane.reopening, self._clock())
        if self._power.supplies[lane.name].state in {PowerState.OFF, PowerState.WAITING}:
            lane.switch(False).add_done_callback(partial(self._end_again, lane))
        self._draw(lane)
        self._owner.settled()

    def _end_again(self, lane: Lane, done: asyncio.Future[None]) -> None:
        error = done.exception()
        if error is not None:
            lane.fail(unavailable(lane.name, error), self._clock())

    def _end(self, lane: Lane, switch: Switch, record: Record | None, done: asyncio.Future[None]) -> None:
        """Note how a switch ended."""
        error, now = done.exception(), self._clock()
        if error is None:
            spent = self._power.done(lane.name, switch.on, now)
            log.info("power switched", device=lane.name, to=switch.to)
        else:
            spent = self._power.failed(lane.name, switch.on, now)
            lane.fail(unavailable(lane.name, error), now)
        if record is not None:
            energy = Energy(spent, 0, 0, *_labels(lane))
            # Not before: a number that a killed daemon had given out would be missed as the number of a lost record.
            sequence = self._journal.next_sequence()
            self._journal.finished([record._replace(status=MAINTENANCE, ended=now, energy=energy, sequence=sequence)])
        self._draw(lane)
        self.carry_out()
        self._owner.settled()

    def _draw(self, lane: Lane) -> None:
        """Take over what a device draws in its power state."""
        watts = self._power.supplies[lane.name].drawn_watts
        if watts != lane.static_watts:
            lane.static_watts = watts
            self._owner.static_changed()

    def _begin_record(self, lane: Lane) -> Record:
        """Begin the record of powering up, which a restart must know of as of a request that runs.

        It names the first operating point of the device, whose network is loaded with all others.
        """
        point = next((point for point in self._fleet.points() if point.device == lane.name), None)
        now, nanojoules = self._clock(), self._power.supplies[lane.name].upper_nanojoules
        reign, number = self._owner.reign, self._journal.next_request_id()
        if point is not None:
            self._journal.reserved(number, reign, point, nanojoules, now)
        return Record(number, reign, "", 0, self._unix(), now, 0, point, now, nanojoules)


def _labels(lane: Lane) -> tuple[str, str, str, str]:
    device = lane.device
    assert device is not None  # noqa: S101 (as above)
    return device.provenance.value, device.boundary.value, "exclusive", "final"
