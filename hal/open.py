"""Open a device by the name of its driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hal.device import Boundary, Provenance
from hal.names import near

if TYPE_CHECKING:
    from hal.device import Device

DRIVERS = ("cpu", "loihi", "loihi-lava", "loihi-sim", "ncs2", "ncs2-sim")
# Drivers of what they are called after; all others compute what it would.
HARDWARE = ("cpu", "loihi", "ncs2")
# Drivers of a vendor's library and the environment that holds it, of `hal.runtimes`: they run in a worker only.
RUNTIMES: dict[str, str] = {"loihi": "loihi", "loihi-lava": "loihi", "ncs2": "ncs2", "ncs2-openvino-cpu": "ncs2"}


def open_device(
    driver: str,
    name: str,
    *,
    threads: int,
    core_watts: float,
    time_limit_seconds: float,
    partition: str = "",
    board: str = "",
    usb_port: str = "",
) -> Device:
    """Open the device `name` with `driver`, one of `DRIVERS`.

    `threads` is for drivers that compute on the host; `core_watts` prices a second of a host core, for `cpu`;
    `time_limit_seconds` bounds a run, for `cpu`, `loihi` and `ncs2`; `partition` and `board` choose a Loihi board, and
    `usb_port` a stick. Raises `ValueError` for an unknown driver, `DeviceUnavailable` when the hardware or its runtime
    is not there.
    """
    if driver == "cpu":
        from hal.cpu import Cpu

        return Cpu(name, threads=threads, core_watts=core_watts, time_limit_seconds=time_limit_seconds)
    if driver == "ncs2-sim":
        from hal.ncs2_sim import Ncs2Sim

        return Ncs2Sim(name, threads=threads)
    if driver == "loihi-sim":
        from hal.loihi_sim import LoihiSim

        return LoihiSim(name)
    if driver in ("loihi", "loihi-lava"):
        from hal.loihi import Loihi

        return Loihi(
            name, silicon=driver == "loihi", time_limit_seconds=time_limit_seconds, partition=partition, board=board
        )
    if driver in ("ncs2", "ncs2-openvino-cpu"):
        from hal.ncs2 import CPU, MYRIAD, Ncs2

        plugin = MYRIAD if driver == "ncs2" else CPU
        return Ncs2(name, plugin=plugin, usb_port=usb_port, time_limit_seconds=time_limit_seconds)
    raise ValueError(f"unknown driver {driver!r}{near(driver, DRIVERS)}")


def simulated_by(driver: str) -> bool:
    """Tell whether a driver's devices stand in for hardware, before one is opened."""
    return driver not in HARDWARE


def boundary_of(driver: str) -> Boundary:
    """Tell what the joules of a driver's devices cover, before one is opened."""
    return Boundary.HOST if driver == "cpu" else Boundary.ACCELERATOR


def model_provenance_of(driver: str) -> Provenance:
    """Tell what the figures of a driver's model are called, before a device is opened."""
    return Provenance.SIMULATED if simulated_by(driver) else Provenance.MODELLED
