"""Nothing but what a manifest vouches for reaches a parser."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hal import artifact
from hal.artifact import Artifact, parse_manifest
from hal.errors import ArtifactError
from hal.snn import reader

SHIPPED = Path(artifact.__file__).parents[1] / "models" / "zoo" / "digits" / "1"


@pytest.fixture(params=["snn", "dnn"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give a copy of a shipped artifact."""
    variant: str = request.param
    copy = tmp_path / "digits" / "1" / variant
    shutil.copytree(SHIPPED / variant, copy)
    return copy


def _refusal(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        artifact.read(folder)
    assert caught.value.subject == "/".join(folder.parts[-3:])
    return caught.value.reason


def _rewrite(folder: Path, **changes: Any) -> None:
    """Change fields of a manifest; None takes one away."""
    path = folder / "manifest.json"
    fields = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def test_sound(folder: Path) -> None:
    """A sound artifact comes with its names, its files as they are, and the digest of its manifest."""
    read = artifact.read(folder)
    assert (read.model, read.version, read.variant) == ("digits", "1", folder.name)
    assert read.name == f"digits/{folder.name}"
    assert read.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert read.files == {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}
    assert read.manifest.kind.value == folder.name


def test_flipped_byte(folder: Path) -> None:
    """One flipped bit anywhere in a file is refused by its digest, named with both digests."""
    for name in json.loads((folder / "manifest.json").read_bytes())["files"]:
        content = (folder / name).read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            altered = bytearray(content)
            altered[place] ^= 1
            (folder / name).write_bytes(altered)
            assert f"{name} has SHA-256 {hashlib.sha256(altered).hexdigest()[:16]}..." in _refusal(folder)
        (folder / name).write_bytes(content)
    assert artifact.read(folder).files


def test_cut_and_lengthened(folder: Path) -> None:
    """A file that lost or gained bytes is refused."""
    victim = max(p for p in folder.iterdir() if p.name != "manifest.json")
    content = victim.read_bytes()
    for altered in (content[:-1], content + b"\0", b""):
        victim.write_bytes(altered)
        assert f"{victim.name} has SHA-256" in _refusal(folder)


def test_extra_file(folder: Path) -> None:
    """A file that the manifest does not name is refused, hidden ones and folders too."""
    (folder / "extra.txt").write_text("")
    assert _refusal(folder) == "files and manifest disagree on extra.txt"
    (folder / "extra.txt").unlink()
    (folder / ".hidden").mkdir()
    assert _refusal(folder) == "files and manifest disagree on .hidden"


def test_missing_file(folder: Path) -> None:
    """A file that is not there is named."""
    victim = max(p for p in folder.iterdir() if p.name != "manifest.json")
    victim.unlink()
    assert _refusal(folder) == f"files and manifest disagree on {victim.name}"
    (folder / "manifest.json").unlink()
    assert _refusal(folder) == "manifest.json: No such file or directory"


def test_symbolic_link(folder: Path, tmp_path: Path) -> None:
    """A link is not followed, even to the very same bytes."""
    for name in [p.name for p in folder.iterdir()]:
        moved = tmp_path / name
        (folder / name).rename(moved)
        (folder / name).symlink_to(moved)
        assert _refusal(folder) == f"{name}: Too many levels of symbolic links"
        (folder / name).unlink()
        moved.rename(folder / name)
    assert artifact.read(folder).files


def test_no_plain_file(folder: Path) -> None:
    """A folder or a pipe in the place of a file is refused without waiting for anyone."""
    victim = max(p for p in folder.iterdir() if p.name != "manifest.json")
    victim.unlink()
    victim.mkdir()
    assert _refusal(folder) == f"{victim.name} is not a plain file"
    victim.rmdir()
    os.mkfifo(victim)
    assert _refusal(folder) == f"{victim.name} is not a plain file"


def test_failing_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read to its end is refused, and nothing stays open."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "fdopen", fail)
    assert _refusal(folder) == "manifest.json: Input/output error"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_absurd_size(folder: Path) -> None:
    """A file beyond the limit is refused before it is read."""
    victim = max(p for p in folder.iterdir() if p.name != "manifest.json")
    os.truncate(victim, artifact.FILE_BYTES_LIMIT + 1)
    assert _refusal(folder) == f"{victim.name}: {(1 << 30) + 1} bytes exceed the limit of {1 << 30}"
    os.truncate(folder / "manifest.json", artifact.MANIFEST_BYTES_LIMIT + 1)
    assert _refusal(folder) == f"manifest.json: {(1 << 20) + 1} bytes exceed the limit of {1 << 20}"


@pytest.mark.parametrize(
    "place", ["Digits/1/snn", "digits/one/snn", "digits/0/snn", "digits/1/.snn", f"{'x' * 65}/1/snn"]
)
def test_wrong_names(tmp_path: Path, place: str) -> None:
    """Names and versions that the rules do not allow are refused."""
    folder = tmp_path / place
    shutil.copytree(SHIPPED / "snn", folder)
    assert _refusal(folder).startswith("names must match")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": 2}, "manifest.json: format 2 is not the supported 1"),
        ({"format": None}, "Object missing required field `format`"),
        ({"kind": "qnn"}, "Invalid enum value 'qnn' - at `$.kind`"),
        ({"surprise": 1}, "Object contains unknown field `surprise`"),
        ({"labels": []}, "Expected `array` of length >= 1"),
        ({"labels": [1, 2]}, "Expected `str`, got `int`"),
        ({"input": {"name": "x", "dtype": "int8", "shape": [8, 8]}}, "Invalid enum value 'int8'"),
        ({"input": {"name": "x", "dtype": "uint8", "shape": []}}, "Expected `array` of length >= 1"),
        ({"input": {"name": "x", "dtype": "uint8", "shape": [0, 8]}}, "Expected `int` >= 1"),
        ({"input": {"name": "x", "dtype": "uint8", "shape": [1, 1, 1, 1]}}, "Expected `array` of length <= 3"),
        ({"input": {"name": "x", "dtype": "uint8", "shape": [65536, 257]}}, "16842752 elements exceeds the limit"),
        ({"operating_points": []}, "Expected `array` of length >= 1"),
        ({"operating_points": [{"accuracy": 1.1}]}, "Expected `float` <= 1.0"),
        ({"operating_points": [{"accuracy": 0.9, "steps": 0}]}, "Expected `int` >= 1"),
        ({"operating_points": [{"accuracy": 0.9, "steps": 1025}]}, "Expected `int` <= 1024"),
        ({"operating_points": [{"accuracy": 0.9, "steps": 4}] * 2}, "[(4, 0), (4, 0)] are not distinct"),
        ({"operating_points": [{"accuracy": 0.9, "active_updates": -1}]}, "Expected `float` >= 0.0"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "'../../etc/passwd' is not a plain file name"),
        ({"files": {".hidden": "0" * 64}}, "'.hidden' is not a plain file name"),
        ({"files": {"manifest.json": "0" * 64}}, "'manifest.json' is not a plain file name"),
        ({"files": {"a": "0" * 63}}, "Expected `str` matching regex"),
        ({"files": {"a": "G" * 64}}, "Expected `str` matching regex"),
        ({"multiplies": -1}, "Expected `int` >= 0"),
        ({"multiplies": 1 << 60}, "Expected `int` <= 9007199254740992"),
    ],
)  # fmt: skip
def test_bad_manifest(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    """A manifest with a wrong field is refused with the reason."""
    folder = tmp_path / "digits" / "1" / "snn"
    shutil.copytree(SHIPPED / "snn", folder)
    _rewrite(folder, **changes)
    assert expected in _refusal(folder)


def test_dense_has_one_point(tmp_path: Path) -> None:
    """A dense network has no time steps to choose among."""
    folder = tmp_path / "digits" / "1" / "dnn"
    shutil.copytree(SHIPPED / "dnn", folder)
    _rewrite(folder, operating_points=[{"accuracy": 0.9, "steps": 4}])
    assert _refusal(folder) == "manifest.json: operating points with (steps, margin) [(4, 0)] are not distinct for dnn"


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"format": 1e999}'])
def test_no_manifest(raw: bytes) -> None:
    """What is no manifest at all is refused."""
    with pytest.raises(ArtifactError, match=r"some/1/thing: manifest\.json: "):
        parse_manifest(raw, "some/1/thing")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_altered_manifest(changes: list[tuple[float, int]]) -> None:
    """A manifest with altered bytes is refused or still a manifest; nothing else is raised."""
    raw = bytearray((SHIPPED / "snn" / "manifest.json").read_bytes())
    for place, value in changes:
        raw[int(place * (len(raw) - 1))] = value
    try:
        outcome = parse_manifest(bytes(raw), "digits/1/snn").kind.value
    except ArtifactError as error:
        outcome = error.subject
    assert outcome in {"snn", "dnn", "digits/1/snn"}


def _with_files(read: Artifact, **files: bytes) -> Artifact:
    named = {name.replace("_", "."): content for name, content in files.items()}
    return Artifact(read.model, read.version, read.variant, read.digest, read.manifest, {**read.files, **named})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["network_json", "network_safetensors"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_altered_network(name: str, changes: list[tuple[float, int]], cut: float) -> None:
    """Were a network altered before its digest was taken, it is refused or is a network; nothing else is raised."""
    shipped = artifact.read(SHIPPED / "snn")
    content = bytearray(shipped.files[name.replace("_", ".")])
    for place, value in changes:
        # The headers, where a change means something, are at the beginning.
        content[int(place * min(len(content) - 1, 600))] = value
    for altered in (bytes(content), bytes(content[: int(cut * len(content))])):
        try:
            outcome = reader.read_network(_with_files(shipped, **{name: altered})).classes
        except ArtifactError:
            outcome = 10
        assert outcome == 10


def test_brain_float() -> None:
    """Tensors of a type that NumPy does not have are refused."""
    header = json.dumps({"1.weight": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(4)
    with pytest.raises(ArtifactError, match=r"network\.safetensors cannot be read"):
        reader.read_network(_with_files(artifact.read(SHIPPED / "snn"), network_safetensors=tensors))
