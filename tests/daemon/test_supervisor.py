"""What the supervisor hears, on a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from daemon import supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen where a service manager does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield channel


def test_without_a_supervisor_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon started by hand has nobody to tell."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    supervisor.notify("READY=1")
    watched = asyncio.wait_for(supervisor.watch(lambda: "idle", {}), 10)
    assert asyncio.run(watched) is None


def test_abstract_sockets_are_reached() -> None:
    """A name that starts with @ lies in the kernel's own space."""
    name = f"jouled-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}")
        supervisor.notify("READY=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert channel.recv(64) == b"READY=1"


def test_a_start_asks_for_time(manager: socket.socket) -> None:
    """Each step of a start says what it is and prolongs the supervisor's patience."""
    supervisor.starting("opening the devices")
    assert manager.recv(256).decode().splitlines() == [
        "STATUS=starting: opening the devices", "EXTEND_TIMEOUT_USEC=120000000",
    ]  # fmt: skip


def test_a_reload_is_told_with_its_time(manager: socket.socket) -> None:
    """notify-reload wants the monotonic clock's microseconds with it."""
    supervisor.reloading()
    first, second = manager.recv(256).decode().splitlines()
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdigit()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "4000000"}, 2.0),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_how_often_the_watchdog_is_pinged(environment: dict[str, str], seconds: float | None) -> None:
    """At half its patience, if it watches this process."""
    assert supervisor.ping_seconds(environment) == seconds


@pytest.mark.parametrize(("watchdog", "pings"), [({"WATCHDOG_USEC": "4000000"}, True), ({}, False)])
def test_the_status_is_told_with_each_ping(
    manager: socket.socket, watchdog: dict[str, str], *, pings: bool
) -> None:  # fmt: skip
    """The first ping leaves at once."""
    said = asyncio.run(_first(manager, watchdog))
    assert said.splitlines() == [*(["WATCHDOG=1"] if pings else []), "STATUS=policy tight"]


async def _first(manager: socket.socket, watchdog: dict[str, str]) -> str:
    environment = {"NOTIFY_SOCKET": os.environ["NOTIFY_SOCKET"], **watchdog}
    watching = asyncio.create_task(supervisor.watch(lambda: "policy tight", environment))
    said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(manager, 256), 10)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return said.decode()


def test_a_supervisor_that_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    """Its socket's queue is full; the daemon goes on, to its end too."""
    environment = {"NOTIFY_SOCKET": manager.getsockname()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler, suppress(BlockingIOError):
        filler.connect(environment["NOTIFY_SOCKET"])
        while True:
            filler.send(b"noise", socket.MSG_DONTWAIT)

    telling = threading.Thread(target=supervisor.notify, args=("STOPPING=1", environment), daemon=True)
    telling.start()
    telling.join(10)
    assert not telling.is_alive()
