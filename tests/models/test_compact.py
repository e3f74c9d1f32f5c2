"""Dense artifacts with weights in 8 bits: ONNX alone, read by the host as its IR would be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx.external_data_helper
import pytest

from hal import artifact
from hal.artifact import Artifact, TensorSpec
from hal.dense import DenseNetwork
from hal.errors import ArtifactError
from models import ir, onnx_export, onnx_import
from models.chain import Pool
from tests.models.networks import random_chain

CHAIN = random_chain(3)
COMPACT = onnx_export.export(CHAIN, compact=True)
IMAGES = np.random.default_rng(4).integers(0, 256, (5, *CHAIN.shape), np.uint8)
ZOO = Path(artifact.__file__).parents[1] / "models" / "zoo"


def _artifact(files: dict[str, bytes]) -> Artifact:
    """Give an artifact of the chain with `files`, and else what the shipped digits have."""
    manifest = msgspec.structs.replace(
        artifact.read(ZOO / "digits" / "1" / "dnn").manifest,
        input=TensorSpec("image", "uint8", CHAIN.shape),
        labels=tuple(str(index) for index in range(CHAIN.classes)),
    )
    return Artifact("toy", "1", "dnn", "", manifest, files)


def test_onnx_alone_gives_the_scores_of_its_ir() -> None:
    """What is left out says nothing that the ONNX does not: scores agree to the rounding of floats."""
    content = COMPACT.SerializeToString(deterministic=True)
    compact, whole = ir.dnn_files(content, compact=True), ir.dnn_files(content)
    assert set(compact) == {"model.onnx"}
    without = {name: whole[name] for name in ("model.xml", "model.bin")}
    alone, beside = (DenseNetwork(_artifact(files), threads=1)(IMAGES) for files in (compact, without))
    np.testing.assert_allclose(alone, beside, rtol=1e-5, atol=1e-6)


def test_a_compact_network_can_be_converted_again() -> None:
    """The importer takes 8-bit weights with their scales back into floats, within half a step of the scale."""
    again = onnx_import.read(COMPACT)
    for stage, first in zip(again.stages, CHAIN.stages, strict=True):
        if isinstance(first.operation, Pool) or isinstance(stage.operation, Pool):
            assert type(first.operation) is type(stage.operation)
            continue
        weight = first.operation.weight
        steps = np.abs(weight).reshape(len(weight), -1).max(axis=1).reshape(-1, *[1] * (weight.ndim - 1)) / 127
        assert (np.abs(stage.operation.weight - weight) <= steps * 0.501).all()


def test_weights_outside_of_the_artifact_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ONNX that names a file for its weights is refused before OpenVINO reads that out of the working folder."""
    monkeypatch.chdir(tmp_path)
    outside = onnx.ModelProto()
    outside.CopyFrom(COMPACT)
    onnx.external_data_helper.convert_model_to_external_data(outside, location="secret", size_threshold=0)
    onnx.save(outside, tmp_path / "net.onnx")
    assert (tmp_path / "secret").stat().st_size > 0
    with pytest.raises(ArtifactError, match=r"model\.onnx must hold its weights itself; it has 'location' in it"):
        DenseNetwork(_artifact({"model.onnx": (tmp_path / "net.onnx").read_bytes()}), threads=1)


def test_an_artifact_without_a_network_is_refused() -> None:
    """Half an IR is none."""
    whole = ir.dnn_files(COMPACT.SerializeToString())
    with pytest.raises(ArtifactError, match=r"model\.xml and model\.bin, or model\.onnx, are needed"):
        DenseNetwork(_artifact({"model.xml": whole["model.xml"]}), threads=1)
