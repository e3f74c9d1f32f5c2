"""A disk that is full or slow takes no answer away and keeps none waiting; how long they took is recorded."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from daemon.repository import SHIPPED
from protos import jouled_pb2 as pb
from tests.daemon.attacks import serving
from tests.daemon.networks import write_tiny
from tests.daemon.serving import CALL_SECONDS, Daemon, configuration, running
from tests.daemon.slow_disk import STALL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Record = Callable[[str, Any], None]

POLICIES = """
[policy.roomy]
strategy = "pin"
pin = "chip"
budget_watts = 1000.0
[policy.spare]
strategy = "pin"
pin = "chip"
budget_watts = 500.0
"""
# What loads on the processor does not keep what runs on the chip.
DEVICES = '[device.chip]\ndriver = "loihi-sim"\n[device.cpu]\ndriver = "cpu"\n'
DISK_BYTES = 4 << 20
OF_A_FULL_DISK = ["journal", "not in the journal"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Give a repository with two models."""
    shutil.copytree(SHIPPED / "digits", tmp_path / "repository" / "digits")
    write_tiny(tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """Leave no byte of a disk."""
    file = disk / "filler"
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    yield
    file.unlink()


def _change_all(daemon: Daemon) -> None:
    """Do what an operator does: switch the policy, take a model off, put it back."""
    daemon.set_policy("spare")
    daemon.control.UnloadModel(pb.UnloadModelRequest(name="tiny"), timeout=CALL_SECONDS)
    daemon.control.LoadModel(pb.LoadModelRequest(name="tiny"), timeout=CALL_SECONDS)
    daemon.set_policy("roomy")
    assert {device.health for device in daemon.control.Devices(pb.DevicesRequest(), timeout=CALL_SECONDS).devices} == {
        "up"
    }


def test_full_disk(repository: Path, disk: Path, image: NDArray[np.uint8], record_property: Record) -> None:
    """While the disk is full each answer says that it is not in the journal, and the operator's changes go on.

    Models that are new then are served as well. With room again, answers are in the journal again.
    """
    shutil.move(repository / "tiny", disk.parent / "new")
    config = configuration(POLICIES, start="roomy", devices=DEVICES, repository=repository)
    with running(config, state=disk / "state", may_log=OF_A_FULL_DISK) as daemon:
        assert daemon.classify(image).journaled
        assert daemon.status().journal_gaps == 0
        with _filled(disk), serving(daemon, image) as survived:
            while daemon.classify(image).journaled:
                pass
            shutil.move(disk.parent / "new", repository / "tiny")
            daemon.control.LoadModel(pb.LoadModelRequest(name="tiny"), timeout=CALL_SECONDS)
            _change_all(daemon)
            assert daemon.points("tiny") != []
        for name, value in survived.figures.items():
            record_property(name, value)
        assert survived.failures == []
        assert False in survived.journaled
        assert daemon.status().journal_gaps >= survived.journaled.count(False)
        assert daemon.classify(image).journaled


def test_slow_disk(repository: Path, image: NDArray[np.uint8], record_property: Record) -> None:
    """While each transaction of the journal waits for the disk no request does, nor what the operator changes."""
    config = configuration(POLICIES, start="roomy", devices=DEVICES, repository=repository)
    with running(config, program="tests.daemon.slow_disk") as daemon:
        assert daemon.status().policy == "roomy"
        with serving(daemon, image) as survived:
            began = time.monotonic()
            daemon.rows()
            assert time.monotonic() - began > STALL_SECONDS
            _change_all(daemon)
        for name, value in survived.figures.items():
            record_property(name, value)
        assert survived.failures == []
        assert all(survived.journaled)
        assert daemon.status().journal_gaps == 0
