"""From a new key to a daemon that serves what it signed and nothing else."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.repository import SHIPPED
from hal import signature
from hal.signature import SIGNATURE
from protos import jouled_pb2 as pb
from tests.cli.conftest import POLICIES
from tests.daemon.serving import CALL_SECONDS, configuration, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Jouled

UNSIGNED = f"it is not signed: there is no {SIGNATURE}"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Give a copy of the shipped digits."""
    shutil.copytree(SHIPPED / "digits", tmp_path / "models" / "digits")
    return tmp_path / "models"


@pytest.fixture
def key(jouled: Jouled, tmp_path: Path) -> Path:
    """Give a new private key."""
    assert jouled("models", "keygen", tmp_path / "key.pem").status == 0
    return tmp_path / "key.pem"


def test_keygen(jouled: Jouled, tmp_path: Path) -> None:
    """A key is its owner's alone, its public half is printed, and none is ever overwritten."""
    file = tmp_path / "key.pem"
    said = jouled("models", "keygen", file)
    assert said.out == signature.public_key(file.read_bytes()) + "\n"
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    assert jouled("models", "keygen", file).err == f"jouled: {file}: File exists\n"
    assert file.read_bytes() == before


def test_sign_and_verify(jouled: Jouled, repository: Path, key: Path) -> None:
    """What is signed is said to be, and only by those who trust the key; signing again changes nothing."""
    public = signature.public_key(key.read_bytes())
    said = jouled("models", "sign", "--key", key, repository / "digits" / "1" / "snn")
    assert said.out.startswith("digits/1/snn: signed, digest ")
    first = (repository / "digits" / "1" / "snn" / SIGNATURE).read_bytes()
    said = jouled("models", "verify", repository, "--trusted", public)
    assert said.status == 1
    assert UNSIGNED in said.out
    both = [repository / "digits" / "1" / variant for variant in ("dnn", "snn")]
    assert jouled("models", "sign", "--key", key, *both).status == 0
    assert (both[1] / SIGNATURE).read_bytes() == first
    assert sorted(path.name for path in both[0].parent.iterdir()) == ["dnn", "snn"]
    said = jouled("models", "verify", repository, "--trusted", public)
    assert said.status == 0
    assert said.out.count("whole, signed") == 2
    assert jouled("models", "verify", repository, "--trusted", "0" * 64).status == 1
    assert jouled("models", "verify", repository).status == 0


def test_refusals(jouled: Jouled, repository: Path, key: Path, tmp_path: Path) -> None:
    """What is altered is not signed; a key that is none and one that is not there are named."""
    folder = repository / "digits" / "1" / "snn"
    said = jouled("models", "verify", repository, "--trusted", "00")
    assert (said.status, said.err.split(":")[1]) == (2, " --trusted '00'")
    assert jouled("models", "sign", "--key", tmp_path / "none", folder).err.endswith(
        "none: No such file or directory\n"
    )
    said = jouled("models", "sign", "--key", folder / "manifest.json", folder)
    assert said.err == f"jouled: {folder / 'manifest.json'}: is not an unencrypted private key of Ed25519 in PEM\n"
    (folder / "network.json").write_text("{}")
    said = jouled("models", "sign", "--key", key, folder)
    assert (said.status, said.out) == (1, "")
    assert "network.json has SHA-256" in said.err
    assert not (folder / SIGNATURE).exists()


def test_daemon_that_trusts_a_key(jouled: Jouled, repository: Path, key: Path) -> None:
    """A daemon serves what is signed; what is not is refused by name, at the start and when it is loaded later."""
    digits = repository / "digits" / "1"
    jouled("models", "sign", "--key", key, digits / "snn")
    trust = f'trusted_keys = ["{signature.public_key(key.read_bytes())}"]\n'
    config = trust + configuration(POLICIES, start="accurate", repository=repository)
    with running(config, may_log=["artifact refused"]) as daemon:
        (line,) = [line for line in daemon.log if "artifact refused" in line]
        assert "artifact=digits/1/dnn" in line
        assert UNSIGNED in line
        assert {point.variant for point in daemon.points()} == {"snn"}
        jouled("models", "sign", "--key", key, digits / "dnn")
        loaded = jouled("models", "load", "digits", runtime=daemon.places.runtime)
        assert (loaded.status, "not served" in loaded.out) == (0, False)
        assert {point.variant for point in daemon.points()} == {"snn", "dnn"}
        shutil.copytree(digits, repository / "letters" / "1")
        refused = jouled("models", "load", "letters", runtime=daemon.places.runtime)
        assert refused.status == 1
        assert "letters/1/snn: manifest.sig is by none of the 1 trusted keys" in refused.err
        models = daemon.control.Models(pb.ModelsRequest(), timeout=CALL_SECONDS).models
        assert [model.name for model in models if model.points] == ["digits"]
