"""Where keys are trusted, nothing of an artifact is parsed that none of them signed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hal import artifact, signature
from hal.artifact import MANIFEST
from hal.errors import ArtifactError
from hal.signature import SIGNATURE

SHIPPED = Path(artifact.__file__).parents[1] / "models" / "zoo" / "digits" / "1"
BY_NONE = f"{SIGNATURE} is by none of the 1 trusted keys, or {MANIFEST} was altered since"


@pytest.fixture(scope="module")
def key() -> bytes:
    """Make the private key of whoever is trusted."""
    return signature.new_private_key()


@pytest.fixture
def folder(tmp_path: Path, key: bytes) -> Path:
    """Give a signed copy of a shipped artifact."""
    copy = tmp_path / "digits" / "1" / "snn"
    shutil.copytree(SHIPPED / "snn", copy)
    _sign(copy, key)
    return copy


def _sign(folder: Path, key: bytes) -> None:
    subject = "/".join(folder.parts[-3:])
    (folder / SIGNATURE).write_bytes(signature.sign(key, subject, artifact.read(folder).digest))


def _refusal(folder: Path, key: bytes) -> str:
    with pytest.raises(ArtifactError) as caught:
        artifact.read(folder, [signature.public_key(key)])
    return caught.value.reason


def test_signed(folder: Path, key: bytes) -> None:
    """A signed artifact is the same as before, for those who trust the key, another one as well, or none at all."""
    plain, other = artifact.read(SHIPPED / "snn"), signature.public_key(signature.new_private_key())
    for trusted in ([signature.public_key(key)], [other, signature.public_key(key)], []):
        assert artifact.read(folder, trusted) == plain


def test_unsigned(folder: Path, key: bytes) -> None:
    """An artifact without a signature is refused as such."""
    (folder / SIGNATURE).unlink()
    assert _refusal(folder, key) == f"it is not signed: there is no {SIGNATURE}"


def test_signed_by_another(folder: Path, key: bytes) -> None:
    """The signature of a key that is not trusted counts for nothing."""
    _sign(folder, signature.new_private_key())
    assert _refusal(folder, key) == BY_NONE


@pytest.mark.parametrize(("content", "expected"), [
    (b"", BY_NONE), (bytes(64), BY_NONE), (bytes(63), BY_NONE),
    (bytes(65), f"{SIGNATURE}: 65 bytes exceed the limit of 64"),
])  # fmt: skip
def test_what_is_no_signature(folder: Path, key: bytes, content: bytes, expected: str) -> None:
    """Bytes that are no signature are refused."""
    (folder / SIGNATURE).write_bytes(content)
    assert _refusal(folder, key) == expected


def test_nothing_is_parsed_before(folder: Path, key: bytes) -> None:
    """A manifest that was altered is refused for its signature, even one that no parser would take."""
    for altered in (b"{", (folder / MANIFEST).read_bytes() + b"\n"):
        (folder / MANIFEST).write_bytes(altered)
        assert _refusal(folder, key) == BY_NONE


def test_altered_file(folder: Path, key: bytes) -> None:
    """What the signed manifest says of the files still holds."""
    with (folder / "network.safetensors").open("r+b") as file:
        file.write(b"\xff")
    assert _refusal(folder, key).startswith("network.safetensors has SHA-256")


@pytest.mark.parametrize("place", ["letters/1/snn", "digits/2/snn", "digits/1/dnn"])
def test_under_another_name(folder: Path, key: bytes, tmp_path: Path, place: str) -> None:
    """A signed artifact does not pass for another model, version or variant."""
    shutil.copytree(folder, tmp_path / place)
    assert _refusal(tmp_path / place, key) == BY_NONE


def test_link_in_place_of_the_signature(folder: Path, key: bytes, tmp_path: Path) -> None:
    """A link is not followed, even to a sound signature."""
    (folder / SIGNATURE).rename(tmp_path / "moved")
    (folder / SIGNATURE).symlink_to(tmp_path / "moved")
    assert _refusal(folder, key) == f"{SIGNATURE}: Too many levels of symbolic links"


def test_published_key() -> None:
    """The keys are those of Ed25519 as RFC 8032, section 7.1, test 1 has them."""
    seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
    pem = _openssl("pkey", "-inform", "DER", stdin=bytes.fromhex("302e020100300506032b657004220420" + seed))
    assert signature.public_key(pem) == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_openssl_agrees(tmp_path: Path, key: bytes) -> None:
    """OpenSSL verifies the signature of the statement that the documentation gives."""
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "statement").write_bytes(b"jouled artifact\ndigits/1/snn\n" + b"0" * 64 + b"\n")
    (tmp_path / "signature").write_bytes(signature.sign(key, "digits/1/snn", "0" * 64))
    said = _openssl(
        "pkeyutl", "-verify", "-rawin", "-inkey", str(tmp_path / "key"),
        "-in", str(tmp_path / "statement"), "-sigfile", str(tmp_path / "signature"),
    )  # fmt: skip
    assert b"Signature Verified Successfully" in said


def _openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    return subprocess.run([program, *arguments], check=True, input=stdin, capture_output=True).stdout


@pytest.mark.parametrize(
    "content", [b"", b"a shopping list", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_private_key(content: bytes) -> None:
    """A file that holds no key is refused in one sentence."""
    with pytest.raises(ValueError, match=r"is not an unencrypted private key of Ed25519 in PEM"):
        signature.sign(content, "digits/1/snn", "0" * 64)


def test_private_key_of_another_kind() -> None:
    """A key of another scheme is refused as well."""
    rsa = _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024")
    with pytest.raises(ValueError, match=r"is not an unencrypted private key of Ed25519"):
        signature.public_key(rsa)
