"""Open a device as the configuration says: in this process or in a worker, under the interpreter that it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from daemon.config import DeviceConfig
from hal import runtimes
from hal.errors import DeviceUnavailable, Reason
from hal.open import RUNTIMES, open_device
from hal.remote import RemoteDevice

if TYPE_CHECKING:
    from hal.device import Device


def open_configured(name: str, config: DeviceConfig, say: Callable[[str], None]) -> Device:
    """Open the device; `say` gets the lines that its worker writes, from a thread. Raises `HalError`."""
    options: dict[str, Any] = {
        "threads": config.threads, "core_watts": config.core_watts, "time_limit_seconds": config.time_limit_seconds,
        "partition": config.partition, "board": config.board, "usb_port": config.usb_port,
    }  # fmt: skip
    if not (config.worker or config.driver in RUNTIMES):
        return open_device(config.driver, name, **options)
    return RemoteDevice(config.driver, name, python=config.python or _interpreter(name, config), say=say, **options)


def _interpreter(name: str, config: DeviceConfig) -> str:
    """Give the interpreter of the driver's runtime, this one where it needs none."""
    if config.driver not in RUNTIMES:
        return sys.executable
    runtime, directory = runtimes.RUNTIMES[RUNTIMES[config.driver]], runtimes.default_directory()
    if not runtime.installed(directory):
        hint = f"run jouled runtime install {runtime.name}"
        raise DeviceUnavailable(name, Reason.NO_RUNTIME, f"{runtime.folder(directory)} is not there; {hint}")
    return str(runtime.interpreter(directory))
