"""From ONNX to artifacts: what is written is what its manifest claims, and bad input leaves nothing behind."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.external_data_helper
import pytest
from typer.testing import CliRunner

from daemon.cli.main import app
from hal import artifact, runtimes
from hal.device import Kind
from hal.loihi_sim import LoihiSim
from hal.ncs2_sim import Ncs2Sim
from hal.open import open_device
from models import compiler, ir, ncs2, onnx_export
from models.data import calibration
from models.errors import ConversionError, DataError
from models.onnx_file import read
from models.pooling import activations
from tests.models.networks import digits_network, model, node, write_digits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from hal.artifact import Artifact

VARIANTS = ("dnn", "dnn-int8", "snn")


def _no_pause(seconds: float) -> None:
    """Let a simulator answer at once."""


def _compile(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["compile", *map(str, arguments)])


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Artifact], Any]:
    """Compile a network with max pooling by the command, and give its artifacts and what it said."""
    folder = tmp_path_factory.mktemp("compiled")
    network, data = write_digits(folder)
    said = _compile(network, "--calibration", data, "--out", folder / "zoo", "--json", "--steps", "16")
    assert said.exit_code == 0, said.stderr
    place = folder / "zoo" / "digits" / "1"
    return {name: artifact.read(place / name) for name in VARIANTS}, json.loads(said.stdout)


def test_manifests(compiled: tuple[dict[str, Artifact], Any]) -> None:
    """All variants take the same image and give the same labels; what they are made for is said."""
    artifacts, said = compiled
    assert said["artifacts"] == [f"digits/1/{name}" for name in VARIANTS]
    for each in artifacts.values():
        manifest = each.manifest
        assert (manifest.input.dtype, manifest.input.shape) == ("uint8", (8, 8))
        assert manifest.labels == tuple("0123456789")
        assert "360 of 1797 images" in manifest.origin.held_out
    assert [artifacts[name].manifest.kind for name in VARIANTS] == [Kind.DNN, Kind.DNN, Kind.SNN]
    assert artifacts["dnn-int8"].manifest.drivers == ("cpu",)
    assert artifacts["dnn"].manifest.drivers == ()
    assert artifacts["dnn"].manifest.multiplies == 16 * 9 * 36 + 144 * 10
    exported = onnx.load_model_from_string(artifacts["dnn"].files["model.onnx"])
    assert exported.opset_import[0].version == 11
    assert not any(tensor.external_data for tensor in exported.graph.initializer)
    counts = [(point.steps, point.margin > 0) for point in artifacts["snn"].manifest.operating_points]
    assert counts[:6] == [(1, False), (2, False), (4, False), (8, False), (16, False), (32, False)]
    assert counts[6:]
    assert set(counts[6:]) == {(16, True)}


def test_accuracy(compiled: tuple[dict[str, Artifact], Any]) -> None:
    """The dense forms are accurate, eight bits cost little, and so do spikes and averages."""
    artifacts, said = compiled
    dense, int8 = (artifacts[name].manifest.operating_points[0].accuracy for name in ("dnn", "dnn-int8"))
    assert dense > 0.93
    assert int8 > dense - 0.01
    best = max(point.accuracy for point in artifacts["snn"].manifest.operating_points)
    assert best > dense - 0.025
    average = next(finding for finding in said["findings"] if "average instead of max" in finding["form"])
    assert average["remark"] == f"the replacement costs {100 * (dense - average['accuracy']):.2f} points"
    assert average["accuracy"] > dense - 0.025


def test_claims_are_true(compiled: tuple[dict[str, Artifact], Any], tmp_path: Path) -> None:
    """The daemon's devices reach the accuracy of every operating point."""
    artifacts, _ = compiled
    held_out = calibration.load(write_digits(tmp_path)[1], (1, 8, 8)).held_out
    pixels = held_out.pixels.reshape(-1, 8, 8)
    chip = LoihiSim("chip", pause=_no_pause).load(artifacts["snn"])
    for point in artifacts["snn"].manifest.operating_points:
        scores = chip(pixels, point.steps, point.margin).scores
        assert float(np.mean(scores.argmax(axis=1) == held_out.labels)) == point.accuracy
    cpu = open_device("cpu", "cpu", threads=1, core_watts=5.0, time_limit_seconds=1.0)
    for name in ("dnn", "dnn-int8"):
        scores = cpu.load(artifacts[name])(pixels, 1).scores
        claimed = artifacts[name].manifest.operating_points[0].accuracy
        assert float(np.mean(scores.argmax(axis=1) == held_out.labels)) == claimed
    stick = Ncs2Sim("stick", threads=1, pause=_no_pause).load(artifacts["dnn"])(pixels, 1).scores
    assert float(np.mean(stick.argmax(axis=1) == held_out.labels)) > 0.93


def test_old_runtime_gives_the_same_scores(compiled: tuple[dict[str, Artifact], Any]) -> None:
    """OpenVINO 2021.4 reads the ONNX and computes what today's release does; without it the NCS2 is unverified."""
    artifacts, _ = compiled
    directory = runtimes.default_directory()
    installed = runtimes.RUNTIMES["ncs2"].installed(directory)
    assert artifacts["dnn"].manifest.unverified == (() if installed else ("ncs2",))
    if not installed:
        pytest.skip("the runtime ncs2 is not installed; make runtimes does it")
    onnx_model = artifacts["dnn"].files["model.onnx"]
    values = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    scores = ir.run_onnx(onnx_model, values)[0]
    assert ncs2.verified(onnx_model, values, scores, directory)
    with pytest.raises(ConversionError, match=r"OpenVINO 2021\.4: gives other scores"):
        ncs2.verified(onnx_model, values, scores + 1, directory)
    with pytest.raises(ConversionError, match=r"OpenVINO 2021\.4: refuses the network"):
        ncs2.verified(b"no model", values, scores, directory)


def test_normalisation_of_the_picture(tmp_path: Path) -> None:
    """Mean and standard deviation of the training become part of the network."""
    network, _ = write_digits(tmp_path)
    plain = compiler.read_chain(network, compiler.Options())
    folded = compiler.read_chain(network, compiler.Options(mean=(0.25,), std=(0.5,)))
    values = np.random.default_rng(1).random((5, 1, 8, 8), np.float32)
    np.testing.assert_allclose(
        activations(folded, values)[-1], activations(plain, (values - 0.25) / 0.5)[-1], rtol=1e-4, atol=1e-4
    )


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    """Weights in a file beside the model, as PyTorch's exporter writes them, are embedded."""
    exported = onnx_export.export(digits_network())
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in exported.graph.initializer}
    onnx.save(exported, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    read_back = read(tmp_path / "net.onnx")
    assert not any(onnx.external_data_helper.uses_external_data(each) for each in read_back.graph.initializer)
    for each in read_back.graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(each), arrays[each.name])


def _external(folder: Path, location: str, *, offset: int = 0) -> None:
    exported = onnx_export.export(digits_network())
    onnx.save(exported, folder / "digits.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    moved = onnx.load(folder / "digits.onnx", load_external_data=False)
    (folder.parent / "outside.data").write_bytes((folder / "net.data").read_bytes())
    (folder / "link.data").symlink_to(folder.parent / "outside.data")
    for tensor in moved.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
            if entry.key == "offset" and offset:
                entry.value = str(offset)
    (folder / "digits.onnx").write_bytes(moved.SerializeToString())


def _overwrite(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)


def _data(folder: Path, **arrays: Any) -> None:
    np.savez(folder / "digits.npz", **arrays)


IMAGES, LABELS = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 10
BAD_INPUT: dict[str, tuple[Callable[[Path], object], str]] = {
    "corrupt": (lambda f: _overwrite(f, "digits.onnx", b"\xff" * 100), "digits.onnx: is no ONNX model: its bytes"),
    "empty": (lambda f: _overwrite(f, "digits.onnx", b""), "digits.onnx: is no ONNX model: it has no nodes"),
    "truncated": (
        lambda f: _overwrite(f, "digits.onnx", (f / "digits.onnx").read_bytes()[:-400]),
        "digits.onnx: is no ONNX model",
    ),
    "missing": (lambda f: (f / "digits.onnx").unlink(), "No such file or directory"),
    "data outside": (lambda f: _external(f, "../outside.data"), "outside the folder of the model"),
    "absolute data": (lambda f: _external(f, "/etc/hostname"), "outside the folder of the model"),
    "linked data": (lambda f: _external(f, "link.data"), "outside the folder of the model"),
    "no data": (lambda f: _external(f, "none.data"), "in 'none.data', which is not there"),
    "short data": (lambda f: _external(f, "net.data", offset=1 << 20), "its data are bytes 1048576 to"),
    "unknown extents": (
        lambda f: _overwrite(
            f,
            "digits.onnx",
            model(node("Conv", "x w", "y"), shape=(1, "height", 8), w=np.ones((3, 1, 3, 3), np.float32))
            .SerializeToString(),
        ),
        "x: extents height are not known; export with pictures of one size",
    ),
    "other size": (lambda f: _data(f, images=np.zeros((40, 9, 8), np.uint8), labels=LABELS), "images of 1 x 9 x 8"),
    "no labels": (lambda f: _data(f, images=IMAGES), "digits.npz: holds no array labels"),
    "fewer labels": (lambda f: _data(f, images=IMAGES, labels=LABELS[:30]), "digits.npz: 30 labels for 40 images"),
    "other labels": (
        lambda f: _data(f, images=IMAGES, labels=LABELS + 2),
        "labels: the network gives 10 scores, 12 classes are in the data set",
    ),
    "negative label": (lambda f: _data(f, images=IMAGES, labels=LABELS - 1), "digits.npz: labels from -1 to 8"),
    "floats as labels": (lambda f: _data(f, images=IMAGES, labels=LABELS / 2), "labels float64 of shape"),
    "too bright": (lambda f: _data(f, images=IMAGES + 2.0, labels=LABELS), "or floats from 0 to 1, are needed"),
    "no archive": (lambda f: _overwrite(f, "digits.npz", b"PK\x03\x04"), "digits.npz: is no .npz file"),
    "pickle": (lambda f: _data(f, images=np.array([{}], object), labels=LABELS), "digits.npz: is no .npz file"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_leaves_nothing_behind(tmp_path: Path, case: str) -> None:
    """Whatever is wrong is said in a sentence, with exit status 1, and no folder appears."""
    folder = tmp_path / "given"
    folder.mkdir()
    network, data = write_digits(folder)
    spoil, message = BAD_INPUT[case]
    spoil(folder)
    said = _compile(network, "--calibration", data, "--out", tmp_path / "zoo")
    assert (said.exit_code, said.stdout) == (1, "")
    assert message in said.stderr
    assert len(said.stderr.splitlines()) == 1
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--mean", "a"], 2, "--mean a: numbers separated by commas are needed"),
        (["--mean", "0.1,0.2"], 1, "mean and std: 2 and 1 numbers for pictures of 1 channels"),
        (["--mean", "0", "--std", "0"], 1, "mean and std: must be finite, and std above 0"),
        (["--labels", "a,b"], 1, "labels: the network gives 10 scores, 2 classes are given"),
    ],
)
def test_wrong_options(tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    """An option that does not fit the network is refused."""
    network, data = write_digits(tmp_path)
    said = _compile(network, "--calibration", data, "--out", tmp_path / "zoo", *arguments)
    assert said.exit_code == status
    assert message in said.stderr
    assert not (tmp_path / "zoo").exists()


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    """Where one variant exists, all are refused before the work begins."""
    network, data = write_digits(tmp_path)
    (tmp_path / "zoo" / "digits" / "1" / "snn").mkdir(parents=True)
    said = _compile(network, "--calibration", data, "--out", tmp_path / "zoo")
    assert said.exit_code == 1
    assert "digits/1/snn: exists already" in said.stderr
    assert [path.name for path in (tmp_path / "zoo" / "digits" / "1").iterdir()] == ["snn"]


def test_a_variant_that_cannot_be_written_takes_the_others_with_it(tmp_path: Path) -> None:
    """When the disk refuses the last variant, those before it go as well."""
    network, data = write_digits(tmp_path)
    results = compiler.compile_file(network, data, compiler.Options(images=64, steps=2))
    results.variants["snn"][1]["a" * 300] = b""
    with pytest.raises(OSError, match="too long"):
        compiler.write_variants(results.variants, tmp_path / "zoo" / "digits" / "1")
    assert [path.name for path in (tmp_path / "zoo").rglob("*")] == ["digits", "1"]


def test_names_of_folders(tmp_path: Path) -> None:
    """A repository gets the model's name and version 1; a folder that is a version is taken as it is."""
    assert compiler.model_folder(tmp_path, "My Net!") == tmp_path / "my-net" / "1"
    assert compiler.model_folder(tmp_path / "net" / "3", "other") == tmp_path / "net" / "3"


def test_data_set_folder(tmp_path: Path) -> None:
    """A folder's own test images are held out; those of another size or other colours are converted."""
    for prefix, count in (("train", 12), ("t10k", 6)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 7:21, 7:21] = 255
        header = np.array([2051, count, 28, 28], ">i4").tobytes()
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        labels = np.array([2049, count], ">i4").tobytes() + bytes(index % 10 for index in range(count))
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    found = calibration.load(tmp_path, (1, 14, 14))
    assert (len(found.training), len(found.held_out), found.held_out.shape) == (12, 6, (1, 14, 14))
    assert found.held_out.pixels[0, 0, 7, 7] == 255
    assert "6 images of the data set's test split" in found.held_out_note
    assert calibration.load(tmp_path, (3, 28, 28)).training.shape == (3, 28, 28)
    assert calibration.load(tmp_path, (784, 1, 1)).training.shape == (1, 28, 28)
    with pytest.raises(DataError, match="images of 1 x 28 x 28, the network takes 2 x 28 x 28"):
        calibration.load(tmp_path, (2, 28, 28))
