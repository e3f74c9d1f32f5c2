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
from models import compiler, convert, measure, spiking, writer
from models.compiler import Options
from models.data import asl_digits, folder
from models.data.calibration import Calibration
from models.errors import ConversionError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hal.artifact import Artifact, Manifest

# A repository of its own: all of these together exceed the cores of the one chip that a default daemon simulates.
ZOO = Path(__file__).parent.parent / "trained"
COMMAND = "python -m models.train.artifacts"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the zoo: its splits, first the one it is shipped with, the steps it is calibrated for, its classes."""

    splits: Mapping[str, Callable[[Path], Calibration]]
    steps: int
    labels: tuple[str, ...] = ()
    compact: bool = False

    def split(self, data: Path) -> Calibration:
        """Split the data set's folder as for the model that is shipped."""
        return next(iter(self.splits.values()))(data)


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


def _at_random(data: Path) -> Calibration:
    training, held_out = asl_digits.at_random(data)
    return Calibration(
        training, held_out, f"Sign Language Digits Dataset, {len(training)} photographs",
        f"{len(held_out)} photographs at random, of signers who are in the training as well",
    )  # fmt: skip


ENTRIES = {
    "mnist": Entry({"test": _test_split}, steps=8),
    "asl-digits": Entry({"signer": _by_signer, "random": _at_random}, steps=16),
    "cifar10": Entry({"test": _test_split}, steps=16, compact=True),
}


def make(
    name: str,
    network: Path,
    spiking_network: Path | None,
    data: Path,
    out: Path,
    training: str,
    *,
    split: str = "",
    replace: bool = False,
) -> list[Artifact]:
    """Compile what training wrote and write `out`/NAME/1/dnn and .../snn. `training` says how it was trained.

    The data set is split as the entry does first, or as `split` names.

    A spiking network that has learned from its spikes is converted, or without one the dense network, with the
    calibration that agrees best with the dense network on the calibration images.
    """
    entry = ENTRIES[name]
    learned = f" --spiking {spiking_network.name}" if spiking_network else ""
    chosen = f" --split {split}" if split else ""
    options = Options(
        steps=entry.steps, labels=entry.labels, compact=entry.compact,
        command=f"{COMMAND} {name} --network {network.name}{learned}{chosen} --data DIR",
    )  # fmt: skip
    if split and split not in entry.splits:
        raise DataError(name, f"has no split {split!r}, only {', '.join(entry.splits)}")
    images = entry.splits[split](data) if split else entry.split(data)
    chain = compiler.read_chain(network, options)
    values = compiler.picture_values(compiler.some(images.training, options.images), chain)
    compiled = compiler.compile_chain(chain, values, images, options)
    if spiking_network is None:
        subject, spikes = compiled.subject, compiled.spiking
    else:
        subject = spiking.prepare(compiler.read_chain(spiking_network, options), values)
        # What it is to say is what the dense network says.
        subject = dataclasses.replace(subject, wanted=[*subject.wanted[:-1], compiled.subject.wanted[-1]])
        spikes = spiking.best(spiking.candidates(subject, entry.steps, convert.Target())).network
    print(f"the spiking network {compiler.capacity(spikes)}")
    forms = {
        compiler.DNN: compiled.variants[compiler.DNN],
        compiler.SNN: (
            compiler.spiking_manifest(compiled.variants[compiler.SNN][0], spikes, subject, images.held_out, options),
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
    parser.add_argument("--split", default="", help="how it was split for training, where not as usual")
    parser.add_argument("--out", type=Path, default=ZOO, help="the repository to write into (default: %(default)s)")
    parser.add_argument("--training", default="", help="for the manifest: the command that trained it, and its time")
    parser.add_argument("--replace", action="store_true", help="replace artifacts that exist")
    arguments = parser.parse_args()
    try:
        written = make(
            arguments.model, arguments.network, arguments.spiking, arguments.data, arguments.out, arguments.training,
            split=arguments.split, replace=arguments.replace,
        )  # fmt: skip
    except (ArtifactError, ConversionError, DataError) as error:
        parser.error(str(error))
    for artifact in written:
        for point in artifact.manifest.operating_points:
            print(f"{artifact.name} steps {point.steps} margin {point.margin}: accuracy {point.accuracy:.4f}")


if __name__ == "__main__":
    main()
