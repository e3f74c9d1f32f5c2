"""Certificates for the tests, made anew each time: an authority, and what it signs."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.timedelta(days=1)
SERVER = "jouled.example.org"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Who signs certificates."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        basic = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            self._begin(self._name, self._key).add_extension(basic, critical=True).add_extension(usage, critical=True)
        )
        self.certificate = certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, *alternatives: str, days: int = 1, extension: x509.ExtensionType | None = None) -> Pair:
        """Issue a certificate for a common name and for alternative names; with days below 0 it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._begin(_named(name), key, days)
        if alternatives:
            names = x509.SubjectAlternativeName([x509.DNSName(each) for each in alternatives])
            builder = builder.add_extension(names, critical=False)
        if extension:
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(certificate, private)

    def _begin(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int = 1) -> x509.CertificateBuilder:
        until = dt.datetime.now(dt.UTC) + days * DAY
        return (
            x509.CertificateBuilder()
            .subject_name(subject).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(until - 10 * DAY).not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )  # fmt: skip


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def write_server(folder: Path, authority: Authority, clients: Authority, allow: dict[str, list[str]]) -> str:
    """Write what a server needs; give the section of the configuration."""
    server = authority.issue(SERVER, SERVER)
    for name, content in (
        ("server.pem", server.certificate), ("server.key", server.key), ("clients.pem", clients.certificate),
    ):  # fmt: skip
        (folder / name).write_bytes(content)
    lines = [f'"{name}" = {methods}' for name, methods in allow.items()]
    return "\n".join([
        "[tls]", f'certificate = "{folder / "server.pem"}"', f'key = "{folder / "server.key"}"',
        f'client_authority = "{folder / "clients.pem"}"', "[tls.allow]", *lines, "",
    ])  # fmt: skip


def channel(address: str, authority: Authority, client: Pair | None) -> grpc.Channel:
    """Open a channel to a server that `authority` vouches for, as `client`, or as nobody."""
    credentials = grpc.ssl_channel_credentials(
        authority.certificate, client.key if client else None, client.certificate if client else None
    )
    return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", SERVER)])
