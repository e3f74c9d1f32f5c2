"""Where a server listens: on the network and at a path, each with room of its own, and what ends neither."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from daemon.http2.limits import Limits
from daemon.http2.server import Server
from tests.daemon.http2_rig import LIMITS, MESSAGE_BYTES, SECONDS, Client, Rig, serving, whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# To close is to reset.
ABRUPT = struct.pack("ii", 1, 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a socket."""
    return tmp_path / "server.sock"


def _local(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(SECONDS)
    connection.connect(str(path))
    return connection


def _is_answered(client: Client) -> bool:
    client.send(whole("/t/Echo", b"x"))
    return client.answer().outcome == ("OK", [b"x"])


def test_full_of_strangers(path: Path) -> None:
    """Whoever takes all places of the network takes none at the path, where there are no more either."""
    with (
        serving(Limits(message_bytes=MESSAGE_BYTES, connections=1), unix=path) as rig,
        Client(rig) as stranger,
        Client(rig) as another,
    ):
        another.until(lambda: False)
        assert another.frames == []
        with Client(rig, connection=_local(path)) as local, Client(rig, connection=_local(path)) as too_many:
            assert _is_answered(local)
            too_many.until(lambda: False)
            assert too_many.frames == []
        assert _is_answered(stranger)


def test_socket_goes_with_its_server(path: Path) -> None:
    """It listens in the place of a socket that was left there, and leaves none when it has stopped."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(path))
    with serving(unix=path) as rig:
        with Client(rig, connection=_local(path)) as client:
            assert _is_answered(client)
        rig.stop().result(SECONDS)
        assert not path.exists()


def test_file_in_the_place_of_a_socket(path: Path) -> None:
    """What is no socket is left alone, at the beginning and at the end."""
    path.write_text("dear")
    with pytest.raises(OSError, match="Address already in use"):
        Server(LIMITS).bind_unix(path)
    assert path.read_text() == "dear"
    path.unlink()
    with serving(unix=path) as rig:
        path.unlink()
        path.write_text("dear as well")
        rig.stop().result(SECONDS)
        assert path.read_text() == "dear as well"


def test_reset_before_it_is_let_in() -> None:
    """Clients that are gone while they wait to be let in end nothing and take no place."""
    with serving() as rig:

        def come_and_go() -> None:
            """Come and go while the loop has no time to let anybody in."""
            for _ in range(3):
                with contextlib.closing(socket.socket()) as connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABRUPT)
                    connection.connect(("127.0.0.1", rig.port))

        rig.do(come_and_go)
        with Client(rig) as client:
            assert _is_answered(client)
        assert rig.left() == (0, 0, [])


def test_no_more_open_files(path: Path) -> None:
    """While the process has no file left, clients wait; they are let in when there is one, wherever they came."""
    with (
        serving(unix=path) as rig,
        contextlib.closing(socket.socket()) as remote,
        contextlib.closing(socket.socket(socket.AF_UNIX)) as local,
    ):
        with _no_more_files():
            for connection, address in ((remote, ("127.0.0.1", rig.port)), (local, str(path))):
                connection.settimeout(SECONDS)
                connection.connect(address)
            _turn(rig)
            assert rig.do(lambda: len(list(rig.server.clients))) == 0
        for connection in (remote, local):
            with Client(rig, connection=connection) as client:
                assert _is_answered(client)


@contextlib.contextmanager
def _no_more_files() -> Iterator[None]:
    """Let the process open no further file for a block."""
    least = os.dup(0)
    os.close(least)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _turn(rig: Rig) -> None:
    """Wait until the loop has looked at all that was there before."""
    rig.do(lambda: None)
    rig.do(lambda: None)
