"""The ways to open a device: every driver in this process where it can be, and behind a worker."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from daemon.repository import SHIPPED
from hal import artifact, runtimes
from hal.open import DRIVERS, RUNTIMES, open_device
from hal.remote import RemoteDevice
from hal.snn.reader import STRUCTURE

if TYPE_CHECKING:
    from hal.artifact import Artifact
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


def shipped(device: Device) -> Artifact:
    """Give the shipped digits for a device; the chip has no reset by subtraction, so there it is one to zero."""
    found = artifact.read(SHIPPED / "digits" / "1" / device.kind.value)
    if device.driver != "loihi":
        return found
    structure = json.loads(found.files[STRUCTURE])
    for layer in structure["layers"]:
        if layer["neuron"]["kind"] == "lif":
            layer["neuron"]["reset"] = "zero"
    return replace(found, digest="reset to zero", files={**found.files, STRUCTURE: json.dumps(structure).encode()})


def interpreter(name: str) -> str:
    """Give the interpreter of a vendor's runtime; the test skips where it is not installed."""
    runtime, directory = runtimes.RUNTIMES[name], runtimes.default_directory()
    if not runtime.installed(directory):
        pytest.skip(f"the runtime {name} is not installed; make runtimes does it")
    return str(runtime.interpreter(directory))
