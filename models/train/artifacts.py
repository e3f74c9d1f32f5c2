"""Make the zoo's artifacts of a trained network.

`python -m models.train.artifacts mnist --network mnist.onnx --spiking mnist-spiking.onnx --data DIR` writes the dense
and the spiking form, measured on the held-out images by the daemon's own engines.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hal.artifact import Energy
from hal.device import Kind
from hal.energy import ncs2
from hal.errors import ArtifactError
from models import calibrate, compiler, convert, measure, spiking, writer
from models.compiler import Options
from models.data import asl_digits, folder
from models.data.calibration import Calibration
from models.errors import ConversionError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hal.artifact import Artifact, Manifest

# A repository of its own: all of these together exceed the cores of the one chip that a default daemon simulates.
ZOO = Path(__file__).parent.parent / "trained"
SEED = 0
COMMAND = "python -m models.train.artifacts"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the zoo: how its data are split, the steps it is calibrated for, and its classes."""

    split: Callable[[Path], Calibration]
    steps: int
    labels: tuple[str, ...] = ()
    compact: bool = False


def _test_split(data: Path) -> Calibration:
    training, held_out = folder.load(data, "train"), folder.load(data, "test")
    return Calibration(
        training, held_out, f"{data.resolve().name}, {len(training)} training images",
        f"the {len(held_out)} images of the data set's test split, not used to choose a setting",
    )  # fmt: skip


def _by_signer(data: Path) -> Calibration:
    training, held_out = asl_digits.by_signer(data)
    signers = ", ".join(str(signer) for signer in np.unique(held_out.signer if held_out.signer is not None else []))
    return Calibration(
        training, held_out, f"Sign Language Digits Dataset, {len(training)} photographs",
        f"the {len(held_out)} photographs of the signers {signers}",
    )  # fmt: skip


ENTRIES = {
    "mnist": Entry(_test_split, steps=8),
    "asl-digits": Entry(_by_signer, steps=16),
    "cifar10": Entry(_test_split, steps=16, compact=True),
}


def make(
    name: str,
    network: Path,
    spiking_network: Path | None,
    data: Path,
    out: Path,
    training: str,
    *,
    replace: bool = False,
) -> list[Artifact]:
    """Compile what training wrote and write `out`/NAME/1/dnn and .../snn. `training` says how it was trained.

    A spiking network that has learned from its spikes is converted as it is. Without one the dense network is, with
    the calibration that agrees best with it on the calibration images.
    """
    entry = ENTRIES[name]
    learned = f" --spiking {spiking_network.name}" if spiking_network else ""
    options = Options(
        steps=entry.steps, labels=entry.labels, compact=entry.compact,
        command=f"{COMMAND} {name} --network {network.name}{learned} --data DIR",
    )  # fmt: skip
    split = entry.split(data)
    chain = compiler.read_chain(network, options)
    chosen = np.random.default_rng(SEED).permutation(len(split.training))[: options.images]
    values = split.training.take(np.sort(chosen)).pictures().astype(np.float32)
    compiled = compiler.compile_chain(chain, values, split, options)
    if spiking_network is None:
        subject, spikes = compiled.subject, compiled.spiking
    else:
        subject = spiking.prepare(compiler.read_chain(spiking_network, options), values)
        settings = calibrate.percentiles(subject.without_max, subject.given, options.percentile)
        spikes = convert.convert(subject.without_max, settings)
    print(f"the spiking network {compiler.capacity(spikes)}")
    forms = {
        compiler.DNN: compiled.variants[compiler.DNN],
        compiler.SNN: (
            compiler.spiking_manifest(compiled.variants[compiler.SNN][0], spikes, subject, split.held_out, options),
            writer.snn_files(spikes),
        ),
    }
    version = compiler.model_folder(out, name)
    written = []
    for variant, (manifest, files) in forms.items():
        origin = msgspec.structs.replace(manifest.origin, training=training)
        card = msgspec.structs.replace(manifest, origin=origin, energy=_energy(manifest))
        written.append(writer.write(version / variant, card, files, replace=replace))
    return written


def _energy(manifest: Manifest) -> tuple[Energy, ...]:
    """Price an image on the simulated device of the artifact's kind, at every operating point."""
    if manifest.kind is Kind.DNN:
        return (Energy("ncs2-sim", ncs2.dynamic_joules(ncs2.seconds(manifest.multiplies))),)
    return tuple(
        Energy("loihi-sim", measure.joules(point), point.steps, point.margin) for point in manifest.operating_points
    )


def main() -> None:
    """Write the artifacts and print what was measured."""
    parser = argparse.ArgumentParser(description="Make the artifacts of a trained network of the zoo.")
    parser.add_argument("model", choices=list(ENTRIES))
    parser.add_argument("--network", type=Path, required=True, help="the ONNX file that training wrote")
    parser.add_argument("--spiking", type=Path, help="the one of the network that learned from its spikes")
    parser.add_argument("--data", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--out", type=Path, default=ZOO, help="the repository to write into (default: %(default)s)")
    parser.add_argument("--training", default="", help="for the manifest: the command that trained it, and its time")
    parser.add_argument("--replace", action="store_true", help="replace artifacts that exist")
    arguments = parser.parse_args()
    try:
        written = make(
            arguments.model, arguments.network, arguments.spiking, arguments.data, arguments.out, arguments.training,
            replace=arguments.replace,
        )  # fmt: skip
    except (ArtifactError, ConversionError, DataError) as error:
        parser.error(str(error))
    for artifact in written:
        for point in artifact.manifest.operating_points:
            print(f"{artifact.name} steps {point.steps} margin {point.margin}: accuracy {point.accuracy:.4f}")


if __name__ == "__main__":
    main()
