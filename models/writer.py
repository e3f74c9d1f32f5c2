"""Write an artifact: a folder that appears whole, with the digest of every file, or does not appear at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from typing import TYPE_CHECKING

import msgspec
import safetensors.numpy

from hal import artifact
from hal.errors import ArtifactError
from hal.snn import parts
from hal.snn.reader import STRUCTURE, TENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hal.artifact import Artifact, Manifest
    from hal.snn.network import Network


def snn_files(network: Network) -> dict[str, bytes]:
    """Give the files of a spiking artifact."""
    structure, arrays = parts.take_apart(network)
    return {
        STRUCTURE: json.dumps(structure, indent=2).encode() + b"\n",
        TENSORS: safetensors.numpy.save(arrays),
    }


def write(folder: Path, manifest: Manifest, files: Mapping[str, bytes], *, replace: bool = False) -> Artifact:
    """Write `folder`, which is `.../model/version/variant`, and give the artifact read back from it.

    The manifest's `files` are filled in here. Raises `ArtifactError` when the folder exists, unless `replace`, or when
    the manifest or a name would be refused on reading; `OSError` when the disk refuses. Then nothing is left behind.
    """
    subject = "/".join(folder.parts[-3:])
    _check_names(folder, subject)
    if os.path.lexists(folder) and not replace:
        raise ArtifactError(subject, "exists already; an artifact is never changed, write a new version instead")
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    complete = msgspec.structs.replace(manifest, files=digests)
    raw = msgspec.json.format(msgspec.json.encode(complete), indent=2) + b"\n"
    artifact.parse_manifest(raw, subject)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Names that start with a dot are no variants: whoever reads the repository passes over them.
    mark = secrets.token_hex(4)
    written, replaced = folder.with_name(f".{folder.name}.new-{mark}"), folder.with_name(f".{folder.name}.old-{mark}")
    try:
        written.mkdir()
        for name, content in {**files, artifact.MANIFEST: raw}.items():
            _write_file(written / name, content)
        _sync_folder(written)
        if os.path.lexists(folder) and replace:
            folder.rename(replaced)
        # A folder that appeared meanwhile is not empty, and rename refuses to replace it.
        written.rename(folder)
        _sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(written, ignore_errors=True)
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    return artifact.read(folder)


def _check_names(folder: Path, subject: str) -> None:
    names = folder.parts[-3:]
    if not (
        len(names) == 3
        and artifact.NAME.fullmatch(names[0])
        and re.fullmatch(r"[1-9][0-9]{0,8}", names[1])
        and artifact.NAME.fullmatch(names[2])
    ):
        raise ArtifactError(
            subject, f"the folder must be model/version/variant, with names like {artifact.NAME.pattern}"
        )


def _write_file(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
