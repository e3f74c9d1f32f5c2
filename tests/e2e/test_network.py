"""The daemon on a network, through its drop-in for mutual TLS: who has no right there gets nothing.

The container's network is its own: the address is one of its loopback device, and off loopback all the same.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon.certificates import SERVER, Authority, Pair
from tests.e2e.clients import classify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.container import Container

    Record = Callable[[str, Any], None]

TOP = Path(__file__).parents[2]
CONFIGURATION = "/etc/jouled/jouled.toml"
# An address for documentation, RFC 5737.
ADDRESS, PORT = "192.0.2.1", 8001
DROP_IN = "/etc/systemd/system/jouled.service.d/mtls.conf"
SERVER_SECTION = f"""[server]
tcp_address = "{ADDRESS}:{PORT}"
"""
TLS = """
[tls]
certificate = "/etc/jouled/tls/server.pem"
key = "/run/credentials/jouled.service/tls.key"
client_authority = "/etc/jouled/tls/clients.pem"
[tls.allow]
camera = ["jouled.v1.Classifier/Classify"]
watcher = ["grpc.health.v1.Health/Check"]
"""
# SIOCSIFADDR and SIOCSIFFLAGS of netdevice(7), by which `lo:1` gets the address; the container has no ip(8).
ADD_ADDRESS = f"""
import fcntl, socket, struct
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
    address = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton("{ADDRESS}"))
    fcntl.ioctl(channel, 0x8916, address)
    fcntl.ioctl(channel, 0x8914, struct.pack("16sH14x", b"lo:1", 1))
"""
RESTART_SECONDS = 20.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Make who signs all certificates."""
    return Authority("authority")


@pytest.fixture(scope="module")
def networked(container: Container, authority: Authority) -> Iterator[Container]:
    """Give the service the drop-in, certificates, and an address on a network."""
    container.run("python3", "-c", ADD_ADDRESS)
    file, before = container.path(CONFIGURATION), container.path(CONFIGURATION).read_text()
    assert before.count("[server]") == 1
    folder = container.path("/etc/jouled/tls")
    folder.mkdir()
    server = authority.issue(SERVER, SERVER)
    (folder / "server.pem").write_bytes(server.certificate)
    (folder / "clients.pem").write_bytes(authority.certificate)
    (folder / "server.key").touch(mode=0o600)
    (folder / "server.key").write_bytes(server.key)
    drop_in = container.path(DROP_IN)
    drop_in.parent.mkdir(parents=True)
    shutil.copy(TOP / "systemd" / "drop-ins" / "mtls.conf", drop_in)
    file.write_text(before.replace("[server]\n", SERVER_SECTION) + TLS)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "reset-failed", "jouled")
    container.run("systemctl", "restart", "jouled")
    container.wait_until("active", RESTART_SECONDS)
    yield container
    file.write_text(before)
    shutil.rmtree(drop_in.parent)
    shutil.rmtree(folder)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "restart", "jouled")
    container.wait_until("active", RESTART_SECONDS)


@pytest.fixture
def ask(networked: Container, authority: Authority, tmp_path: Path) -> Callable[..., list[str]]:
    """Give what asks for a label over the network with a certificate, or with none, and tells how that ended."""

    def in_the_network(client: Pair | None, *, plain: bool = False) -> list[str]:
        files = {} if plain else {"authority": authority.certificate}
        if client:
            files |= {"certificate": client.certificate, "key": client.key}
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        command = ["nsenter", "-t", str(networked.leader), "-n", sys.executable, "-m", "tests.e2e.caller"]
        paths = [tmp_path / name for name in files]
        said = subprocess.run([*command, f"{ADDRESS}:{PORT}", *paths], check=True, capture_output=True, cwd=TOP)
        ends: list[str] = json.loads(said.stdout)
        return ends

    return in_the_network


def test_allowed(ask: Callable[..., list[str]], authority: Authority) -> None:
    """Who is listed for a method is answered."""
    assert ask(authority.issue("camera")) == ["OK", ""]


@pytest.mark.parametrize("client", ["nobody", "in the clear", "of another authority", "expired"])
def test_nothing_answers(
    ask: Callable[..., list[str]], authority: Authority, client: str, record_property: Record
) -> None:
    """Without a certificate that is good now no connection comes about."""
    pair = {
        "of another authority": Authority("authority").issue("camera"),
        "expired": authority.issue("camera", days=-1),
    }
    code, _ = ask(pair.get(client), plain=client == "in the clear")
    record_property("answered", int(code == "OK"))
    assert code == "UNAVAILABLE"


@pytest.mark.parametrize("name", ["watcher", "stranger"])
def test_denied(networked: Container, ask: Callable[..., list[str]], authority: Authority, name: str) -> None:
    """Who is listed for another method, or for none, is denied, and systemd's journal has it."""
    assert ask(authority.issue(name)) == ["PERMISSION_DENIED", "the certificate's names do not allow Classify"]
    said = networked.run("journalctl", "-u", "jouled", "-n", "20", "-o", "json").stdout
    denied = [entry for entry in map(json.loads, said.splitlines()) if "call denied" in str(entry["MESSAGE"])]
    assert any(name in json.dumps(entry) for entry in denied), said


def test_the_socket_needs_no_certificate(networked: Container) -> None:
    """Clients of this host go on as before."""
    assert classify(networked).labels[0].name == "0"
    assert Path(f"/proc/{networked.main_pid}/root/etc/jouled/tls/server.key").stat().st_mode & 0o077 == 0
