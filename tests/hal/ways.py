"""The ways to open a device: every driver in this process where it can be, and behind a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from hal import runtimes
from hal.open import DRIVERS, RUNTIMES, open_device
from hal.remote import RemoteDevice

if TYPE_CHECKING:
    from hal.device import Device

IN_PROCESS = [driver for driver in DRIVERS if driver not in RUNTIMES]
IN_WORKER = " in a worker"
# What a vendor's library computes without the vendor's hardware.
VENDORS = ("loihi-lava", "ncs2-openvino-cpu")
WAYS = [driver + place for driver in IN_PROCESS for place in ("", IN_WORKER)] + [each + IN_WORKER for each in VENDORS]
# Generous, since it is the host that is slow when it passes.
WORKER_SECONDS = 30.0


def open_way(way: str, name: str, time_limit_seconds: float = 1.0) -> Device:
    """Open a device in one of these ways; a vendor's driver runs under its runtime, and the test skips without it."""
    driver = way.removesuffix(IN_WORKER)
    options: dict[str, Any] = {"threads": 1, "core_watts": 8.0, "time_limit_seconds": time_limit_seconds}
    if driver == way:
        return open_device(driver, name, **options)
    options["time_limit_seconds"] = WORKER_SECONDS
    if driver in RUNTIMES:
        options["python"] = interpreter(RUNTIMES[driver])
    return RemoteDevice(driver, name, say=print, **options)


def interpreter(name: str) -> str:
    """Give the interpreter of a vendor's runtime; the test skips where it is not installed."""
    runtime, directory = runtimes.RUNTIMES[name], runtimes.default_directory()
    if not runtime.installed(directory):
        pytest.skip(f"the runtime {name} is not installed; make runtimes does it")
    return str(runtime.interpreter(directory))
