"""Which meters account for which devices: every joule once. What is left over only cross-checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Optional

from hal.device import Boundary
from hal.energy.hwmon import find_sensors
from hal.energy.meter import MeterBoundary, MeterError
from hal.energy.powercap import find_zones
from hal.names import near

if TYPE_CHECKING:
    from pathlib import Path

    from hal.energy.meter import Clock, Meter


class FrontierError(ValueError):
    """A frontier counts something twice or names what is not there: the message says which."""


class Found(NamedTuple):
    """A meter of this host, and why it cannot be read, if so."""

    meter: Meter
    problem: str = ""


class Account(NamedTuple):
    """Devices and the meters, by name, that together count their joules. Without meters, they are modelled."""

    devices: tuple[str, ...]
    meters: tuple[str, ...] = ()


class Choice(NamedTuple):
    """The frontier in force, the meters beside it, and a line for people about each decision."""

    accounts: tuple[Account, ...]
    cross_checks: tuple[str, ...]
    reasons: tuple[str, ...]


def detect(sysfs: Path, clock: Clock, *, sampling_nanoseconds: int) -> list[Found]:
    """Find all meters under `sysfs`, a /sys, and try each once."""
    meters: list[Meter] = [
        *find_zones(sysfs, clock, sampling_nanoseconds=sampling_nanoseconds),
        *find_sensors(sysfs, clock, sampling_nanoseconds=sampling_nanoseconds),
    ]
    return [_try(meter) for meter in meters]


def _try(meter: Meter) -> Found:
    try:
        meter.read()
    except MeterError as error:
        return Found(meter, error.detail)
    return Found(meter)


def choose(
    found: Sequence[Found], devices: Mapping[str, Boundary], frontier: Optional[Sequence[Account]] = None
) -> Choice:
    """Choose the meters that account for `devices`: those that `frontier` names, else those that speak for themselves.

    By themselves only the host's processors do: what a sensor on a board or in a USB line feeds, the operator must
    say. Devices that no meter accounts for are modelled. Raises `FrontierError`.
    """
    reasons: list[str] = []
    if frontier is None:
        frontier = _processors(found, devices, reasons)
    else:
        _check(found, devices, frontier)
        reasons += [f"{_list(account.devices)}: {_list(account.meters)}, as configured" for account in frontier]
    accounts = [account for account in frontier if account.devices]
    covered = {device for account in accounts for device in account.devices}
    for device in devices:
        if device not in covered:
            accounts.append(Account((device,)))
            reasons.append(f"{device}: modelled, no meter accounts for it")
    chosen = {meter for account in accounts for meter in account.meters}
    beside = [entry for entry in found if entry.meter.name not in chosen]
    reasons += [f"{entry.meter.name}: {_why_beside(entry, chosen)}" for entry in beside]
    return Choice(
        tuple(accounts), tuple(entry.meter.name for entry in beside if not entry.problem), tuple(reasons)
    )  # fmt: skip


def _processors(found: Sequence[Found], devices: Mapping[str, Boundary], reasons: list[str]) -> list[Account]:
    """Account for the host's own devices by its packages and memory, or by psys where no package can be read."""
    hosts = tuple(device for device, boundary in devices.items() if boundary is Boundary.HOST)
    top = [entry for entry in found if entry.meter.name.startswith("rapl:package") and _counts_apart(entry)]
    packages = [entry for entry in top if "/" not in entry.meter.name]
    platform = [entry for entry in found if entry.meter.name == "rapl:psys" and not entry.problem]
    broken = [entry for entry in packages if entry.problem]
    if not hosts:
        return []
    if packages and not broken:
        names = tuple(entry.meter.name for entry in top if not entry.problem)
        reasons.append(f"{_list(hosts)}: {_list(names)}, which count the processors and their memory once")
        return [Account(hosts, names)]
    if platform:
        reasons.append(f"{_list(hosts)}: rapl:psys, since {'a' if broken else 'no'} package cannot be read")
        return [Account(hosts, ("rapl:psys",))]
    return []


def _counts_apart(entry: Found) -> bool:
    """Tell whether nothing but psys counts the meter's joules too; the memory mapped duplicate does not matter."""
    return all(name.startswith(("rapl:psys", "rapl-mmio:")) for name in entry.meter.inside)


def _check(found: Sequence[Found], devices: Mapping[str, Boundary], frontier: Sequence[Account]) -> None:
    """Refuse a frontier that names something unknown or counts something twice."""
    meters = {entry.meter.name: entry for entry in found}
    named: list[str] = []
    for account in frontier:
        for device in account.devices:
            _known("device", device, devices)
            if [device in other.devices for other in frontier].count(True) > 1 or account.devices.count(device) > 1:
                raise FrontierError(f"device {device} is in two accounts: its joules would be counted twice")
        for name in account.meters:
            _known("meter", name, meters)
            if meters[name].problem:
                raise FrontierError(f"meter {name} cannot be read: {meters[name].problem}")
            if name in named:
                raise FrontierError(f"meter {name} is named twice: its joules would be counted twice")
            named.append(name)
    _check_apart(meters, named)


def _check_apart(meters: Mapping[str, Found], named: Sequence[str]) -> None:
    """Refuse two meters of which one counts the other's joules too."""
    for name in named:
        meter = meters[name].meter
        for other in named:
            if other in meter.inside:
                raise FrontierError(f"meter {other} counts the joules of {name} too")
        if meter.boundary is MeterBoundary.WALL and len(named) > 1:
            raise FrontierError(f"meter {name} stands at the wall and counts the joules of all others too")


def _known(kind: str, name: str, known: Mapping[str, object]) -> None:
    if name in known:
        return
    raise FrontierError(f"unknown {kind} {name!r}{near(name, known)}")


def _why_beside(entry: Found, chosen: set[str]) -> str:
    within = sorted(entry.meter.inside & chosen)
    if entry.problem:
        return f"not used, {entry.problem}"
    if within:
        return f"only cross-checks, {_list(tuple(within))} counts its joules too"
    if entry.meter.name.startswith("rapl"):
        return "only cross-checks, it counts joules of the chosen ones too, or of what is not on this frontier"
    return "only cross-checks, nothing says what it feeds: name it in an account"


def _list(names: Sequence[str]) -> str:
    return " + ".join(names) if names else "no meter (modelled)"
