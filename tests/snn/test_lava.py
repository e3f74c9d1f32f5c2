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

from hal.snn import fast, reference
from tests.snn import random_networks
from tests.snn.random_networks import Case

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from hal.snn.network import Network

HERE = Path(__file__).parent
RECORDINGS = HERE.parent / "vectors" / "lava.npz"
SPIKING = range(1000, 1030)
SIGMA_DELTA = range(2000, 2010)
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


def test_lava_computes_what_was_recorded(
    recordings: Mapping[str, NDArray[Any]], loihi_python: Path, tmp_path: Path
) -> None:
    """Lava, run now, gives the recordings of 20 networks bit for bit."""
    path = tmp_path / "lava.npz"
    prefixes = [f"{family}/{seed}/" for family, seeds in LIVE.items() for seed in seeds]
    subprocess.run([loihi_python, HERE / "record_lava.py", path, *prefixes], check=True, capture_output=True)
    with np.load(path) as live:
        expected = {name for name in recordings if name.startswith(tuple(prefixes))}
        assert set(live.files) == expected
        for name in live.files:
            np.testing.assert_array_equal(live[name], recordings[name], err_msg=name)
