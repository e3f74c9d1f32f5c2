"""The network `tiny` that inference servers are compared with: one layer, 28 x 28 bytes to ten scores.

`scores = image.reshape(-1, 784) @ W / 255` with `W = default_rng(0).standard_normal((784, 10))`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hal.artifact import FORMAT, Manifest, OperatingPoint, Origin, TensorSpec
from hal.device import Kind
from models import ir, onnx_export, writer

if TYPE_CHECKING:
    from pathlib import Path

NAME, INPUT, OUTPUT = "tiny", onnx_export.INPUT, onnx_export.OUTPUT
SHAPE = (28, 28)
CLASSES = 10


def write(repository: Path) -> None:
    """Write the network into a repository."""
    weight = np.random.default_rng(0).standard_normal((784, CLASSES)).astype(np.float32)
    model = onnx_export.dense_classifier(NAME, [(weight.T, np.zeros(CLASSES, np.float32))], (1, *SHAPE))
    manifest = Manifest(
        format=FORMAT,
        kind=Kind.DNN,
        input=TensorSpec(INPUT, "uint8", SHAPE),
        output=OUTPUT,
        labels=tuple(str(number) for number in range(CLASSES)),
        operating_points=(OperatingPoint(1.0),),
        origin=Origin(data="none", held_out="none", accuracy="by construction", command="none"),
        tool="bench",
        files={},
        multiplies=weight.size,
    )
    writer.write(repository / NAME / "1" / "dnn", manifest, ir.dnn_files(model.SerializeToString(deterministic=True)))


def configuration(folder: Path) -> Path:
    """Write into a folder the network and the configuration of a daemon that serves it on the processor."""
    write(folder / "repository")
    file = folder / "jouled.toml"
    file.write_text(
        f'start_policy = "roomy"\nrepository = "{folder / "repository"}"\n'
        '[device.cpu]\ndriver = "cpu"\n'
        '[policy.roomy]\nstrategy = "accuracy"\nbudget_watts = 5000.0\n'
    )
    return file
