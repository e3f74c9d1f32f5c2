"""A repository gives what is sound and says why the rest is not."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.repository import SHIPPED, scan
from hal.errors import ArtifactError

if TYPE_CHECKING:
    from pathlib import Path

DIGITS = SHIPPED / "digits" / "1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a repository with the shipped spiking digits in it."""
    shutil.copytree(DIGITS / "snn", tmp_path / "digits" / "1" / "snn")
    return tmp_path


def test_shipped() -> None:
    """All that is shipped is sound."""
    found = scan(SHIPPED)
    assert {artifact.name for artifact in found.artifacts} >= {"digits/dnn", "digits/snn"}
    assert found.refused == []


def test_one_bad_does_not_hurt_another(folder: Path) -> None:
    """A refused artifact is told and keeps no other one from serving."""
    shutil.copytree(DIGITS / "dnn", folder / "digits" / "1" / "dnn")
    (folder / "digits" / "1" / "dnn" / "model.bin").write_bytes(b"")
    found = scan(folder)
    assert [artifact.name for artifact in found.artifacts] == ["digits/snn"]
    assert [refused.subject for refused in found.refused] == ["digits/1/dnn"]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_symbolic_links(folder: Path, tmp_path_factory: pytest.TempPathFactory, depth: int) -> None:
    """A link to a variant, a version or a model is not followed."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(DIGITS, elsewhere / "1")
    link, target = [
        (folder / "digits" / "1" / "dnn", elsewhere / "1" / "dnn"),
        (folder / "digits" / "2", elsewhere / "1"),
        (folder / "other", elsewhere),
    ][depth]
    link.symlink_to(target)
    found = scan(folder)
    assert [artifact.name for artifact in found.artifacts] == ["digits/snn"]
    assert found.refused
    assert all(refused.reason == "symbolic links are not followed" for refused in found.refused)


def test_unfinished_variants(folder: Path) -> None:
    """What begins with a dot or an underscore is being written or removed, and not looked at."""
    for name in (".snn.tmp", "_snn"):
        (folder / "digits" / "1" / name).mkdir()
    found = scan(folder)
    assert len(found.artifacts) == 1
    assert found.refused == []


def test_loose_files(folder: Path) -> None:
    """Files between the folders are nobody's artifact."""
    for place in (folder, folder / "digits", folder / "digits" / "1"):
        (place / "README").write_text("hello")
    found = scan(folder)
    assert len(found.artifacts) == 1
    assert found.refused == []


def test_wrong_names(folder: Path) -> None:
    """A version that is no number is refused by name."""
    shutil.copytree(folder / "digits" / "1", folder / "digits" / "latest")
    (refused,) = scan(folder).refused
    assert refused.subject == "digits/latest/snn"


def test_empty(tmp_path: Path) -> None:
    """An empty folder holds nothing; one that is not there, or a file, is refused."""
    assert scan(tmp_path).artifacts == []
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(ArtifactError, match="the repository is not a folder"):
            scan(path)
    with pytest.raises(ArtifactError, match="File name too long"):
        scan(tmp_path / ("x" * 300))
