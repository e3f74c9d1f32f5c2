"""Whatever lies in an artifact's folder: an artifact, or ArtifactError."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hal import artifact
from hal.errors import ArtifactError

CONTENT = b"weights"
MANIFEST: dict[str, Any] = {
    "format": 1,
    "kind": "snn",
    "input": {"name": "image", "dtype": "uint8", "shape": [8, 8]},
    "output": "scores",
    "labels": ["a", "b"],
    "operating_points": [{"accuracy": 0.5, "steps": 4}, {"accuracy": 0.75, "steps": 8, "active_updates": 3.5}],
    "origin": {"data": "d", "held_out": "h", "accuracy": "a", "command": "c"},
    "tool": "t",
    "files": {"network.json": hashlib.sha256(CONTENT).hexdigest()},
}
ODD = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from([10**12, -(10**12), "a\0b", "../x", "x" * 5000, "\ud800"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a manifest with a few values replaced, removed or added, as JSON."""
    manifest = json.loads(json.dumps(MANIFEST))
    for _ in range(draw(st.integers(0, 3))):
        holder = draw(st.sampled_from([manifest, manifest["input"], manifest["origin"], manifest["files"]]))
        if not isinstance(holder, dict):
            continue
        key = draw(st.one_of(st.sampled_from([*sorted(holder), "extra"]), st.text(max_size=6)))
        if draw(st.booleans()):
            holder[key] = draw(ODD)
        elif holder is not manifest or key not in ("input", "origin", "files"):
            holder.pop(key, None)
        for name in ("input", "origin", "files"):
            if not isinstance(manifest[name], dict):
                return json.dumps(manifest).encode()
    return json.dumps(manifest).encode()


@settings(max_examples=400, deadline=None)
@given(raw=st.one_of(damaged(), st.binary(max_size=200), st.text(max_size=50).map(str.encode)))
def test_any_manifest_is_refused_or_parsed(raw: bytes) -> None:
    """A parsed manifest has distinct steps and plain file names."""
    try:
        manifest = artifact.parse_manifest(raw, "m/1/v")
    except ArtifactError as error:
        assert error.subject == "m/1/v"  # noqa: PT017
        return
    assert all("/" not in name and not name.startswith(".") for name in manifest.files)


def _plain(path: Path) -> None:
    path.write_bytes(CONTENT)


def _nothing(path: Path) -> None:
    path.unlink(missing_ok=True)


def _link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=damaged(),
    name=st.sampled_from(["network.json", "other", artifact.MANIFEST]),
    make=st.sampled_from([_plain, _nothing, _link, os.mkfifo]),
)
def test_any_folder_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, name: str, make: Any
) -> None:
    """Links, pipes and what is missing or superfluous never raise anything but ArtifactError."""
    folder = tmp_path_factory.mktemp("repository") / "m" / "1" / "v"
    folder.mkdir(parents=True)
    (folder / artifact.MANIFEST).write_bytes(raw)
    (folder / "network.json").write_bytes(CONTENT)
    _nothing(folder / name)
    make(folder / name)
    try:
        found = artifact.read(folder)
    except ArtifactError as error:
        assert error.subject == "m/1/v"  # noqa: PT017
        return
    assert found.files == dict.fromkeys(found.manifest.files, CONTENT)


def test_the_whole_artifact_is_read(tmp_path: Path) -> None:
    """The manifest that the fuzz starts from is valid."""
    folder = tmp_path / "m" / "1" / "v"
    folder.mkdir(parents=True)
    (folder / artifact.MANIFEST).write_text(json.dumps(MANIFEST))
    (folder / "network.json").write_bytes(CONTENT)
    assert artifact.read(folder).name == "m/v"


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    """What is not a plain file is refused by name."""
    folder = tmp_path / "m" / "1" / "v"
    (folder / "network.json").mkdir(parents=True)
    (folder / artifact.MANIFEST).write_text(json.dumps(MANIFEST))
    with pytest.raises(ArtifactError, match=r"network\.json is not a plain file"):
        artifact.read(folder)
