"""Fake /sys trees, and a clock that stands still until it is told."""

from __future__ import annotations

from pathlib import Path

MILLISECOND = 1_000_000
SECOND = 1_000_000_000


class Time:
    """A clock for tests."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        """Tell the time in nanoseconds."""
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * SECOND)


def write(folder: Path, **files: object) -> Path:
    """Write one file per keyword into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


def zone(sysfs: Path, number: str, name: str, microjoules: int = 0, *, wraps_at: object = 262_143_328_850) -> Path:
    """Make a RAPL zone; `number` is its folder's name without `intel-`, such as `rapl:0:1`."""
    folder = sysfs / "class" / "powercap" / f"intel-{number}"
    return write(folder, name=name, energy_uj=microjoules, max_energy_range_uj=wraps_at)


def chip(sysfs: Path, number: int, name: str, place: str, **files: object) -> Path:
    """Make the hwmon folder of a chip at a place such as `1-0040`."""
    device = sysfs / "devices" / place
    device.mkdir(parents=True, exist_ok=True)
    folder = write(sysfs / "class" / "hwmon" / f"hwmon{number}", name=name, **files)
    (folder / "device").symlink_to(device)
    return folder


def fails_with_eio(path: Path) -> None:
    """Replace a file by one that answers every read with an input/output error: address 0 of a process is unmapped."""
    path.unlink()
    path.symlink_to("/proc/self/mem")
