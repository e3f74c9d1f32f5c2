"""Sticks are found in the kernel's tree of USB devices, and reset through their node."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from hal import usb
from hal.usb import Stick

if TYPE_CHECKING:
    from pathlib import Path


def plug(sysfs: Path, port: str, product: str, number: int, *, vendor: str = "03e7") -> None:
    """Put a device into the tree."""
    folder = sysfs / port
    folder.mkdir(parents=True)
    content = {"idVendor": vendor, "idProduct": product, "busnum": port.partition("-")[0], "devnum": str(number)}
    for name, value in content.items():
        (folder / name).write_text(f"{value}\n")


def test_sticks(tmp_path: Path) -> None:
    """Sticks are listed by port, before and after their firmware; hubs, interfaces and other devices are not."""
    sysfs, devices = tmp_path / "sys", tmp_path / "dev"
    plug(sysfs, "1-1.4", "2485", 7)
    plug(sysfs, "2-3", "f63b", 112)
    plug(sysfs, "1-2", "2485", 9, vendor="1d6b")
    plug(sysfs, "1-3", "2150", 10)
    plug(sysfs, "1-1.4:1.0", "2485", 7)
    (sysfs / "usb1").mkdir()
    (sysfs / "3-1").mkdir()
    assert usb.sticks(sysfs, devices) == [
        Stick("1-1.4", False, devices / "001" / "007"), Stick("2-3", True, devices / "002" / "112"),
    ]  # fmt: skip
    assert usb.sticks(tmp_path / "none") == []


def test_accessible(tmp_path: Path) -> None:
    """A stick without a node, or whose node is not for us, cannot be talked to."""
    assert not Stick("1-1", False, tmp_path / "missing").accessible
    node = tmp_path / "node"
    node.write_bytes(b"")
    assert Stick("1-1", False, node).accessible


def test_reset(tmp_path: Path) -> None:
    """A reset goes to the kernel: a plain file does not know it, and a missing node is told."""
    node = tmp_path / "node"
    with pytest.raises(FileNotFoundError):
        usb.reset(Stick("1-1", True, node))
    node.write_bytes(b"")
    with pytest.raises(OSError, match="Inappropriate ioctl") as caught:
        usb.reset(Stick("1-1", True, node))
    assert caught.value.errno == errno.ENOTTY
