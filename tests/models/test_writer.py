"""An artifact appears whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from hal import artifact
from hal.artifact import FORMAT, Manifest, OperatingPoint, Origin, TensorSpec
from hal.device import Kind
from hal.errors import ArtifactError
from hal.snn import reader
from hal.snn.network import Accumulator, Dense, Encoder, Layer, Lif, Network
from models import writer

if TYPE_CHECKING:
    from pathlib import Path

NAME_TOO_LONG = "x" * 300


def _manifest(accuracy: float = 0.5) -> Manifest:
    return Manifest(
        format=FORMAT,
        kind=Kind.SNN,
        input=TensorSpec("image", "uint8", (1, 2)),
        output="scores",
        labels=("no", "yes"),
        operating_points=(OperatingPoint(accuracy, steps=4),),
        origin=Origin(data="none", held_out="none", accuracy="invented", command="none"),
        tool="test",
        files={},
    )


def _network() -> Network:
    weight = np.array([[2, -4], [6, -256]], np.int16)
    bias = np.array([1, -1], np.int32).reshape(2, 1, 1)
    layers = (
        Layer("00-input", (1, 1, 2), Lif(100, reset="subtract", initial_voltage=3200)),
        Layer("01-dense", (2, 1, 1), Accumulator(), Dense(weight), bias),
    )
    return Network(Encoder(50.0, 50.5), layers)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_network_returns(tmp_path: Path) -> None:
    """A network that was written is read back as it was."""
    written = writer.write(tmp_path / "toy" / "1" / "snn", _manifest(), writer.snn_files(_network()))
    network = reader.read_network(artifact.read(tmp_path / "toy" / "1" / "snn"))
    expected, actual = _network().layers[1], network.layers[1]
    assert written.name == "toy/snn"
    assert network.encoder == _network().encoder
    assert network.layers[0] == _network().layers[0]
    assert isinstance(expected.synapse, Dense)
    assert isinstance(actual.synapse, Dense)
    np.testing.assert_array_equal(actual.synapse.weight, expected.synapse.weight)
    np.testing.assert_array_equal(actual.bias, expected.bias)


def test_same_bytes_for_the_same_content(tmp_path: Path) -> None:
    """Two writes of the same content differ in no byte, in whatever order the files come."""
    files = writer.snn_files(_network())
    writer.write(tmp_path / "toy" / "1" / "snn", _manifest(), files)
    writer.write(tmp_path / "toy" / "2" / "snn", _manifest(), dict(reversed(files.items())))
    first, second = _contents(tmp_path / "toy" / "1" / "snn"), _contents(tmp_path / "toy" / "2" / "snn")
    assert first == second
    assert first["manifest.json"].endswith(b"}\n")
    assert list(msgspec.json.decode(first["manifest.json"])["files"]) == sorted(files)


def test_existing_artifact_is_refused(tmp_path: Path) -> None:
    """What exists stays as it is."""
    folder = tmp_path / "toy" / "1" / "snn"
    writer.write(folder, _manifest(), writer.snn_files(_network()))
    before = _contents(folder)
    with pytest.raises(ArtifactError, match="toy/1/snn: exists already"):
        writer.write(folder, _manifest(0.75), writer.snn_files(_network()))
    assert _contents(folder) == before


def test_existing_artifact_is_replaced_on_demand(tmp_path: Path) -> None:
    """With `replace` the new artifact takes the place of the old one and nothing else stays."""
    folder = tmp_path / "toy" / "1" / "snn"
    writer.write(folder, _manifest(), writer.snn_files(_network()))
    written = writer.write(folder, _manifest(0.75), writer.snn_files(_network()), replace=True)
    assert written.manifest.operating_points[0].accuracy == 0.75
    assert [path.name for path in folder.parent.iterdir()] == ["snn"]


@pytest.mark.parametrize("replace", [False, True])
def test_failed_write_leaves_nothing(tmp_path: Path, replace: bool) -> None:
    """When the disk refuses one file, no part of the artifact is left, and an older one stays."""
    folder = tmp_path / "toy" / "1" / "snn"
    if replace:
        writer.write(folder, _manifest(), writer.snn_files(_network()))
    with pytest.raises(OSError, match="File name too long"):
        writer.write(folder, _manifest(0.75), {"a": b"a", NAME_TOO_LONG: b""}, replace=replace)
    assert [path.name for path in folder.parent.iterdir()] == (["snn"] if replace else [])
    assert not replace or artifact.read(folder).manifest.operating_points[0].accuracy == 0.5


def test_file_in_the_way_is_kept(tmp_path: Path) -> None:
    """A dangling link at the target counts as existing."""
    folder = tmp_path / "toy" / "1" / "snn"
    folder.parent.mkdir(parents=True)
    folder.symlink_to("nowhere")
    with pytest.raises(ArtifactError, match="exists already"):
        writer.write(folder, _manifest(), {})
    assert folder.is_symlink()


@pytest.mark.parametrize("path", ["Toy/1/snn", "toy/one/snn", "toy/0/snn", "toy/1/.snn"])
def test_names_that_reading_would_refuse(tmp_path: Path, path: str) -> None:
    """A folder that no reader would accept is not written."""
    with pytest.raises(ArtifactError, match="must be model/version/variant"):
        writer.write(tmp_path / path, _manifest(), {})
    assert list(tmp_path.iterdir()) == []


def test_manifest_that_reading_would_refuse(tmp_path: Path) -> None:
    """A manifest that no reader would accept is not written."""
    with pytest.raises(ArtifactError, match=r"<= 1\.0"):
        writer.write(tmp_path / "toy" / "1" / "snn", _manifest(1.5), {})
    with pytest.raises(ArtifactError, match="not a plain file name"):
        writer.write(tmp_path / "toy" / "1" / "snn", _manifest(), {"../escape": b""})
    assert list(tmp_path.iterdir()) == []
