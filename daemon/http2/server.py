"""A gRPC server: where it listens, whom it lets in, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import structlog

from daemon.http2 import headers
from daemon.http2.compression import ENCODINGS
from daemon.http2.connection import ENDING, PAUSE_SECONDS, Connection
from daemon.http2.limits import Limits
from daemon.http2.method import Method

BACKLOG = 1024
# Errors after which nobody can be let in any more. All others are those of one client, or end when there is room again.
LOST = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}
RETRY_SECONDS = 0.1
# Of the addresses of a name, those of a family that this host does not have are left out.
ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
CLOSE_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(eq=False)
class Place:
    """Where a server listens, and the clients that it has let in there."""

    listening: socket.socket
    tls: ssl.SSLContext | None
    clients: set[Connection] = field(default_factory=set)

    @property
    def address(self) -> str:
        """Name the place."""
        name = self.listening.getsockname()
        return f"unix:{name}" if isinstance(name, str) else f"{name[0]}:{name[1]}"

    def close(self) -> None:
        """Listen no more."""
        if self.listening.fileno() < 0:
            return
        name = self.listening.getsockname()
        self.listening.close()
        if isinstance(name, str):
            _remove_socket(Path(name))


def _remove_socket(path: Path) -> None:
    if path.is_socket():
        path.unlink()


class Server:
    """Methods by their path, and the connections of the clients that call them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.methods: dict[bytes, Method] = {}
        # Calls whose client waits, or whose method still runs; bytes of their messages that came in pieces.
        self.calls = self.kept = 0
        self.stopping = False
        self._places: list[Place] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def clients(self) -> Iterator[Connection]:
        """Give the connections, those that are about to become one as well."""
        return (client for place in self._places for client in tuple(place.clients))

    def bind(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        """Listen at HOST:PORT, on all addresses of the host where it is a name. Raises `OSError`."""
        host, _, port = address.rpartition(":")
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        absent: OSError | None = None
        bound = 0
        for family, kind, protocol, _, place in found:
            listening = socket.socket(family, kind, protocol)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                listening.bind(place)
            except OSError as error:
                listening.close()
                if error.errno not in ABSENT:
                    raise
                absent = error
            else:
                bound += 1
                self._listen(listening, tls)
        if absent and not bound:
            raise absent

    def bind_unix(self, path: Path) -> None:
        """Listen at a path, in the place of a socket that another daemon has left there. Raises `OSError`."""
        _remove_socket(path)
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(str(path))
        except OSError:
            listening.close()
            raise
        self._listen(listening, None)

    def _listen(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        listening.setblocking(False)
        listening.listen(BACKLOG)
        self._places.append(Place(listening, tls))

    def start(self) -> None:
        """Let clients in."""
        self._accepting = [asyncio.create_task(self._accept(place)) for place in self._places]

    async def wait_until_ended(self) -> str:
        """Wait until it lets nobody in any more, and give the reason."""
        ended, _ = await asyncio.wait(self._accepting, return_when=asyncio.FIRST_COMPLETED)
        return "; ".join(str(task.exception()) for task in ended if not task.cancelled())

    async def stop(self, grace_seconds: float) -> None:
        """Let nobody in, answer what was sent, and end what is under way after so long."""
        self.stopping = True
        for task in self._accepting:
            task.cancel()
        for place in self._places:
            place.close()
        for client in self.clients:
            client.leave(ENDING)
        try:
            await asyncio.wait_for(self._empty.wait(), grace_seconds)
        except TimeoutError:
            for client in self.clients:
                client.cut()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), CLOSE_SECONDS)

    def refusal(self, head: headers.Head, client: Connection) -> bytes:
        """Give the answer to a call that is not even begun; empty where there is nothing against it."""
        if not head.content_type.startswith(headers.CONTENT_TYPE):
            return headers.NOT_GRPC
        if head.bytes > self.limits.metadata_bytes:
            return headers.refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"metadata of {head.bytes} bytes exceed the limit of {self.limits.metadata_bytes}",
            )
        if not head.sound:
            return headers.refusal(grpc.StatusCode.INVALID_ARGUMENT, "the headers are not those of a call")
        if head.encoding != headers.IDENTITY and head.encoding not in ENCODINGS:
            return headers.UNSUPPORTED_ENCODING
        if self.calls >= self.limits.calls:
            return headers.refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self.limits.calls} calls are under way, the limit"
            )
        return b""

    def call_begins(self) -> None:
        """Count a call."""
        self.calls += 1
        self._empty.clear()

    def call_ends(self) -> None:
        """Count a call no more, whose client does not wait and whose method does not run."""
        self.calls -= 1
        self._set_if_empty()

    def lost(self, client: Connection) -> None:
        """Let go of a connection that is over, or never came about."""
        for place in self._places:
            place.clients.discard(client)
        self._set_if_empty()

    def _set_if_empty(self) -> None:
        if not self.calls and not any(place.clients for place in self._places):
            self._empty.set()

    async def _accept(self, place: Place) -> None:
        """Let clients in at one place, for ever. Raises `RuntimeError` where it does not listen any more."""
        loop, address = asyncio.get_running_loop(), place.address
        while True:
            try:
                accepted, _ = await loop.sock_accept(place.listening)
            except OSError as error:
                if error.errno in LOST:
                    raise RuntimeError(f"{address}: {error.strerror}") from None
                await asyncio.sleep(RETRY_SECONDS)
                continue
            # Those who come in elsewhere have places of their own: strangers on the network lock out nobody here.
            if len(place.clients) < self.limits.connections:
                client = Connection(self)
                connecting = loop.create_task(self._connect(accepted, client, place.tls))
                place.clients.add(client)
                self._empty.clear()
                self._connecting.add(connecting)
                connecting.add_done_callback(self._connecting.discard)
            else:
                accepted.close()
            # Those who come, are let go and come again do not have the loop to themselves.
            await asyncio.sleep(PAUSE_SECONDS)

    async def _connect(self, accepted: socket.socket, client: Connection, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        patience = self.limits.handshake_seconds if tls else None
        try:
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(lambda: client, accepted, ssl=tls, ssl_handshake_timeout=patience)
        except Exception as error:  # noqa: BLE001 (whatever a stranger's certificate makes the library raise)
            # Whoever has no certificate, or speaks no TLS.
            log.debug("connection refused", reason=str(error))
            accepted.close()
            self.lost(client)
