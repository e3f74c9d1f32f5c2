"""The models that a repository folder holds: `model/version/variant/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hal import artifact
from hal.artifact import Artifact
from hal.errors import ArtifactError

SHIPPED = Path(artifact.__file__).parent.parent / "models" / "zoo"


@dataclass
class Repository:
    """The verified artifacts of a folder, and the reasons why others were refused."""

    artifacts: list[Artifact] = field(default_factory=list)
    refused: list[ArtifactError] = field(default_factory=list)


def names(folder: Path) -> list[tuple[str, str]]:
    """List the models below `folder` by name and version, without reading them."""
    return sorted({(path.parent.name, path.name) for path in (variant.parent for variant in _variants(folder, "*"))})


def scan(folder: Path, model: str = "*", trusted: Sequence[str] = ()) -> Repository:
    """Read every artifact of a model, or of all, below `folder`; one that is refused does not keep others from serving.

    Where there are `trusted` public keys, what none of them signed is refused. Raises `ArtifactError` when the folder
    itself cannot be read.
    """
    found = Repository()
    try:
        if not folder.is_dir():
            raise ArtifactError(str(folder), "the repository is not a folder")
        variants = _variants(folder, model)
    except OSError as error:
        raise ArtifactError(str(folder), error.strerror or "cannot be read") from None
    for path in variants:
        try:
            if any(part.is_symlink() for part in (path, path.parent, path.parent.parent)):
                raise ArtifactError(str(path.relative_to(folder)), "symbolic links are not followed")
            found.artifacts.append(artifact.read(path, trusted))
        except ArtifactError as error:
            found.refused.append(error)
    return found


def _variants(folder: Path, model: str) -> list[Path]:
    """List the folders of a model's variants; what begins with a dot is being written."""
    return sorted(path for path in folder.glob(f"{model}/*/*/") if not path.name.startswith((".", "_")))
