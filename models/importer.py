"""Import a network that was trained for Lava: from its `.net` file to an artifact, offline."""

from __future__ import annotations

import importlib.metadata
import math
import re
from typing import TYPE_CHECKING

import numpy as np

from hal import artifact
from hal.artifact import FORMAT, Manifest, OperatingPoint, Origin, TensorSpec
from hal.device import Kind
from hal.errors import ArtifactError
from hal.snn import reference
from models import netx, writer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hal.artifact import Artifact
    from hal.snn.network import Network

DEFAULT_STEPS = 16
STEPS_LIMIT = 1024
# A file has no pictures: what an inference costs on average is taken from this many of uniform noise.
NOISE_PICTURES = 4
VERSION, VARIANT = "1", "snn"


def import_net(path: Path, out: Path, *, labels: Sequence[str] | None = None, steps: int | None = None) -> Artifact:
    """Write the network in `path` as an artifact, and give it as read back.

    `out` is the artifact's folder, `.../model/version/variant`, or else a folder in which `NAME/1/snn` is made, with
    the model's name from the file or, of a file called `network.net`, from its folder. The operating point has the
    `steps` given, those of the file, or 16. A file says nothing of its classes, so `labels` are numbers where left
    out, nor of its accuracy, which the artifact has as 0 and not measured.
    Raises `ArtifactError` for a malformed file, wrong labels, or an artifact that exists.
    """
    file = netx.read_file(path)
    network = file.network
    if labels is not None and len(labels) != network.classes:
        raise ArtifactError(path.name, f"{len(labels)} labels for {network.classes} classes")
    count = steps or min(file.steps or DEFAULT_STEPS, STEPS_LIMIT)
    manifest = Manifest(
        format=FORMAT,
        kind=Kind.SNN,
        input=TensorSpec(name="image", dtype="uint8", shape=_picture_shape(network.layers[0].shape)),
        output="scores",
        labels=tuple(labels) if labels is not None else tuple(str(index) for index in range(network.classes)),
        operating_points=(_operating_point(network, count),),
        origin=Origin(
            data=f"unknown, imported from {path.name}",
            held_out=f"none; the counts are means over {NOISE_PICTURES} pictures of uniform noise",
            accuracy="not measured",
            command=f"jouled import {path.name}",
        ),
        tool=f"jouled {importlib.metadata.version('jouled')}",
        files={},
    )
    folder = artifact_folder(out, path.parent.name if path.stem == "network" else path.stem)
    return writer.write(folder, manifest, writer.snn_files(network))


def artifact_folder(out: Path, name: str) -> Path:
    """Give `out` where it is `model/version/variant`, and else the folder in it for an SNN called `name`."""
    model, version, variant = ("", "", "", *out.resolve().parts)[-3:]
    if (
        artifact.NAME.fullmatch(model)
        and re.fullmatch(r"[1-9][0-9]{0,8}", version)
        and artifact.NAME.fullmatch(variant)
    ):
        return out.resolve()
    plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:64]
    return out.resolve() / (plain or "network") / VERSION / VARIANT


def _picture_shape(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Give (H, W) of a grey picture, also of one that the file has as a square number of inputs, or (C, H, W)."""
    channels, height, width = shape
    side = math.isqrt(channels)
    if height == width == 1 and channels > 1 and side * side == channels:
        return (side, side)
    if height == width == 1:
        return (channels,)
    return (height, width) if channels == 1 else shape


def _operating_point(network: Network, steps: int) -> OperatingPoint:
    noise = np.random.default_rng(0).random((NOISE_PICTURES, *network.layers[0].shape))
    events = reference.run(network, reference.encode(network.encoder, noise), steps).events
    return OperatingPoint(
        accuracy=0.0,
        steps=steps,
        synaptic_operations=events.synaptic_operations / NOISE_PICTURES,
        active_updates=events.active_updates / NOISE_PICTURES,
        inactive_updates=events.inactive_updates / NOISE_PICTURES,
    )
