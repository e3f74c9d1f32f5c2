"""Train `digits` and write its two artifacts: `python -m models.train.digits [--out models/zoo] [--replace]`."""

from __future__ import annotations

import argparse
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hal import samples
from hal.artifact import FORMAT, Manifest, OperatingPoint, Origin, TensorSpec
from hal.device import Kind
from hal.errors import ArtifactError
from models import calibrate, convert, ir, measure, onnx_export, onnx_import, pooling, writer
from models.data import digits
from models.train import perceptron

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from hal.artifact import Artifact
    from hal.snn.network import Network
    from models.chain import Chain

ZOO = Path(__file__).parent.parent / "zoo"
SHAPE = (8, 8)
# Four-fold cross-validation within the training images: 128 hidden neurons reach 99.2 %, 256 reach 99.6 %.
HIDDEN = (256,)
SEED = 0
STEPS = (1, 2, 4, 8)
PERCENTILE = 99.5
# With early exit, the share of the training images that are to end after the first of LONGEST steps.
SHARES, LONGEST = (0.9, 0.7), 4


def train(images: digits.Part) -> onnx.ModelProto:
    """Train the dense network."""
    layers = perceptron.train(images.pictures().astype(np.float32), images.labels, HIDDEN, SEED)
    return onnx_export.dense_classifier("digits", layers, (1, *SHAPE))


def write(model: onnx.ModelProto, out: Path, *, replace: bool = False) -> tuple[Artifact, Artifact]:
    """Compile and convert the trained network, measure both forms and write `out`/digits/1/dnn and .../snn."""
    training, held_out = digits.load()
    dense = onnx_import.read(model)
    dnn_files = ir.dnn_files(model.SerializeToString(deterministic=True))
    values = held_out.pictures().astype(np.float32).reshape(-1, *dense.shape)
    point = OperatingPoint(measure.accuracy(ir.scores(dnn_files, values), held_out.labels))
    dnn = _manifest(Kind.DNN, (point,), "OpenVINO's CPU plugin in float32", dense.multiplies)
    network = convert_network(dense, training.pictures())
    margins = [measure.lead(network, training.pictures(), 1, share) for share in SHARES]
    ways = [(steps, 0) for steps in STEPS] + [(LONGEST, margin) for margin in margins]
    points = measure.snn_points(network, held_out.pictures(), held_out.labels, ways)
    snn = _manifest(Kind.SNN, points, "the reference engine, exact in Loihi's integers")
    version, pictures = out / "digits" / "1", {samples.SAMPLES: samples.pack(samples.spread(held_out.images))}
    return (
        writer.write(version / "dnn", dnn, {**dnn_files, **pictures}, replace=replace),
        writer.write(version / "snn", snn, {**writer.snn_files(network), **pictures}, replace=replace),
    )


def convert_network(dense: Chain, pictures: NDArray[np.float64]) -> Network:
    """Convert with nothing but normalisation, by `PERCENTILE` of the activations of the training pictures."""
    activations = pooling.activations(dense, pictures.astype(np.float32).reshape(-1, *dense.shape))
    return convert.convert(dense, calibrate.percentiles(dense, activations, PERCENTILE))


def _manifest(kind: Kind, points: tuple[OperatingPoint, ...], engine: str, multiplies: int = 0) -> Manifest:
    origin = Origin(
        data=digits.DATA,
        held_out=digits.HELD_OUT,
        accuracy=f"top-1 on the held-out images, measured with {engine}",
        command="python -m models.train.digits",
    )
    return Manifest(
        format=FORMAT,
        kind=kind,
        input=TensorSpec("image", "uint8", SHAPE),
        output="scores",
        labels=tuple("0123456789"),
        operating_points=points,
        origin=origin,
        tool=f"jouled {importlib.metadata.version('jouled')}",
        files={},
        multiplies=multiplies,
    )


def main() -> None:
    """Train and write, and print what was measured."""
    parser = argparse.ArgumentParser(description="Train the digits and write both artifacts.")
    parser.add_argument("--out", type=Path, default=ZOO, help="the repository to write into (default: %(default)s)")
    parser.add_argument("--replace", action="store_true", help="replace artifacts that exist")
    arguments = parser.parse_args()
    training, _ = digits.load()
    try:
        artifacts = write(train(training), arguments.out, replace=arguments.replace)
    except ArtifactError as error:
        parser.error(str(error))
    for artifact in artifacts:
        for point in artifact.manifest.operating_points:
            print(f"{artifact.name} steps {point.steps} margin {point.margin}: accuracy {point.accuracy:.4f}")


if __name__ == "__main__":
    main()
