"""Sign artifacts and verify their signatures: Ed25519 over an artifact's names and the SHA-256 of its manifest.

The manifest holds the SHA-256 of every other file, so a signature vouches for all of them; since it vouches for the
names, too, no artifact passes for another model or version. A private key is a PEM file as OpenSSL writes it (PKCS#8),
a public key its 32 bytes in hexadecimal, a signature its 64 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "manifest.sig"
SIGNATURE_BYTES = 64


def _statement(subject: str, digest: str) -> bytes:
    """Give what is signed. It begins with its purpose, so that no signature made for another one fits."""
    return f"jouled artifact\n{subject}\n{digest}\n".encode()


def new_private_key() -> bytes:
    """Make a private key and give it as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_key(private_key: bytes) -> str:
    """Give the public key of a private one. Raises `ValueError` where that is none."""
    return _load(private_key).public_key().public_bytes_raw().hex()


def sign(private_key: bytes, subject: str, digest: str) -> bytes:
    """Sign the artifact `subject`, as in `digits/1/snn`, by the SHA-256 of its manifest. Raises `ValueError`."""
    return _load(private_key).sign(_statement(subject, digest))


def verify(trusted: Iterable[str], signature: bytes, subject: str, digest: str) -> bool:
    """Tell whether one of the trusted keys made a signature for these names and this digest."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    for key in trusted:
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(signature, _statement(subject, digest))
        except InvalidSignature:
            continue
        return True
    return False


def _load(private_key: bytes) -> Ed25519PrivateKey:
    """Read a PEM. Raises `ValueError` where it is no unencrypted private key of Ed25519."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(private_key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("is not an unencrypted private key of Ed25519 in PEM")
    return key
