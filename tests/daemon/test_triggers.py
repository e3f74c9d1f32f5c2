"""Triggers switch policies by hour, battery and temperature, once for each change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daemon import triggers
from daemon.config import TriggerConfig
from daemon.errors import NotFound, PolicyRefused
from daemon.triggers import Change, Readings, Triggers, TriggerWatch, check

PLUGGED = Readings(12 * 60, on_battery=False, celsius={"cpu": 50.0, "board": 30.0})


def _trigger(**conditions: Any) -> TriggerConfig:
    return TriggerConfig("frugal", **conditions)


def _minute(text: str) -> int:
    return int(text[:2]) * 60 + int(text[3:])


@pytest.mark.parametrize(
    ("hours", "time", "expected"),
    [
        ("08:00-18:00", "07:59", False), ("08:00-18:00", "08:00", True), ("08:00-18:00", "17:59", True),
        ("08:00-18:00", "18:00", False), ("22:30-06:00", "22:29", False), ("22:30-06:00", "23:59", True),
        ("22:30-06:00", "00:00", True), ("22:30-06:00", "05:59", True), ("22:30-06:00", "06:00", False),
        ("00:00-00:00", "12:00", True),
    ],
)  # fmt: skip
def test_hours(hours: str, time: str, expected: bool) -> None:
    """A range of hours holds from its first minute to before its last, beyond midnight too."""
    readings = PLUGGED._replace(minute=_minute(time))
    assert triggers.holds(_trigger(hours=hours), readings, held=False) is expected


@pytest.mark.parametrize(
    ("wanted", "found", "held", "expected"),
    [(True, True, False, True), (True, False, True, False), (False, False, False, True), (True, None, True, True)],
)
def test_battery(wanted: bool, found: bool | None, held: bool, expected: bool) -> None:
    """On battery or not; a battery that is gone leaves things as they were."""
    readings = PLUGGED._replace(on_battery=found)
    assert triggers.holds(_trigger(on_battery=wanted), readings, held=held) is expected


def _follow(trigger: TriggerConfig, temperatures: list[float]) -> list[bool]:
    """Give what a trigger says to one temperature after the other."""
    held, said = False, []
    for celsius in temperatures:
        held = triggers.holds(trigger, PLUGGED._replace(celsius={"cpu": celsius}), held)
        said.append(held)
    return said


def test_temperature_has_hysteresis() -> None:
    """A temperature that dances on the threshold does not make the policy dance."""
    above = _trigger(above_celsius=80.0, hysteresis_celsius=5.0)
    assert _follow(above, [80.0, 80.1, 79.0, 75.1, 75.0, 79.0, 81.0]) == [
        False, True, True, True, False, False, True,
    ]  # fmt: skip
    below = _trigger(below_celsius=0.0, hysteresis_celsius=5.0)
    assert _follow(below, [0.0, -0.1, 4.9, 5.0, 1.0]) == [False, True, True, False, False]


def test_sensor() -> None:
    """Without a name the warmest sensor counts; one that vanished leaves things as they were."""
    assert triggers.holds(_trigger(above_celsius=40.0), PLUGGED, held=False)
    assert not triggers.holds(_trigger(above_celsius=40.0, sensor="board"), PLUGGED, held=True)
    for held in (False, True):
        assert triggers.holds(_trigger(above_celsius=40.0, sensor="gone"), PLUGGED, held=held) is held


def test_all_conditions_of_a_trigger() -> None:
    """A trigger holds while all of its conditions do."""
    night_on_battery = _trigger(hours="22:00-06:00", on_battery=True)
    night = PLUGGED._replace(minute=0)
    assert not triggers.holds(night_on_battery, night, held=False)
    assert triggers.holds(night_on_battery, night._replace(on_battery=True), held=False)


def test_first_trigger_decides() -> None:
    """The first trigger that holds decides, a switch comes with each change, and the start policy when none holds."""
    machine = Triggers([_trigger(on_battery=True), TriggerConfig("night", hours="22:00-06:00")], "day")
    night = PLUGGED._replace(minute=0)
    assert machine.look(PLUGGED) is None
    assert machine.look(night) == Change("night", "trigger[1] holds")
    assert machine.look(night) is None
    assert machine.look(night._replace(on_battery=True)) == Change("frugal", "trigger[0] holds")
    assert machine.look(PLUGGED) == Change("day", "no trigger holds any more")


@pytest.mark.parametrize(
    ("trigger", "readings", "complaint"),
    [
        (_trigger(on_battery=True), PLUGGED._replace(on_battery=None), r"trigger\[0\]\.on_battery: .* no battery"),
        (_trigger(above_celsius=1.0), PLUGGED._replace(celsius={}), r"trigger\[0\]: .* no temperature sensor"),
        (_trigger(above_celsius=1.0, sensor="cpi"), PLUGGED, r"trigger\[0\]\.sensor: .*did you mean 'cpu'\?"),
    ],
)
def test_missing_sensors(trigger: TriggerConfig, readings: Readings, complaint: str) -> None:
    """What the host does not have is refused by name."""
    with pytest.raises(PolicyRefused, match=complaint):
        check([trigger], readings)
    check([trigger], PLUGGED._replace(celsius={**PLUGGED.celsius, "cpi": 1.0}))


def test_this_host_can_be_read() -> None:
    """Whatever sensors this host has, reading them gives a minute of the day and temperatures in degrees."""
    found = triggers.read()
    assert 0 <= found.minute < 24 * 60
    assert all(-100 < celsius < 200 for celsius in found.celsius.values())


def test_triggers_are_replaced() -> None:
    """The same triggers go on as they were; where one that held is gone, what holds now decides."""

    async def scenario() -> None:
        await watch.look()
        await watch.replace([_trigger(on_battery=True)], "day")
        await watch.look()
        await watch.replace([_trigger(on_battery=True)], "day")
        await watch.look()
        assert switched == ["frugal"]
        await watch.replace([], "day")
        await watch.look()
        await watch.look()
        assert switched == ["frugal", "day"]

    def set_policy(name: str) -> str:
        switched.append(name)
        return "before"

    switched: list[str] = []
    watch = TriggerWatch(set_policy, lambda: PLUGGED._replace(on_battery=True))
    asyncio.run(scenario())


def test_sensors_that_fail() -> None:
    """Where reading fails nothing is switched, and the next look tries again."""

    def read() -> Readings:
        if failures:
            raise failures.pop()
        return PLUGGED._replace(on_battery=True)

    async def scenario() -> None:
        await watch.replace([_trigger(on_battery=True)], "day")
        failures.append(OSError("unplugged"))
        await watch.look()
        assert switched == []
        await watch.look()
        assert switched == ["frugal"]

    def set_policy(name: str) -> str:
        switched.append(name)
        return "before"

    failures: list[OSError] = []
    switched: list[str] = []
    watch = TriggerWatch(set_policy, read)
    asyncio.run(scenario())


def test_watch() -> None:
    """A policy set by hand holds until the triggers change; a refused one is told and tried at the next change."""

    async def scenario() -> None:
        await watch.replace([_trigger(on_battery=True), TriggerConfig("gone", hours="22:00-06:00")], "day")
        for readings in (PLUGGED, PLUGGED._replace(on_battery=True), PLUGGED._replace(on_battery=True), night, PLUGGED):
            found[0] = readings
            await watch.look()
        with pytest.raises(PolicyRefused):
            await watch.replace([_trigger(above_celsius=1.0, sensor="none")], "day")
        found[0] = PLUGGED._replace(on_battery=True)
        await watch.look()
        assert switched == ["frugal", "gone", "day", "frugal"]

    def set_policy(name: str) -> str:
        switched.append(name)
        if name == "gone":
            raise NotFound("no policy")
        return "before"

    night = PLUGGED._replace(minute=0)
    switched: list[str] = []
    found = [PLUGGED]
    watch = TriggerWatch(set_policy, lambda: found[0])
    asyncio.run(scenario())
