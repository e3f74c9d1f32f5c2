"""`loihi-lava` behind its worker against `loihi-sim`, live: the same scores, steps, joules and seconds."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest

from daemon.repository import SHIPPED, scan
from hal.artifact import FORMAT, Manifest, OperatingPoint, Origin, TensorSpec
from hal.device import Kind
from hal.errors import ArtifactError
from hal.loihi_sim import LoihiSim
from hal.remote import RemoteDevice
from models import writer
from tests.hal.ways import open_way
from tests.snn import random_networks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from hal.artifact import Artifact
    from hal.device import Device
    from hal.snn.network import Network

SHARED_MEMORY = "/dev/shm/psm_"  # noqa: S108 (where Linux and Python keep it)
IMAGES = 4
# Of these, 20 are compared; what Lava cannot run is passed over.
SPIKING, SIGMA_DELTA = (range(100, 160), 14), (range(200, 230), 6)


@pytest.fixture(scope="module")
def lava() -> Iterator[Device]:
    """Give a worker that runs Lava."""
    device = open_way("loihi-lava in a worker", "lava")
    yield device
    device.close()


def write(network: Network, steps: int, margin: int, folder: Path) -> Artifact:
    """Make an artifact of a network, with two operating points."""
    manifest = Manifest(
        format=FORMAT, kind=Kind.SNN, input=TensorSpec("image", "float32", network.layers[0].shape), output="scores",
        labels=tuple(str(index) for index in range(network.classes)),
        operating_points=(OperatingPoint(0.0, steps), OperatingPoint(0.0, steps, margin)),
        origin=Origin("none", "none", "none", "none"), tool="tests", files={},
    )  # fmt: skip
    return writer.write(folder / "random" / "1" / "snn", manifest, writer.snn_files(network))


def assert_same(found: Artifact, images: NDArray[np.generic], lava: Device) -> None:
    """Compare scores, steps, joules and seconds at every operating point; the last two tell the events."""
    simulator = LoihiSim("sim", pause=lambda _: None)
    expected, actual = simulator.load(found), lava.load(found)
    try:
        assert lava.static_watts() == simulator.static_watts()
        for point in found.manifest.operating_points:
            assert actual.cost(point.steps, point.margin) == expected.cost(point.steps, point.margin)
            here, there = (program(images, point.steps, point.margin) for program in (expected, actual))
            np.testing.assert_array_equal(there.scores, here.scores)
            assert there.steps == here.steps
            assert (there.dynamic_joules, there.seconds) == (here.dynamic_joules, here.seconds)
    finally:
        lava.unload(found)


def test_shipped_networks(lava: Device) -> None:
    """Every shipped spiking artifact gives what it gives on `loihi-sim`, with early exit and without."""
    artifacts = [found for found in scan(SHIPPED).artifacts if found.manifest.kind is Kind.SNN]
    assert artifacts
    for found in artifacts:
        spec = found.manifest.input
        noise = np.random.default_rng(1).random((IMAGES, *spec.shape))
        images = (255 * noise).astype(np.uint8) if spec.dtype == "uint8" else noise.astype(np.float32)
        assert_same(found, images, lava)


@pytest.mark.parametrize(("family", "seeds", "count"), [("spiking", *SPIKING), ("sigma_delta", *SIGMA_DELTA)])
def test_random_networks(lava: Device, tmp_path: Path, family: str, seeds: range, count: int) -> None:
    """So do 20 random networks, each with two images one after the other: every kind of layer, soft reset included."""
    compared, refusals = 0, set()
    for seed in seeds:
        case = getattr(random_networks, family)(seed)
        found = write(case.network, case.steps, 20, tmp_path / str(seed))
        images = np.random.default_rng(seed).random((2, *case.network.layers[0].shape)).astype(np.float32)
        try:
            assert_same(found, images, lava)
            compared += 1
        except ArtifactError as error:
            refusals.add(error.reason)
        if compared == count:
            break
    assert compared == count
    assert refusals <= {"Lava delays dense synapses only"}


@pytest.mark.parametrize("kill", [os.kill, os.killpg], ids=["worker", "group"])
def test_nothing_stays(kill: Callable[[int, int], None]) -> None:
    """When the worker is killed, none of the processes that Lava started stays, nor the memory that they shared."""
    device = open_way("loihi-lava in a worker", "victim")
    assert isinstance(device, RemoteDevice)
    device.load(next(each for each in scan(SHIPPED).artifacts if each.manifest.kind is Kind.SNN))
    worker = psutil.Process(device.pid)
    started = worker.children(recursive=True)
    assert len(started) > 4
    memory = {Path(mapped.path) for mapped in worker.memory_maps() if mapped.path.startswith(SHARED_MEMORY)}
    assert any(path.exists() for path in memory)
    kill(worker.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(started, timeout=20)
    assert alive == []
    assert not any(path.exists() for path in memory)
    device.close()
