"""Read artifacts: a folder with a manifest, and files that are verified against it before any parser sees them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import safetensors
import safetensors.numpy

from hal.device import Kind
from hal.errors import ArtifactError
from hal.signature import SIGNATURE, SIGNATURE_BYTES, verify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MANIFEST = "manifest.json"
TENSORS_SUFFIX = ".safetensors"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MANIFEST_BYTES_LIMIT = 1 << 20
FILE_BYTES_LIMIT = 1 << 30
ELEMENTS_LIMIT = 1 << 24
FORMAT = 1

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
Fraction = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Extent = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The base of all that a manifest holds: immutable, unknown fields refused."""


class TensorSpec(Struct, frozen=True):
    """The input of a model: its name, type and shape without the batch.

    A uint8 image has values 0 to 255, a float32 image 0 to 1. `shape` is (H, W) or (C, H, W).
    """

    name: str
    dtype: Literal["uint8", "float32"]
    shape: Annotated[tuple[Extent, ...], msgspec.Meta(min_length=1, max_length=3)]


class OperatingPoint(Struct, frozen=True):
    """A way to run the artifact, with what was measured on the held-out images.

    A spiking network runs for `steps` time steps. With a `margin` above zero an image ends as soon as its best score
    leads the second by that much, after `mean_steps` on average, which is 0 where all images take all steps. The counts
    are means per image, of a spiking network only.
    """

    accuracy: Fraction
    steps: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    margin: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)] = 0
    mean_steps: Annotated[float, msgspec.Meta(ge=0, le=1024)] = 0.0
    synaptic_operations: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    active_updates: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    inactive_updates: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Origin(Struct, frozen=True):
    """Where the artifact's figures come from. `training` says how the network was trained, and how long it took."""

    data: str
    held_out: str
    accuracy: str
    command: str
    training: str = ""


class Energy(Struct, frozen=True):
    """What one image took on a device by the models of `hal.energy` when the artifact was written: simulated."""

    driver: str
    dynamic_joules: Annotated[float, msgspec.Meta(ge=0)]
    steps: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    margin: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)] = 0


class Manifest(Struct, frozen=True):
    """What an artifact says of itself. `files` maps each other file to its SHA-256 in hexadecimal.

    `drivers` are those that it is made for, all of its kind where empty. `unverified` are those whose runtime has not
    loaded it yet. `energy` is for readers: the daemon prices operating points itself.
    """

    format: int
    kind: Kind
    input: TensorSpec
    output: str
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=4096)]
    operating_points: Annotated[tuple[OperatingPoint, ...], msgspec.Meta(min_length=1, max_length=64)]
    origin: Origin
    tool: str
    files: dict[str, Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]]
    multiplies: Count = 0
    drivers: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()
    energy: tuple[Energy, ...] = ()


@dataclass(frozen=True)
class Artifact:
    """A verified artifact in memory. `digest` is the SHA-256 of its manifest and so of everything in it."""

    model: str
    version: str
    variant: str
    digest: str
    manifest: Manifest
    files: dict[str, bytes]

    @property
    def name(self) -> str:
        """Name the variant, as in `digits/snn`."""
        return f"{self.model}/{self.variant}"

    @cached_property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """Give the tensors of its safetensors files by name. Raises `ArtifactError` where they cannot be read."""
        found: dict[str, NDArray[Any]] = {}
        for name, content in self.files.items():
            if name.endswith(TENSORS_SUFFIX):
                try:
                    found.update(safetensors.numpy.load(content))
                except (ValueError, KeyError, safetensors.SafetensorError) as error:
                    # NumPy has no type for some of the format's: those are a KeyError.
                    raise ArtifactError(self.name, f"{name} cannot be read: {error}") from None
        return found


def read(folder: Path, trusted: Sequence[str] = ()) -> Artifact:
    """Read and verify the artifact in `folder`, which is `.../model/version/variant`.

    Where there are `trusted` public keys, one of them must have signed it, which is verified before the manifest is
    parsed. Raises `ArtifactError` when anything is missing, superfluous, altered, too large, or not a plain file.
    """
    variant, version, model = folder.name, folder.parent.name, folder.parent.parent.name
    subject = f"{model}/{version}/{variant}"
    if not (NAME.fullmatch(model) and NAME.fullmatch(variant) and re.fullmatch(r"[1-9][0-9]{0,8}", version)):
        raise ArtifactError(subject, f"names must match {NAME.pattern}, versions be whole numbers")
    raw = _read_file(folder / MANIFEST, subject, MANIFEST_BYTES_LIMIT)
    digest = hashlib.sha256(raw).hexdigest()
    if trusted:
        _check_signature(folder, subject, digest, trusted)
    manifest = parse_manifest(raw, subject)
    present = {entry.name for entry in os.scandir(folder)} - {MANIFEST, SIGNATURE}
    if present != set(manifest.files):
        odd = ", ".join(sorted(present ^ set(manifest.files)))
        raise ArtifactError(subject, f"files and manifest disagree on {odd}")
    files = {}
    for name, expected in manifest.files.items():
        content = _read_file(folder / name, subject, FILE_BYTES_LIMIT)
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            raise ArtifactError(subject, f"{name} has SHA-256 {actual[:16]}..., the manifest says {expected[:16]}...")
        files[name] = content
    return Artifact(model, version, variant, digest, manifest, files)


def _check_signature(folder: Path, subject: str, digest: str, trusted: Sequence[str]) -> None:
    if not os.path.lexists(folder / SIGNATURE):
        raise ArtifactError(subject, f"it is not signed: there is no {SIGNATURE}")
    if not verify(trusted, _read_file(folder / SIGNATURE, subject, SIGNATURE_BYTES), subject, digest):
        raise ArtifactError(
            subject, f"{SIGNATURE} is by none of the {len(trusted)} trusted keys, or {MANIFEST} was altered since"
        )


def parse_manifest(raw: bytes, subject: str) -> Manifest:
    """Parse a manifest and check what its types do not say."""
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(subject, f"{MANIFEST}: {error}") from None
    if manifest.format != FORMAT:
        raise ArtifactError(subject, f"{MANIFEST}: format {manifest.format} is not the supported {FORMAT}")
    elements = 1
    for extent in manifest.input.shape:
        elements *= extent
    if elements > ELEMENTS_LIMIT:
        raise ArtifactError(subject, f"{MANIFEST}: input of {elements} elements exceeds the limit of {ELEMENTS_LIMIT}")
    for name in manifest.files:
        if "/" in name or name.startswith(".") or name in (MANIFEST, SIGNATURE):
            raise ArtifactError(subject, f"{MANIFEST}: {name!r} is not a plain file name")
    ways = [(point.steps, point.margin) for point in manifest.operating_points]
    if len(set(ways)) != len(ways) or (manifest.kind is Kind.DNN and ways != [(1, 0)]):
        raise ArtifactError(
            subject,
            f"{MANIFEST}: operating points with (steps, margin) {ways} are not distinct for {manifest.kind.value}",
        )
    return manifest


def _read_file(path: Path, subject: str, limit: int) -> bytes:
    """Read a plain file without following a link, within a size limit."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArtifactError(subject, f"{path.name}: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(subject, f"{path.name} is not a plain file")
        if status.st_size > limit:
            raise ArtifactError(subject, f"{path.name}: {status.st_size} bytes exceed the limit of {limit}")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    except OSError as error:
        raise ArtifactError(subject, f"{path.name}: {error.strerror}") from None
    finally:
        os.close(descriptor)
