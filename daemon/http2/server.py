"""A gRPC server: where it listens, whom it lets in, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import grpc
import structlog

from daemon.http2 import headers
from daemon.http2.call import ENCODINGS, Method
from daemon.http2.connection import Connection
from daemon.http2.limits import Limits

BACKLOG = 1024
# What ends by itself when others let go of what they have.
SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED}
SCARCE_SECONDS = 0.1
# Of the addresses of a name, those of a family that this host does not have are left out.
ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
# What clients are told at the end.
ENDING = "the daemon is about to end"
CLOSE_SECONDS = 1.0
PROTOCOLS = ["h2"]

log = structlog.get_logger()


class Server:
    """Methods by their path, and the connections of the clients that call them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.methods: dict[bytes, Method] = {}
        # Calls that are under way.
        self.calls = 0
        # Bytes of their messages that came in pieces.
        self.kept = 0
        self._connections: set[Connection] = set()
        # Connections, and sockets that are about to become one.
        self._clients = 0
        self._listening: list[tuple[socket.socket, ssl.SSLContext | None]] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._empty = asyncio.Event()
        self._empty.set()

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
        with suppress(FileNotFoundError):
            path.unlink()
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
        if tls:
            tls.set_alpn_protocols(PROTOCOLS)
        self._listening.append((listening, tls))

    def start(self) -> None:
        """Let clients in."""
        self._accepting = [asyncio.create_task(self._accept(*place)) for place in self._listening]

    async def wait_until_ended(self) -> str:
        """Wait until it lets nobody in any more, and give the reason."""
        ended, _ = await asyncio.wait(self._accepting, return_when=asyncio.FIRST_COMPLETED)
        return "; ".join(str(task.exception()) for task in ended if not task.cancelled())

    async def stop(self, grace_seconds: float) -> None:
        """Let nobody in, answer what was sent, and end what is under way after so long."""
        for task in self._accepting:
            task.cancel()
        for listening, _ in self._listening:
            listening.close()
        self._stopping = True
        for connection in list(self._connections):
            connection.leave(ENDING)
        try:
            await asyncio.wait_for(self._empty.wait(), grace_seconds)
        except TimeoutError:
            for connection in list(self._connections):
                connection.cut()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), CLOSE_SECONDS)

    def met(self, connection: Connection) -> None:
        """Keep a connection that has begun."""
        self._connections.add(connection)
        if self._stopping:
            connection.leave(ENDING)

    def refusal(self, head: headers.Head) -> bytes:
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
            return headers.OTHERWISE_PACKED
        if self.calls >= self.limits.calls:
            return headers.refusal(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self.limits.calls} calls are under way, the limit"
            )
        return b""

    def lost(self, connection: Connection) -> None:
        """Let go of a connection that is over."""
        self._connections.discard(connection)
        self._leave()

    def _leave(self) -> None:
        self._clients -= 1
        if not self._clients:
            self._empty.set()

    async def _accept(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Let clients in at one place, for ever. Raises `RuntimeError` where it does not listen any more."""
        loop, place = asyncio.get_running_loop(), listening.getsockname()
        address = f"unix:{place}" if isinstance(place, str) else f"{place[0]}:{place[1]}"
        while True:
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno not in SCARCE:
                    raise RuntimeError(f"{address}: {error.strerror}") from None
                await asyncio.sleep(SCARCE_SECONDS)
                continue
            if self._clients >= self.limits.connections:
                client.close()
                continue
            self._clients += 1
            self._empty.clear()
            connecting = loop.create_task(self._connect(client, tls))
            self._connecting.add(connecting)
            connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, client: socket.socket, tls: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        if client.family != socket.AF_UNIX:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        patience = self.limits.handshake_seconds if tls else None
        try:
            await loop.connect_accepted_socket(
                lambda: Connection(self), client, ssl=tls, ssl_handshake_timeout=patience
            )
        except OSError as error:
            # Whoever has no certificate, or speaks no TLS.
            log.info("connection refused", reason=str(error))
            client.close()
            self._leave()
