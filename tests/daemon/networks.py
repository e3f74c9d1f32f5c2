"""Small dense networks made up for the tests, as a repository holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hal.artifact import FORMAT, Artifact, Manifest, OperatingPoint, Origin, TensorSpec
from hal.device import Kind
from models import ir, onnx_export, writer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DIGITS = tuple(f"digit{digit}" for digit in range(10))


def write_dense(
    repository: Path,
    model: str,
    spec: TensorSpec,
    weight: NDArray[np.float32],
    *,
    version: str = "1",
    output: str = "scores",
    labels: tuple[str, ...] = DIGITS,
) -> Artifact:
    """Write a model of one layer, whose weight is (labels, values of the input)."""
    bias = np.zeros(len(labels), np.float32)
    channels, height, width = spec.shape if len(spec.shape) == 3 else (1, *spec.shape)
    network = onnx_export.dense_classifier(model, [(weight, bias)], (channels, height, width))
    manifest = Manifest(
        format=FORMAT,
        kind=Kind.DNN,
        input=spec,
        output=output,
        labels=labels,
        operating_points=(OperatingPoint(1.0),),
        origin=Origin(data="none", held_out="none", accuracy="by construction", command="none"),
        tool="test",
        files={},
        multiplies=weight.size,
    )
    folder = repository / model / version / "dnn"
    return writer.write(folder, manifest, ir.dnn_files(network.SerializeToString(deterministic=True)))


def write_tiny(repository: Path, version: str = "1") -> Artifact:
    """Write `tiny`, which takes 28 x 28 pixels and knows nothing: each version has other random weights."""
    weight = np.random.default_rng(int(version)).standard_normal((10, 28 * 28)).astype(np.float32)
    return write_dense(repository, "tiny", TensorSpec("image", "uint8", (28, 28)), weight, version=version)
