"""Policies that switch by themselves: by the hour, on battery, by temperature.

The first trigger whose conditions all hold decides; where none holds, the start policy does. A switch happens only when
that changes: a policy set by hand stays until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import psutil
import structlog

from daemon.background import repeat
from daemon.config import TriggerConfig
from daemon.errors import PolicyRefused, RequestError
from hal.names import near

LOOK_SECONDS = 5.0
# The number of a trigger that the configuration no longer has.
GONE = -1

log = structlog.get_logger()


class Readings(NamedTuple):
    """What triggers look at: minutes since midnight, local time; the battery, if any; the warmest of each sensor."""

    minute: int
    on_battery: bool | None
    celsius: Mapping[str, float]


class Change(NamedTuple):
    """The policy to be put in force, and why."""

    policy: str
    reason: str


class Triggers:
    """The triggers and which of them hold; `otherwise` is the policy where none does."""

    def __init__(self, triggers: Sequence[TriggerConfig], otherwise: str, before: Triggers | None = None) -> None:
        """Begin with none that holds. Where one of those `before` did, its policy is in force and has to go."""
        self.triggers = tuple(triggers)
        self.otherwise = otherwise
        self._held = [False] * len(triggers)
        self._deciding: int | None = None if before is None or before.at_rest else GONE

    @property
    def at_rest(self) -> bool:
        """Tell whether none holds, as far as is known."""
        return self._deciding is None

    def look(self, readings: Readings) -> Change | None:
        """Take readings; give what changes with them."""
        self._held = [holds(trigger, readings, held) for trigger, held in zip(self.triggers, self._held, strict=True)]
        deciding = self._held.index(True) if True in self._held else None
        if deciding == self._deciding:
            return None
        self._deciding = deciding
        if deciding is None:
            return Change(self.otherwise, "no trigger holds any more")
        return Change(self.triggers[deciding].policy, f"trigger[{deciding}] holds")


def holds(trigger: TriggerConfig, readings: Readings, held: bool) -> bool:
    """Tell whether all conditions of a trigger hold; one that cannot be read is as it was.

    Once held, a temperature has to pass its threshold back by `hysteresis_celsius`.
    """
    conditions = []
    if trigger.hours:
        conditions.append(_within(trigger.minutes, readings.minute))
    if trigger.on_battery is not None:
        conditions.append(held if readings.on_battery is None else readings.on_battery == trigger.on_battery)
    celsius = _celsius(trigger, readings)
    slack = trigger.hysteresis_celsius if held else 0.0
    if trigger.above_celsius is not None:
        conditions.append(held if celsius is None else celsius > trigger.above_celsius - slack)
    if trigger.below_celsius is not None:
        conditions.append(held if celsius is None else celsius < trigger.below_celsius + slack)
    return all(conditions)


def _within(minutes: tuple[int, int], minute: int) -> bool:
    """Tell whether a minute of the day lies in a range, which may go beyond midnight."""
    begin, end = minutes
    return begin <= minute < end if begin < end else minute >= begin or minute < end


def _celsius(trigger: TriggerConfig, readings: Readings) -> float | None:
    if trigger.sensor:
        return readings.celsius.get(trigger.sensor)
    return max(readings.celsius.values(), default=None)


def check(triggers: Sequence[TriggerConfig], readings: Readings) -> None:
    """Raise `PolicyRefused` for a trigger that needs what this host does not have."""
    for index, trigger in enumerate(triggers):
        if trigger.on_battery is not None and readings.on_battery is None:
            raise PolicyRefused(f"trigger[{index}].on_battery: this host has no battery")
        warm = trigger.above_celsius is not None or trigger.below_celsius is not None
        if warm and not readings.celsius:
            raise PolicyRefused(f"trigger[{index}]: this host has no temperature sensor")
        if warm and trigger.sensor and trigger.sensor not in readings.celsius:
            raise PolicyRefused(
                f"trigger[{index}].sensor: no sensor {trigger.sensor!r}{near(trigger.sensor, readings.celsius)}"
            )


def read() -> Readings:
    """Read the local time, the battery and the temperature sensors of this host, which may take a while."""
    now, battery = datetime.now().astimezone(), psutil.sensors_battery()
    plugged = battery.power_plugged if battery is not None else None
    celsius = {name: max(each.current for each in found) for name, found in psutil.sensors_temperatures().items()}
    return Readings(now.hour * 60 + now.minute, None if plugged is None else not plugged, celsius)


class TriggerWatch:
    """Looks at the triggers every few seconds, and switches policies."""

    def __init__(self, set_policy: Callable[[str], str], read: Callable[[], Readings] = read) -> None:
        self._set_policy = set_policy
        self._read = read
        self._triggers = Triggers((), "")

    async def replace(self, triggers: Sequence[TriggerConfig], otherwise: str) -> None:
        """Watch these triggers from now on; the same ones go on. Raises `PolicyRefused` and leaves all as it was."""
        if triggers:
            check(triggers, await asyncio.to_thread(self._read))
        if (tuple(triggers), otherwise) != (self._triggers.triggers, self._triggers.otherwise):
            self._triggers = Triggers(triggers, otherwise, self._triggers)

    async def watch(self) -> None:
        """Look for ever."""
        await repeat("triggers", self.look, LOOK_SECONDS)

    async def look(self) -> None:
        """Look once. The sensors are read beside the event loop."""
        if not self._triggers.triggers and self._triggers.at_rest:
            return
        try:
            readings = await asyncio.to_thread(self._read)
        except OSError as error:
            log.warning("sensors not read", error=str(error))
            return
        change = self._triggers.look(readings)
        if change is None:
            return
        try:
            previous = self._set_policy(change.policy)
        except RequestError as error:
            log.error("policy not switched", policy=change.policy, reason=change.reason, error=str(error))
        else:
            log.info("policy switched", policy=change.policy, previous=previous, reason=change.reason)
