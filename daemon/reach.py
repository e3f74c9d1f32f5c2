"""Whether clients reach the daemon: its servers take calls, and its sockets listen where they are looked for."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from daemon.http2.server import Server

LOOK_SECONDS = 1.0


class Unreachable(Exception):
    """Clients do not reach the daemon any more, though it runs: the message says why."""


class Place(NamedTuple):
    """Where a socket listens: its address, and the inode of the file where it has one."""

    address: str
    inode: int


def listening() -> dict[int, Place]:
    """Find the sockets of this process that listen, by descriptor."""
    descriptors = [int(file.name) for file in Path("/proc/self/fd").iterdir()]
    return {descriptor: place for descriptor in descriptors if (place := _place(descriptor))}


async def until_told_or_lost(stop: asyncio.Event, servers: Sequence[Server]) -> str:
    """Wait until the daemon is told to stop; where clients lose it before, give the reason.

    A server may end, its socket be closed, the file of a Unix socket be removed. Nobody connects here to try that:
    then whoever takes all connections of a port would end the daemon.
    """
    sockets = listening()
    stopping = asyncio.create_task(stop.wait())
    ends = {asyncio.create_task(server.wait_until_ended()) for server in servers}
    try:
        while True:
            done, _ = await asyncio.wait({stopping, *ends}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if stopping in done:
                return ""
            for end in done & ends:
                return f"a server ended: {end.result()}"
            for descriptor, place in sockets.items():
                if _place(descriptor) != place:
                    return f"{place.address}: does not listen any more"
    finally:
        for task in (stopping, *ends):
            task.cancel()


def _place(descriptor: int) -> Place | None:
    """Tell where a descriptor listens; None where it does not, or where its file is gone."""
    with suppress(OSError):
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        with socket.socket(fileno=os.dup(descriptor)) as found:
            if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return None
            address = found.getsockname()
            if found.family == socket.AF_UNIX:
                return Place(f"unix:{address}", Path(address).stat().st_ino)
            return Place(f"{address[0]}:{address[1]}", 0)
    return None
