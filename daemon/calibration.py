"""The calibration file: what devices and their operating points were found to draw on this host.

`jouled calibrate` writes it, and the daemon reads it at the start: static power goes into the budget, mean joules and
seconds into the router. Its upper bounds replace those of the devices only where the operator accepts them as soft.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from daemon.clock import NANO
from daemon.config import DeviceConfig
from daemon.errors import ConfigError
from daemon.points import Point
from daemon.sections import Section
from hal.names import near

FORMAT = 1
ON, OFF = "on", "off"

Watts = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Joules = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]


class StaticPower(Section, frozen=True):
    """What a device draws in a power state without a request, with its standard uncertainty."""

    watts: Watts
    uncertainty_watts: Watts


class Figures(Section, frozen=True):
    """What one image costs: means over `images` runs, each with the standard deviation of a single run."""

    images: Annotated[int, msgspec.Meta(ge=1)]
    seconds: Seconds
    seconds_spread: Seconds
    dynamic_joules: Joules
    dynamic_joules_spread: Joules


class PointFigures(Section, frozen=True):
    """An operating point, run without a pause and with as much rest as work; `upper_joules` bounds an image."""

    model: str
    version: str
    variant: str
    digest: str
    steps: int
    margin: int
    inputs: str
    saturated: Figures
    half_load: Figures
    upper_joules: Joules

    @property
    def key(self) -> tuple[str, str, str, str, int, int]:
        """Tell the operating point from all others of the device."""
        return self.model, self.version, self.variant, self.digest, self.steps, self.margin


class DeviceFigures(Section, frozen=True):
    """A device: its static power by power state, its points, and which meters said so; none for a model."""

    driver: str
    provenance: str
    meters: tuple[str, ...]
    static_power: dict[str, StaticPower]
    points: tuple[PointFigures, ...]


class Calibration(Section, frozen=True):
    """The whole file. `host` tells this host from others without naming it."""

    format: int
    tool: str
    made_unix: int
    host: str
    device: dict[str, DeviceFigures]

    def static_watts(self, device: str, otherwise: float) -> float:
        """Give what a device draws when it is on and idle, or what the device says where it was not calibrated."""
        figures = self.device.get(device)
        return figures.static_power[ON].watts if figures else otherwise

    def apply(self, points: Iterable[Point], device: DeviceConfig) -> None:
        """Give operating points of a device the figures found for them; one that was not calibrated keeps its own."""
        for point in points:
            key = point.model, point.version, point.variant, point.digest, point.steps, point.margin
            calibrated = self.device.get(point.device)
            for figures in calibrated.points if calibrated else ():
                if figures.key == key:
                    _apply(point, figures, soft=device.calibrated_bounds)


# What is known without a calibration.
NONE = Calibration(FORMAT, "", 0, "", {})


def _apply(point: Point, figures: PointFigures, *, soft: bool) -> None:
    point.dynamic_nanojoules = round(figures.saturated.dynamic_joules * NANO)
    point.seconds = point.service_seconds = figures.saturated.seconds
    if soft:
        point.upper_nanojoules = -int(-figures.upper_joules * NANO // 1)
    # No image that was seen may exceed its reservation.
    point.upper_nanojoules = max(point.upper_nanojoules, point.dynamic_nanojoules)


def load(path: Path, devices: Mapping[str, DeviceConfig]) -> Calibration:
    """Read a calibration and check that it is of these devices. Raises `ConfigError`."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if found.format != FORMAT:
        raise ConfigError(f"{path}: format {found.format} is not the supported {FORMAT}")
    for name, figures in found.device.items():
        _check(path, name, figures, devices)
        if figures.provenance != "simulated" and found.host != host_mark():
            raise ConfigError(f"{path}: device.{name}: calibrated on another host, where a device may draw otherwise")
    return found


def _check(path: Path, name: str, figures: DeviceFigures, devices: Mapping[str, DeviceConfig]) -> None:
    if name not in devices:
        raise ConfigError(f"{path}: device.{name}: no such device is configured{near(name, devices)}")
    driver = devices[name].driver
    if figures.driver != driver:
        raise ConfigError(f"{path}: device.{name}: calibrated with driver {figures.driver!r}, configured is {driver!r}")
    if ON not in figures.static_power:
        raise ConfigError(f"{path}: device.{name}: static_power lacks the state {ON!r}")
    for point in figures.points:
        most = max(point.saturated.dynamic_joules, point.half_load.dynamic_joules)
        if point.upper_joules < most:
            raise ConfigError(
                f"{path}: device.{name}: {point.model}/{point.variant} at {point.steps} steps: upper_joules "
                f"{point.upper_joules:g} is below the mean of {most:g}"
            )


def host_mark(machine_id: Path = Path("/etc/machine-id")) -> str:
    """Tell this host from others. The machine's identity itself is confidential: machine-id(5)."""
    try:
        identity = machine_id.read_bytes().strip()
    except OSError:
        identity = b"unknown"
    return hashlib.sha256(b"jouled calibration " + identity).hexdigest()[:32]


def save(path: Path, calibration: Calibration) -> None:
    """Write a calibration, whole or not at all. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with written.open("xb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        written.rename(path)
    finally:
        written.unlink(missing_ok=True)
