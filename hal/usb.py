"""Neural Compute Sticks on the USB as the kernel shows them, and how to reset one."""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

# A Myriad X before its firmware was uploaded, and after: then it enumerates anew.
MOVIDIUS, UNBOOTED, BOOTED = "03e7", "2485", "f63b"
# linux/usbdevice_fs.h: _IO('U', 20).
USBDEVFS_RESET = 0x5514
SYSFS, DEVICES = Path("/sys/bus/usb/devices"), Path("/dev/bus/usb")
PORT = re.compile(r"[1-9][0-9]*-[1-9][0-9]*(\.[1-9][0-9]*)*")


@dataclass(frozen=True)
class Stick:
    """A stick: its `port` path, such as `1-1.4` for port 4 of a hub at port 1 of bus 1, and its `node` below /dev."""

    port: str
    booted: bool
    node: Path

    @property
    def accessible(self) -> bool:
        """Tell whether this process may talk to it."""
        return os.access(self.node, os.R_OK | os.W_OK)


def sticks(sysfs: Path = SYSFS, devices: Path = DEVICES) -> list[Stick]:
    """List the sticks by their port."""
    found = []
    for entry in sorted(sysfs.glob("*-*")):
        if not PORT.fullmatch(entry.name):
            continue
        try:
            vendor, product, bus, number = (
                (entry / name).read_text().strip() for name in ("idVendor", "idProduct", "busnum", "devnum")
            )
        except OSError:
            continue  # It was unplugged meanwhile.
        if vendor == MOVIDIUS and product in (UNBOOTED, BOOTED):
            found.append(Stick(entry.name, product == BOOTED, devices / f"{int(bus):03d}" / f"{int(number):03d}"))
    return found


def reset(stick: Stick) -> None:
    """Let the kernel reset the stick, which forgets its firmware. Raises `OSError` where that is not permitted."""
    descriptor = os.open(stick.node, os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, USBDEVFS_RESET, 0)
    finally:
        os.close(descriptor)
