"""What `jouled trace` writes: names, shapes, units, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from hal.errors import ArtifactError, CapacityError, InputError
from hal.snn import reference
from hal.snn.network import Accumulator, Conv, Dense, Encoder, Layer, Lif, Network
from models import importer, netx
from models.trace import trace, trace_network

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def network() -> Network:
    """Give a small network with a convolution and an output that sums."""
    rng = np.random.default_rng(1)
    kernel = (2 * rng.integers(-10, 15, (3, 2, 3, 3))).astype(np.int16)
    weight = (2 * rng.integers(-10, 12, (4, 3 * 2 * 3))).astype(np.int16)
    layers = (
        Layer("a", (2, 4, 5), Lif(30)),
        Layer("b", (3, 2, 3), Lif(20), Conv(kernel)),
        Layer("c", (4, 1, 1), Accumulator(), Dense(weight)),
    )
    return Network(Encoder(60.0, 40.0), layers)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_trace_names_layers_in_order(network: Network, engine: Any) -> None:
    """Layers are numbered and named by kind; arrays are (T, C, H, W), flat ones (T, N), and add up to the scores."""
    bias = np.random.default_rng(2).integers(0, 60, (2, 4, 5))
    arrays = trace_network(network, bias, 6, engine=engine)
    shapes = {"00-input": (6, 2, 4, 5), "01-conv": (6, 3, 2, 3), "02-dense": (6, 4)}
    assert {name: array.shape for name, array in arrays.items()} == {
        f"{variable}/{name}": shape for variable in ("spikes", "u", "v") for name, shape in shapes.items()
    }
    run = reference.run(network, bias[np.newaxis], 6)
    np.testing.assert_array_equal(arrays["u/02-dense"][-1], run.scores[0] * 64)
    np.testing.assert_array_equal(arrays["v/02-dense"], arrays["u/02-dense"])
    assert int(arrays["spikes/01-conv"].sum()) == run.layers[1].active_updates


def test_a_trace_without_delay_of_synapses(network: Network) -> None:
    """Index t of a later layer is what came of the input's step t."""
    kick = np.zeros((4, 2, 4, 5), np.int64)
    kick[0] = 60
    arrays = trace_network(network, kick, 4, engine="reference")
    assert arrays["spikes/00-input"][0].all()
    assert arrays["u/01-conv"][0].any()


def test_a_long_trace_is_refused(network: Network) -> None:
    """The steps are limited, and so are the values of a trace."""
    bias = np.zeros((2, 4, 5), np.int64)
    with pytest.raises(InputError, match="steps: 0 is outside 1 to 1024"):
        trace_network(network, bias, 0)
    wide = dataclasses.replace(network, layers=(Layer("a", (64, 64, 64), Lif(1)),))
    with pytest.raises(CapacityError, match="trace: 805306368 values exceed the limit of 134217728"):
        trace_network(wide, np.zeros((64, 64, 64), np.int64), 1024)


@pytest.fixture
def tinynet(vectors_folder: Path, tmp_path: Path) -> Path:
    """Give the artifact of tinynet."""
    importer.import_net(vectors_folder / "netx" / "tinynet" / "network.net", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_an_imported_file_is_traced(vectors_folder: Path, tinynet: Path, tmp_path: Path, engine: Any) -> None:
    """A file that is imported and traced with given currents fires as recorded."""
    vectors = vectors_folder / "netx" / "tinynet"
    np.save(tmp_path / "x.npy", np.load(vectors / "input_bias.npy").transpose(2, 1, 0))
    trace(tinynet, tmp_path / "x.npy", 15, tmp_path / "t.npz", engine=engine, bias=True)
    with np.load(tmp_path / "t.npz") as arrays:
        recorded = np.moveaxis(np.load(vectors / "output.npy")[0], -1, 0)[1:]
        np.testing.assert_array_equal(arrays["spikes/02-conv"], recorded)
        assert sorted(arrays)[:3] == ["spikes/00-input", "spikes/01-conv", "spikes/02-conv"]


def test_a_picture_is_encoded(vectors_folder: Path, tinynet: Path, tmp_path: Path) -> None:
    """A picture in [0, 1] becomes trunc(w (2 p - 1) + b) in the input layer."""
    picture = np.random.default_rng(3).random((3, 16, 16))
    np.save(tmp_path / "x.npy", picture)
    trace(tinynet, tmp_path / "x.npy", 3, tmp_path / "t.npz")
    network = netx.read(vectors_folder / "netx" / "tinynet" / "network.net")
    expected = trace_network(network, np.trunc(36 * (2 * picture - 1) + 34).astype(np.int64), 3)
    with np.load(tmp_path / "t.npz") as arrays:
        np.testing.assert_array_equal(arrays["v/00-input"], expected["v/00-input"])


@pytest.mark.parametrize(
    ("array", "bias", "reason"),
    [
        (np.zeros((3, 16, 15)), False, r"shape \(3, 16, 15\), the network takes \(3, 16, 16\)"),
        (np.full((3, 16, 16), 1.5), False, "picture: reaches from 1.5 to 1.5, the limit is 0 to 1"),
        (np.full((3, 16, 16), np.nan), False, "picture: reaches from nan to nan"),
        (np.full((3, 16, 16), 4096), True, "bias: reaches from 4096 to 4096, the limit is -4096 to 4095"),
        (np.full((3, 16, 16), 0.5), True, "bias: holds 0.5, whole numbers are needed"),
        (np.full((3, 16, 16), "x"), False, "an array of numbers is needed"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_refused(
    tinynet: Path, tmp_path: Path, array: NDArray[Any], bias: bool, reason: str
) -> None:  # fmt: skip
    """The error says what of the input is wrong, and nothing is written."""
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=reason):
        trace(tinynet, tmp_path / "x.npy", 4, tmp_path / "t.npz", bias=bias)
    assert not (tmp_path / "t.npz").exists()


def test_an_input_that_declares_too_much_is_refused(tinynet: Path, tmp_path: Path) -> None:
    """A header that declares 10^12 elements is refused before anything is allocated."""
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(InputError, match=r"x\.npy: "):
        trace(tinynet, tmp_path / "x.npy", 4, tmp_path / "t.npz")


def test_a_folder_without_artifact_is_refused(tmp_path: Path) -> None:
    """The error says how many artifacts were found."""
    np.save(tmp_path / "x.npy", np.zeros(1))
    with pytest.raises(ArtifactError, match="no artifact, and 0 in it"):
        trace(tmp_path, tmp_path / "x.npy", 4, tmp_path / "t.npz")


def test_an_imported_artifact_says_what_is_not_known(tinynet: Path) -> None:
    """The manifest of an import has the steps of the file, and an accuracy that nobody measured."""
    folder = tinynet / "tinynet" / "1" / "snn"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["input"] == {"name": "image", "dtype": "uint8", "shape": [3, 16, 16]}
    assert manifest["operating_points"][0]["steps"] == 64
    assert manifest["operating_points"][0]["accuracy"] == 0
    assert manifest["origin"]["accuracy"] == "not measured"
    assert len(manifest["labels"]) == 36


def test_the_name_of_an_import(vectors_folder: Path, tmp_path: Path) -> None:
    """A folder that reads model/version/variant is taken as it is; an artifact is never overwritten."""
    file = vectors_folder / "netx" / "mnist" / "network.net"
    made = importer.import_net(file, tmp_path / "digits" / "3" / "lava")
    assert (made.model, made.version, made.variant) == ("digits", "3", "lava")
    assert made.manifest.input.shape == (28, 28)
    with pytest.raises(ArtifactError, match="exists already"):
        importer.import_net(file, tmp_path / "digits" / "3" / "lava")
    with pytest.raises(ArtifactError, match="labels"):
        importer.import_net(file, tmp_path, labels=["one"])
