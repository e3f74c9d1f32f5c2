"""Both engines against recordings of Lava 0.10, and these against Lava itself where its runtime is installed.

Compared are spikes, u and v of every neuron at every step. Lava's processes are built by the driver of `loihi-lava`.
"""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from daemon.repository import SHIPPED, scan
from hal.device import Kind
from hal.snn import fast, reader, reference
from hal.snn.network import Accumulator, Lif
from tests.hal.ways import interpreter
from tests.snn import random_networks
from tests.snn.random_networks import Case

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hal.artifact import Artifact
    from hal.snn.network import Network

HERE = Path(__file__).parent
RECORDINGS = HERE.parent / "vectors" / "lava.npz"
SPIKING = range(1000, 1030)
SIGMA_DELTA = range(2000, 2010)
SUBTRACTING = range(1030, 1034)
# What runs live: 20 networks, among them some whose states reach their limits.
LIVE = {"spiking": range(1000, 1014), "sigma_delta": range(2000, 2006)}


@pytest.fixture(scope="module")
def recordings() -> Mapping[str, NDArray[Any]]:
    """Give what Lava computed."""
    with np.load(RECORDINGS) as file:
        return dict(file)


def delayed(network: Network) -> Network:
    """Give the network with the step that a synapse of Lava takes."""
    first, *others = network.layers
    layers = (first, *(dataclasses.replace(layer, delay=layer.delay + 1) for layer in others))
    return dataclasses.replace(network, layers=layers)


def assert_equal(traces: dict[str, reference.Trace], recordings: Mapping[str, NDArray[Any]], prefix: str) -> None:
    """Compare all that was recorded of a network."""
    names = [name for name in recordings if name.startswith(prefix)]
    assert len(names) >= 3 * len(traces) - 1
    for name in names:
        variable, layer = name.removeprefix(prefix).split("/")
        computed = getattr(traces[layer], variable)[:, 0]
        np.testing.assert_array_equal(computed, recordings[name], err_msg=name)


def traces_of(case: Case, engine: str) -> dict[str, reference.Trace]:
    """Run a network as Lava does, with one of the engines."""
    network = delayed(case.network)
    if engine == "fast":
        return fast.compile_network(network).run(case.bias, case.steps, trace=True).traces
    return reference.run(network, case.bias, case.steps, trace=True).traces


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("seed", SPIKING)
def test_a_spiking_network_equals_lava(seed: int, engine: str, recordings: Mapping[str, NDArray[Any]]) -> None:
    """Spikes, currents and voltages of 30 random networks are those that Lava computes."""
    case = random_networks.spiking(seed, lava=True)
    assert_equal(traces_of(case, engine), recordings, f"spiking/{seed}/")


@pytest.mark.parametrize("engine", ["reference", "fast"])
@pytest.mark.parametrize("seed", SIGMA_DELTA)
def test_a_sigma_delta_network_equals_lava(seed: int, engine: str, recordings: Mapping[str, NDArray[Any]]) -> None:
    """Graded spikes, sums and residues of random sigma-delta networks are those that Lava computes."""
    case = random_networks.sigma_delta(seed, lava=True)
    assert_equal(traces_of(case, engine), recordings, f"sigma_delta/{seed}/")


def test_the_recordings_reach_the_limits_of_the_state(recordings: Mapping[str, NDArray[Any]]) -> None:
    """Some voltages are clipped at 24 bits and some currents wrap: the recordings show what happens then."""
    voltages = [array for name, array in recordings.items() if name.startswith("spiking/") and "/v/" in name]
    currents = [array for name, array in recordings.items() if name.startswith("spiking/") and "/u/" in name]
    assert any(int(np.abs(array).max()) == (1 << 23) - 1 for array in voltages)
    assert any(int(np.abs(np.diff(array, axis=0)).max()) > 1 << 23 for array in currents)


def lava(path: Path, *names: object) -> dict[str, NDArray[Any]]:
    """Let Lava run these networks now, and give what it computes."""
    command = [interpreter("loihi"), HERE / "record_lava.py", path, *names]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    with np.load(path) as file:
        return dict(file)


def test_lava_computes_what_was_recorded(recordings: Mapping[str, NDArray[Any]], tmp_path: Path) -> None:
    """Lava, run now, gives the recordings of 20 networks bit for bit."""
    prefixes = [f"{family}/{seed}/" for family, seeds in LIVE.items() for seed in seeds]
    live = lava(tmp_path / "live.npz", *prefixes)
    assert set(live) == {name for name in recordings if name.startswith(tuple(prefixes))}
    for name, array in live.items():
        np.testing.assert_array_equal(array, recordings[name], err_msg=name)


def subtracting(case: Case) -> Case:
    """Let all neurons of a network keep what is above their threshold when they fire."""
    layers = [
        dataclasses.replace(layer, neuron=dataclasses.replace(layer.neuron, reset="subtract"))
        for layer in case.network.layers
        if isinstance(layer.neuron, Lif)
    ]
    return dataclasses.replace(case, network=dataclasses.replace(case.network, layers=tuple(layers)))


def shipped(found: Artifact) -> Case:
    """Give the network of an artifact, with a random picture, as long as its longest operating point."""
    network = reader.read_network(found)
    picture = np.random.default_rng(1).random((1, *network.layers[0].shape))
    steps = max(point.steps for point in found.manifest.operating_points)
    return Case(network, reference.encode(network.encoder, picture), steps)


def test_shipped_networks_and_reset_by_subtraction(tmp_path: Path) -> None:
    """The driver's processes fire as `loihi-sim` does: those of the shipped artifacts, and of neurons reset softly."""
    found = [each for each in scan(SHIPPED).artifacts if each.manifest.kind is Kind.SNN]
    assert found
    cases = {f"{each.model}-{each.version}-{each.variant}": shipped(each) for each in found}
    cases |= {f"subtracting-{seed}": subtracting(random_networks.spiking(seed, lava=True)) for seed in SUBTRACTING}
    files = [tmp_path / f"{name}.npz" for name in cases]
    for file, case in zip(files, cases.values(), strict=True):
        random_networks.save_case(case, file)
    live = lava(tmp_path / "live.npz", *files)
    for name, case in cases.items():
        traces = traces_of(case, "fast")
        summed = [layer.name for layer in case.network.layers if isinstance(layer.neuron, Accumulator)]
        assert_equal({layer: trace for layer, trace in traces.items() if layer not in summed}, live, f"{name}/")
