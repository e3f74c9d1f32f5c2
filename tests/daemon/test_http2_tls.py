"""Who gets in by TLS, what is kept of them, and what those get who do not: nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from daemon.config import TlsConfig
from daemon.http2 import frames
from daemon.http2.connection import PROTOCOL
from daemon.http2.frames import frame
from daemon.http2.limits import Limits
from daemon.listener import Listener, tls_context
from tests.daemon.certificates import SERVER, Authority, Pair, write_server
from tests.daemon.http2_rig import MESSAGE_BYTES, SECONDS, START, Client, Rig, begin, data, serving, whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ALLOW = {"camera": ["t/Echo"]}
H2 = (PROTOCOL,)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Make who signs the certificates of both sides."""
    return Authority("authority")


@pytest.fixture(scope="module")
def tls(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """Make what the daemon makes of its key and certificates."""
    folder = tmp_path_factory.mktemp("tls")
    write_server(folder, authority, authority, {})
    return tls_context(
        TlsConfig(
            certificate=str(folder / "server.pem"), key=str(folder / "server.key"),
            client_authority=str(folder / "clients.pem"), allow={},
        )
    )  # fmt: skip


@pytest.fixture
def rig(tls: ssl.SSLContext) -> Iterator[Rig]:
    """Run a server that lets one client in at a time, so that nothing is done for anybody while a place is not free."""
    with serving(Limits(message_bytes=MESSAGE_BYTES, connections=1), tls, make=partial(Listener, allow=ALLOW)) as rig:
        yield rig


def _context(authority: Authority, pair: Pair, folder: Path, offered: Sequence[str] = H2) -> ssl.SSLContext:
    """Make what a client shows and asks for."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    (folder / "client.pem").write_bytes(pair.certificate + pair.key)
    context.load_cert_chain(folder / "client.pem")
    if offered:
        context.set_alpn_protocols(offered)
    return context


def _connect(rig: Rig, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    """Shake hands. Raises `OSError`."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", rig.port), SECONDS)) as connection:
        return context.wrap_socket(connection, server_hostname=SERVER, session=session)


def _is_served(rig: Rig, context: ssl.SSLContext) -> bool:
    """Tell whether a client is answered, once there is a place for it."""
    assert rig.left() == (0, 0, [])
    with Client(rig, connection=_connect(rig, context)) as client:
        client.send(whole("/t/Echo", b"x"))
        return client.answer().outcome == ("OK", [b"x"])


def _said_to(rig: Rig, context: ssl.SSLContext) -> bytes:
    """Give what a client gets that calls a method at once."""
    said = b""
    with contextlib.suppress(OSError), _connect(rig, context) as connection:
        connection.sendall(START + whole("/t/Echo", b"x"))
        while read := connection.recv(1 << 16):
            said += read
    return said


@pytest.mark.parametrize("offered", [(), ("http/1.1",), ("h2c", "grpc-exp")])
def test_other_protocols(rig: Rig, authority: Authority, tmp_path: Path, offered: tuple[str, ...]) -> None:
    """Who does not offer HTTP/2 within TLS is told nothing, and keeps no place."""
    camera = authority.issue("camera")
    assert _said_to(rig, _context(authority, camera, tmp_path, offered)) == b""
    assert _is_served(rig, _context(authority, camera, tmp_path, ("http/1.1", PROTOCOL)))


def test_older_tls(rig: Rig, authority: Authority, tmp_path: Path) -> None:
    """TLS 1.2 comes to no agreement, and keeps no place."""
    older = _context(authority, authority.issue("camera"), tmp_path)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _connect(rig, older)
    assert _is_served(rig, _context(authority, authority.issue("camera"), tmp_path))


def test_no_session_is_resumed(rig: Rig, authority: Authority, tmp_path: Path) -> None:
    """No ticket is sent: who comes again must show its certificate again."""
    context = _context(authority, authority.issue("camera"), tmp_path)
    with _connect(rig, context) as connection, Client(rig, connection=connection) as client:
        client.send(whole("/t/Echo", b"x"))
        assert client.answer().outcome == ("OK", [b"x"])
        kept = connection.session
        assert kept
        assert not kept.has_ticket
    rig.left()
    with _connect(rig, context, kept) as connection, Client(rig, connection=connection) as client:
        client.send(whole("/t/Echo", b"x"))
        assert client.answer().outcome == ("OK", [b"x"])
        assert connection.session_reused is False


def test_name_of_a_directory(rig: Rig, authority: Authority, tmp_path: Path) -> None:
    """Names of directories among the alternative ones let in nobody, and lock out nobody."""
    directory = x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera")]))
    both = x509.SubjectAlternativeName([directory, x509.DNSName("camera")])
    assert _is_served(rig, _context(authority, authority.issue("stranger", extension=both), tmp_path))
    alone = x509.SubjectAlternativeName([directory])
    assert not _is_served(rig, _context(authority, authority.issue("stranger", extension=alone), tmp_path))


def test_name_that_is_no_text(rig: Rig, authority: Authority, tmp_path: Path) -> None:
    """A certificate that was signed and cannot be read lets nobody in; the loop and the others do not notice."""
    name = b"\x82\x07cam\xe9r\xe9\xff"
    garbled = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30" + bytes([len(name)]) + name)
    assert _said_to(rig, _context(authority, authority.issue("camera", extension=garbled), tmp_path)) == b""
    assert _is_served(rig, _context(authority, authority.issue("camera"), tmp_path))


def test_failed_handshakes(rig: Rig, authority: Authority, tmp_path: Path) -> None:
    """Who breaks off, speaks no TLS, or shows no good certificate keeps no place."""
    strangers = _context(authority, Authority("authority").issue("camera"), tmp_path)
    expired = _context(authority, authority.issue("camera", days=-1), tmp_path)
    for context in (strangers, expired):
        assert _said_to(rig, context) == b""
        assert _is_served(rig, _context(authority, authority.issue("camera"), tmp_path))
    for said in (b"", b"\x16\x03\x01\x02\x00\x01", START + whole("/t/Echo", b"x")):
        rig.left()
        with (
            socket.create_connection(("127.0.0.1", rig.port), SECONDS) as connection,
            contextlib.suppress(ConnectionError),
        ):
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
        assert _is_served(rig, _context(authority, authority.issue("camera"), tmp_path))


@pytest.mark.parametrize("path", ["/t/Wait", "/t/Deaf"])
def test_denied_before_its_body(rig: Rig, authority: Authority, tmp_path: Path, path: str) -> None:
    """Whoever may not call a method is told so at the headers; no byte of a message is waited for, or kept."""
    context = _context(authority, authority.issue("camera"), tmp_path)
    with Client(rig, connection=_connect(rig, context)) as client:
        client.send(begin(path))
        answer = client.answer()
        assert (answer.outcome, answer.details) == (
            ("PERMISSION_DENIED", []), b"the certificate's names do not allow " + path[3:].encode())  # fmt: skip
        client.until(lambda: answer.reset is not None)
        assert answer.reset == frames.NO_ERROR
        assert rig.do(lambda: rig.server.calls) == 0
        client.send(data(bytes(100)), whole("/t/Echo", b"x", stream=3))
        assert client.answer(3).outcome == ("OK", [b"x"])


AGED = Limits(
    message_bytes=MESSAGE_BYTES, handshake_seconds=0.1, keepalive_seconds=0.05, age_seconds=0.0, age_grace_seconds=1.0
)


def test_age(tls: ssl.SSLContext, authority: Authority, tmp_path: Path) -> None:
    """A connection for which a certificate was good once is told to go, and cut off with its calls in the end."""
    context = _context(authority, authority.issue("camera"), tmp_path)
    with serving(AGED, tls) as rig, Client(rig, connection=_connect(rig, context)) as client:
        client.send(whole("/t/Wait"))
        client.until(lambda: client.goodbyes)
        assert client.goodbyes == [(frames.STREAM_LIMIT, frames.NO_ERROR, b"connection age")]
        assert rig.waiting.acquire(timeout=SECONDS)
        client.until(lambda: False)
        assert not client.answers[1].blocks
        assert rig.cancelled.acquire(timeout=SECONDS)


def test_age_without_certificate() -> None:
    """A connection that showed no certificate may grow as old as it likes."""
    with serving(replace(AGED, age_grace_seconds=0.0)) as rig, Client(rig, START + whole("/t/Wait")) as client:
        for count in range(1, 4):
            client.until(lambda: len([came for came in client.frames if came.kind == frames.PING]) >= count)  # noqa: B023
            client.send(frame(frames.SETTINGS, frames.ACK, 0))
        assert client.open
        assert client.goodbyes == []
