"""Power sensors under /sys/class/hwmon: INA2xx and INA3221 on boards, POWER-Z testers in a USB line.

Units: Linux, Documentation/hwmon/sysfs-interface.rst: energy*_input in microjoules, power*_input in microwatts,
in*_input in millivolts, curr*_input in milliamperes, update_interval in milliseconds. Channels: Documentation/hwmon/
ina2xx.rst (power1), ina3221.rst (in1 to in3 are bus voltages, in4 and on shunt voltages), drivers/hwmon/powerz.c (in0
is VBUS, curr1 is IBUS, signed by the direction in which the tester was plugged in).

A sensor is named by its chip and its place, as in `hwmon:ina219@1-0040`, for the numbers of hwmon folders change when
something is plugged in. What it feeds only the operator knows.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Optional, Union

from hal.device import Provenance
from hal.energy.integrate import Integrated
from hal.energy.meter import (
    NANOJOULES_PER_MICROJOULE,
    Fault,
    MeterBoundary,
    MeterError,
    Reading,
    read_integer,
    read_text,
)

if TYPE_CHECKING:
    from pathlib import Path

    from hal.energy.meter import Clock

POWERZ = "powerz"
INA3221 = "ina3221"
CHIPS = (
    "ina219", "ina220", "ina226", "ina228", "ina230", "ina231", "ina237", "ina238", "ina260", INA3221, POWERZ,
)  # fmt: skip
# Above what a board's rail, or USB Power Delivery 3.1 with its 240 W, can carry.
WATTS_LIMIT = 500.0
# INA219 data sheet SBOS448: 1 % for the worst of the family, and 1 % for the shunt beside it.
RELATIVE_UNCERTAINTY = 0.014
MILLISECOND = 1_000_000


class Sensor:
    """One chip, found again by its place when its folder has got another number."""

    def __init__(self, sysfs: Path, chip: str, place: str) -> None:
        self.name = f"hwmon:{chip}@{place}"
        self.chip = chip
        self._place = place
        self._sysfs = sysfs
        self._folder = self._find()

    def _find(self) -> Path:
        for folder in _folders(self._sysfs):
            if _identity(folder) == (self.chip, self._place):
                return folder
        raise MeterError(self.name, Fault.MISSING, f"{self.name} is not under {self._sysfs / 'class' / 'hwmon'}")

    def files(self) -> set[str]:
        """List the chip's files."""
        return {path.name for path in self._folder.iterdir()}

    def integer(self, file: str) -> int:
        """Read one of the chip's files. Raises `MeterError`."""
        try:
            return read_integer(self.name, self._folder / file)
        except MeterError as error:
            if error.fault is not Fault.MISSING:
                raise
        self._folder = self._find()
        return read_integer(self.name, self._folder / file)

    def power(self, channel: int) -> int:
        """Read a channel's microwatts."""
        return self.integer(f"power{channel}_input")

    def product(self, volts: int, amperes: int) -> int:
        """Multiply a channel's millivolts and milliamperes to microwatts."""
        milliamperes = self.integer(f"curr{amperes}_input")
        if self.chip == POWERZ:
            milliamperes = abs(milliamperes)
        return self.integer(f"in{volts}_input") * milliamperes


class EnergyChannel:
    """A chip's own energy counter."""

    provenance = Provenance.MEASURED
    range_nanojoules: Optional[int] = None
    watts_limit = WATTS_LIMIT
    relative_uncertainty = RELATIVE_UNCERTAINTY
    boundary = MeterBoundary.DEVICE

    def __init__(self, sensor: Sensor, channel: int, clock: Clock, *, update_nanoseconds: int) -> None:
        self.name = sensor.name if channel == 1 else f"{sensor.name}/{channel}"
        self.update_nanoseconds = update_nanoseconds
        self.inside: frozenset[str] = frozenset()
        self._sensor = sensor
        self._file = f"energy{channel}_input"
        self._clock = clock

    def read(self) -> Reading:
        """Read the counter."""
        microjoules = self._sensor.integer(self._file)
        return Reading(self._clock(), microjoules * NANOJOULES_PER_MICROJOULE)


HwmonMeter = Union[EnergyChannel, Integrated]


def find_sensors(sysfs: Path, clock: Clock, *, sampling_nanoseconds: int) -> list[HwmonMeter]:
    """List the meters of all known chips under `sysfs`, a /sys, one per channel."""
    meters: list[HwmonMeter] = []
    for folder in _folders(sysfs):
        chip, place = _identity(folder)
        if chip in CHIPS:
            # One that is unplugged while being looked at is not there.
            with suppress(MeterError, OSError):
                meters += _meters(Sensor(sysfs, chip, place), clock, sampling_nanoseconds)
    return meters


def _folders(sysfs: Path) -> list[Path]:
    folders = (sysfs / "class" / "hwmon").glob("hwmon*")
    return sorted(folders, key=lambda folder: int(re.sub(r"\D", "", folder.name) or 0))


def _identity(folder: Path) -> tuple[str, str]:
    """Give a chip's name and its place: an I2C address, a USB port."""
    try:
        chip = read_text(folder.name, folder / "name")
    except MeterError:
        return "", ""
    device = folder / "device"
    return chip, device.resolve().name if device.exists() else folder.name


def _meters(sensor: Sensor, clock: Clock, sampling: int) -> list[HwmonMeter]:
    """Make a meter of each channel: from its energy, else from its power, else from voltage times current."""
    files = sensor.files()
    update = max(sampling, sensor.integer("update_interval") * MILLISECOND if "update_interval" in files else 0)
    energies = _channels(files, "energy")
    if energies:
        return [EnergyChannel(sensor, channel, clock, update_nanoseconds=update) for channel in energies]
    reads = {channel: partial(sensor.power, channel) for channel in _channels(files, "power")}
    if not reads:
        pairs = [(0, 1)] if sensor.chip == POWERZ else [(channel, channel) for channel in (1, 2, 3)]
        reads = {
            amperes: partial(sensor.product, volts, amperes)
            for volts, amperes in pairs
            if {f"in{volts}_input", f"curr{amperes}_input"} <= files and _enabled(sensor, files, volts)
        }
    boundary = MeterBoundary.USB_PORT if sensor.chip == POWERZ else MeterBoundary.DEVICE
    return [
        Integrated(
            f"{sensor.name}/{channel}" if sensor.chip == INA3221 else sensor.name, boundary, read, clock,
            update_nanoseconds=update, watts_limit=WATTS_LIMIT, relative_uncertainty=RELATIVE_UNCERTAINTY,
        )
        for channel, read in reads.items()
    ]  # fmt: skip


def _channels(files: set[str], kind: str) -> list[int]:
    matches = [re.fullmatch(rf"{kind}(\d+)_input", file) for file in files]
    return sorted(int(match[1]) for match in matches if match)


def _enabled(sensor: Sensor, files: set[str], channel: int) -> bool:
    file = f"in{channel}_enable"
    return file not in files or sensor.integer(file) != 0
