"""The driver `loihi` up to the board: what is missing is said, and with a stand-in for Intel's extension it runs.

Lava's own `Loihi2HwCfg` takes its models for the CPU where there are none for the chip, so all of the driver runs here
but the chip. The stand-in has the names of the extension that the driver uses, and fixed powers.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from daemon.repository import SHIPPED, scan
from hal.device import Provenance
from hal.errors import ArtifactError, DeviceUnavailable, Reason
from hal.loihi_sim import LoihiSim
from hal.remote import RemoteDevice
from hal.snn.network import Accumulator, Lif
from tests.hal.test_loihi import write
from tests.hal.ways import WORKER_SECONDS, interpreter
from tests.hal.workers import program
from tests.snn import random_networks

if TYPE_CHECKING:
    from pathlib import Path

    from hal.artifact import Artifact

PROBE = """
import numpy as np

class Loihi2Power:
    def __init__(self, num_steps):
        self.total_power = np.full(3, 1.75)
        self.static_total_power = 1.5
"""
TOTAL_WATTS, STATIC_WATTS = 1.75, 1.5
# What Lava itself imports of the extension: the kinds of models that run on the chip, of which there are none here.
KINDS = {"c": "class CLoihiProcessModel:\n    pass\n", "nc": "class AbstractNcProcessModel:\n    pass\n"}


def board(folder: Path, extension: str | None, *, host: str = "", **options: Any) -> RemoteDevice:
    """Open `loihi` with a module in the place of Intel's extension, or without one."""
    if extension is not None:
        modules = {f"magma/core/model/{kind}/model.py": content for kind, content in KINDS.items()}
        for name, content in {**modules, "utils/loihi2_profiler.py": extension}.items():
            module = folder / "lava" / name
            module.parent.mkdir(parents=True)
            module.write_text(content)
    environment = f"env PATH={folder} PYTHONPATH={folder} {f'NXSDKHOST={host}' if host else ''}"
    # The first argument keeps an interpreter from looking at PYTHONPATH.
    python = program(folder, f'shift; exec /usr/bin/{environment} {interpreter("loihi")} "$@"')
    return RemoteDevice(
        "loihi",
        "board",
        python=python,
        say=print,
        threads=1,
        core_watts=1.0,
        time_limit_seconds=WORKER_SECONDS,
        **options,
    )


@pytest.mark.parametrize(
    ("extension", "options", "reason", "words"),
    [
        (None, {}, Reason.NO_RUNTIME, "no module lava.utils.loihi2_profiler"),
        (PROBE, {}, Reason.NOT_FOUND, "neither a partition nor a board is configured"),
        (PROBE, {"partition": "nahuku08"}, Reason.NOT_FOUND, "sinfo"),
        (PROBE, {"board": "ncl-og-05"}, Reason.NOT_FOUND, "sinfo"),
    ],
)
def test_what_is_missing(
    tmp_path: Path, extension: str | None, options: dict[str, str], reason: Reason, words: str
) -> None:
    """Without the extension, a choice of a board, or the cluster that it is in, that is what the refusal says."""
    with pytest.raises(DeviceUnavailable, match=words) as caught:
        board(tmp_path, extension, **options)
    assert caught.value.reason is reason


def chip_network(folder: Path) -> Artifact:
    """Make an artifact that a chip can run: reset to zero, and a last layer that sums."""
    for seed in range(300, 400):
        case = random_networks.spiking(seed)
        layers = [
            dataclasses.replace(layer, neuron=dataclasses.replace(layer.neuron, reset="zero"))
            if isinstance(layer.neuron, Lif)
            else layer
            for layer in case.network.layers
        ]
        network = dataclasses.replace(case.network, layers=tuple(layers))
        if isinstance(layers[-1].neuron, Accumulator) and not any(layer.delay for layer in layers):
            return write(network, case.steps, 20, folder)
    raise AssertionError("no such network was drawn")


@pytest.mark.parametrize("extension", [PROBE, ""], ids=["probe", "no probe"])
def test_on_the_stand_in(tmp_path: Path, extension: str) -> None:
    """Scores are those of the simulator, seconds are measured, and joules are the probe's or else the manifest's."""
    found = chip_network(tmp_path / "models")
    images = np.random.default_rng(7).random((2, *found.manifest.input.shape)).astype(np.float32)
    device = board(tmp_path, extension, host="127.0.0.1")
    assert not device.simulated
    assert device.provenance is (Provenance.MEASURED if extension else Provenance.MODELLED)
    actual, expected = device.load(found), LoihiSim("sim", pause=lambda _: None).load(found)
    for point in found.manifest.operating_points:
        there, here = (each(images, point.steps, point.margin) for each in (actual, expected))
        np.testing.assert_array_equal(there.scores, here.scores)
        assert there.steps == here.steps
        assert there.simulation_seconds == 0
        cost = actual.cost(point.steps, point.margin)
        assert cost.dynamic_joules < cost.upper_joules
        if extension:
            assert there.dynamic_joules == pytest.approx((TOTAL_WATTS - STATIC_WATTS) * there.seconds)
            assert device.static_watts() == STATIC_WATTS
            assert cost.upper_joules == pytest.approx((TOTAL_WATTS - STATIC_WATTS) * WORKER_SECONDS)
        else:
            assert there.dynamic_joules == 2 * expected.cost(point.steps, point.margin).dynamic_joules
    device.close()


def test_what_the_chip_refuses(tmp_path: Path) -> None:
    """The shipped networks are reset by subtraction, which the chip's neurons are not."""
    device = board(tmp_path, PROBE, host="127.0.0.1")
    found = next(each for each in scan(SHIPPED).artifacts if each.name == "digits/snn")
    with pytest.raises(ArtifactError, match="digits/snn, 00-input: the chip's neurons are reset to zero"):
        device.load(found)
    device.close()
