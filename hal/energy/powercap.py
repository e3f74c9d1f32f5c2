"""RAPL, the energy counters of Intel and AMD processors, through /sys/class/powercap.

Layout and units: Linux, Documentation/power/powercap/powercap.rst. `intel-rapl:0` is a zone, `intel-rapl:0:1` a zone
within it, `name` says which: package-N, package-N-die-M, core, uncore, dram, psys. `intel-rapl-mmio` shows counters of
the package a second time. `energy_uj` is for root alone since CVE-2020-8694. RAPL never sees a USB device.

What contains what: psys counts the platform, with the packages in it and, depending on the board, the memory too; a
package counts its core and uncore, not its dram.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Optional

from hal.device import Provenance
from hal.energy.meter import NANOJOULES_PER_MICROJOULE, MeterBoundary, MeterError, Reading, read_integer, read_text

if TYPE_CHECKING:
    from pathlib import Path

    from hal.energy.meter import Clock

ZONE = re.compile(r"intel-rapl(?P<mmio>-mmio)?:(?P<zone>\d+)(?::(?P<part>\d+))?")
# Intel SDM vol. 3B, 16.10: the counters are updated about every millisecond.
SENSOR_NANOSECONDS = 1_000_000
# Twice the 500 W that the largest packages on sale are rated at.
WATTS_LIMIT = 1000.0
# An assumption: the vendors state no accuracy.
RELATIVE_UNCERTAINTY = 0.05


class RaplZone:
    """The energy counter of one zone."""

    provenance = Provenance.MEASURED
    watts_limit = WATTS_LIMIT
    relative_uncertainty = RELATIVE_UNCERTAINTY

    def __init__(self, name: str, folder: Path, clock: Clock, *, sampling_nanoseconds: int) -> None:
        self.name = name
        self.boundary = MeterBoundary.BOARD if name.startswith("rapl:psys") else MeterBoundary.CHIP
        self.update_nanoseconds = max(SENSOR_NANOSECONDS, sampling_nanoseconds)
        self.inside: frozenset[str] = frozenset()
        self._counter = folder / "energy_uj"
        self._clock = clock
        # Without its range a counter that wraps looks like one that was reset.
        self.range_nanojoules: Optional[int] = None
        try:
            wraps_at = read_integer(name, folder / "max_energy_range_uj")
        except MeterError:
            return
        if wraps_at > 0:
            self.range_nanojoules = wraps_at * NANOJOULES_PER_MICROJOULE

    def read(self) -> Reading:
        """Read the counter."""
        microjoules = read_integer(self.name, self._counter)
        return Reading(self._clock(), microjoules * NANOJOULES_PER_MICROJOULE)


def find_zones(sysfs: Path, clock: Clock, *, sampling_nanoseconds: int) -> list[RaplZone]:
    """List the zones under `sysfs`, a /sys, readable or not, each with the zones that count the same joules."""
    names: dict[str, Path] = {}
    for folder in sorted((sysfs / "class" / "powercap").glob("intel-rapl*:*"), key=_order):
        name = _name(folder)
        if name:
            names[f"{name}#{folder.name.split(':', 1)[1]}" if name in names else name] = folder
    zones = [RaplZone(name, path, clock, sampling_nanoseconds=sampling_nanoseconds) for name, path in names.items()]
    for zone in zones:
        zone.inside = frozenset(other for other in names if other != zone.name and _holds(other, zone.name))
    return zones


def _order(folder: Path) -> tuple[bool, list[int]]:
    """Sort the counters of the model-specific registers first, zones before their parts."""
    kind, _, numbers = folder.name.partition(":")
    return kind != "intel-rapl", [int(number) for number in numbers.split(":") if number.isdigit()]


def _name(folder: Path) -> str:
    """Name a zone by what it counts, since the numbers of zones may change, or give nothing for another folder."""
    match = ZONE.fullmatch(folder.name)
    if match is None:
        return ""
    try:
        own = read_text(folder.name, folder / "name")
        if match["part"] is not None:
            parent = folder.parent / folder.name.rpartition(":")[0]
            own = f"{read_text(folder.name, parent / 'name')}/{own}"
    except MeterError:
        return ""
    return f"rapl{match['mmio'] or ''}:{own}"


def _holds(other: str, zone: str) -> bool:
    """Tell whether the joules of `zone` are, or may be, among those of `other`."""
    other_kind, _, other_zone = other.partition(":")
    kind, _, own = zone.partition(":")
    if other_zone.startswith("psys"):
        return True
    if kind == other_kind:
        return own.startswith(f"{other_zone}/") and not own.endswith("/dram")
    return own == other_zone or (own.startswith(f"{other_zone}/") and not own.endswith("/dram"))
