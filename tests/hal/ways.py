"""The ways to open a device: every driver in this process where it can be, and behind a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hal.open import DRIVERS, RUNTIMES, open_device
from hal.remote import RemoteDevice

if TYPE_CHECKING:
    from hal.device import Device

IN_PROCESS = [driver for driver in DRIVERS if driver not in RUNTIMES]
IN_WORKER = " in a worker"
WAYS = [driver + place for driver in IN_PROCESS for place in ("", IN_WORKER)]
# Generous, since it is the host that is slow when it passes.
WORKER_SECONDS = 30.0


def open_way(way: str, name: str, time_limit_seconds: float = 1.0) -> Device:
    """Open a device in one of these ways; a vendor's driver runs under its runtime."""
    driver = way.removesuffix(IN_WORKER)
    options: dict[str, Any] = {"threads": 1, "core_watts": 8.0, "time_limit_seconds": time_limit_seconds}
    if driver == way:
        return open_device(driver, name, **options)
    return RemoteDevice(driver, name, say=print, **{**options, "time_limit_seconds": WORKER_SECONDS})
