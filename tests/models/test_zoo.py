"""The committed networks that were trained with PyTorch: what their manifests claim of the held-out images is true."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hal import artifact
from hal.loihi_sim import LoihiSim
from hal.ncs2_sim import Ncs2Sim
from hal.open import open_device
from models.errors import DataError
from models.train import artifacts
from models.train.artifacts import ENTRIES

if TYPE_CHECKING:
    from hal.artifact import Artifact
    from hal.device import Device
    from models.data.images import Images

ZOO = Path(__file__).parents[2] / "models" / "trained"
ARTIFACT_BYTES_LIMIT = 3_000_000
# Every operating point, and all images of cifar10, take minutes: `make soak` sets this.
EVERY_IMAGE = bool(os.environ.get("JOULED_SOAK_SECONDS"))
SOME = 1000
NAMES = [name for name in ENTRIES if (ZOO / name).is_dir()]


def _no_pause(seconds: float) -> None:
    """Let a simulator answer at once."""


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Name a network."""
    return str(request.param)


@pytest.fixture(scope="module")
def held_out(name: str, data_folder: Path) -> Images:
    """Read the images on which the network was measured."""
    return ENTRIES[name].split(data_folder / name).held_out


def _accuracy(device: Device, of: Artifact, images: Images, steps: int, margin: int = 0) -> float:
    program = device.load(of)
    pixels = images.pixels.reshape(len(images), *of.manifest.input.shape)
    parts = [program(pixels[start : start + 64], steps, margin).scores for start in range(0, len(images), 64)]
    return float(np.mean(np.concatenate(parts).argmax(axis=1) == images.labels))


def _tolerance(count: int, whole: int, share: float) -> float:
    """Allow four standard deviations of a sample of the held-out images, and nothing for all of them."""
    return 0.0 if count == whole else 4 * float(np.sqrt(share * (1 - share) / count))


@pytest.mark.parametrize("variant", ["dnn", "snn"])
def test_cards_are_complete(name: str, variant: str) -> None:
    """An artifact is small and says what it was trained on, how, and what it was measured on."""
    found = artifact.read(ZOO / name / "1" / variant)
    assert sum(map(len, found.files.values())) < ARTIFACT_BYTES_LIMIT
    origin, manifest = found.manifest.origin, found.manifest
    assert "models.train." in origin.training
    assert all((origin.data, origin.held_out, origin.accuracy, origin.command))
    priced = {(energy.steps, energy.margin) for energy in manifest.energy}
    assert priced == {(point.steps, point.margin) for point in manifest.operating_points}
    assert len(manifest.labels) == 10


def test_dense_accuracy_is_the_claimed_one(name: str, held_out: Images) -> None:
    """The host CPU classifies the held-out images as well as the manifest says, and a stick's halves alike."""
    found = artifact.read(ZOO / name / "1" / "dnn")
    claimed = found.manifest.operating_points[0].accuracy
    cpu = open_device("cpu", "cpu", threads=1, core_watts=5.0, time_limit_seconds=1.0)
    assert _accuracy(cpu, found, held_out, 1) == pytest.approx(claimed, abs=2 / len(held_out))
    some = held_out.take(np.arange(min(SOME, len(held_out))))
    stick = _accuracy(Ncs2Sim("stick", threads=1, pause=_no_pause), found, some, 1)
    assert stick == pytest.approx(_accuracy(cpu, found, some, 1), abs=0.005)


def test_spiking_accuracy_is_the_claimed_one(name: str, held_out: Images) -> None:
    """The simulated chip has the manifest's accuracy, also with early exit."""
    found = artifact.read(ZOO / name / "1" / "snn")
    whole = len(held_out)
    if name == "cifar10" and not EVERY_IMAGE:
        held_out = held_out.take(np.arange(SOME))
    device = LoihiSim("loihi", pause=_no_pause)
    for point in found.manifest.operating_points:
        if point.steps != ENTRIES[name].steps and not EVERY_IMAGE:
            continue
        accuracy = _accuracy(device, found, held_out, point.steps, point.margin)
        assert accuracy == pytest.approx(point.accuracy, abs=_tolerance(len(held_out), whole, point.accuracy) + 1e-12)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    """A split that the data set does not have is named beside those that it has, and nothing is written."""
    network = ZOO / "asl-digits" / "1" / "dnn" / "model.onnx"
    with pytest.raises(DataError, match="asl-digits: has no split 'hand', only signer, random"):
        artifacts.make("asl-digits", network, None, tmp_path, tmp_path / "zoo", "", split="hand")
    assert not (tmp_path / "zoo").exists()
