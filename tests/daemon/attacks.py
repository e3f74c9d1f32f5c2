"""What a hostile client does to the daemon's port, while a good client's requests are timed beside it.

    python -m tests.daemon.attacks ATTACK PORT SIZE

It is a process of its own, so that a good client waits for nothing but the daemon.
"""

from __future__ import annotations

import contextlib
import io
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import numpy as np
import psutil
from PIL import Image

from protos import jouled_pb2 as pb
from tests.daemon.serving import CALL_SECONDS, digit_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from tests.daemon.serving import Daemon

PATH = b"/jouled.v1.Classifier/Classify"
STREAM_PATH = b"/jouled.v1.Classifier/ClassifyStream"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Types and flags of frames, RFC 9113.
DATA, HEADERS, RESET, SETTINGS, PING = 0, 1, 3, 4, 6
# What a peer may send on a stream before it is told more, RFC 9113.
WINDOW_BYTES = 65_535
# Bytes that each slow client sends, and how long those that read nothing stay.
DRIPS = 50
DEAF_SECONDS = 1.0
END_HEADERS = 4
# Frames that are sent at once.
FRAMES = 100
GOOD_PERIOD_SECONDS = 0.02
LEAST_REQUESTS = 50
MEBIBYTE = 1 << 20
TOP = Path(__file__).parents[2]


def _frame(kind: int, payload: bytes, *, stream: int = 0, flags: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _headers(path: bytes = PATH) -> bytes:
    """Begin a call: fields of the static table of RFC 7541, and literals that are not indexed."""
    names = ((b"\x04", path), (b"\x01", b"localhost"), (b"\x0f\x10", b"application/grpc"))
    return (
        b"\x83\x86" + b"".join(name + bytes([len(value)]) + value for name, value in names) + b"\x00\x02te\x08trailers"
    )


def _connect(port: int, receive_bytes: int = 0) -> socket.socket:
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(CALL_SECONDS)
    connection.connect(("127.0.0.1", port))
    return connection


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
            _refused(call, bytes(64 * MEBIBYTE), grpc.StatusCode.RESOURCE_EXHAUSTED, compression=grpc.Compression.Gzip)


def slow_clients(port: int, count: int) -> None:
    """Begin calls on connections of their own; send each message a byte at a time, and read nothing."""
    message = b"\0" + (1 << 10).to_bytes(4, "big") + bytes(1 << 10)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(_connect(port)) for _ in range(count)]
        for connection in connections:
            connection.sendall(
                PREFACE + _frame(SETTINGS, b"") + _frame(HEADERS, _headers(), stream=1, flags=END_HEADERS)
            )
        for byte in message[:DRIPS]:
            for connection in connections:
                connection.sendall(_frame(DATA, bytes([byte]), stream=1))


def deaf_clients(port: int, count: int) -> None:
    """Ask for a stream of answers and read none of them, on connections whose buffers are small."""
    image = digit_request(np.zeros((8, 8), np.uint8)).SerializeToString()
    request = b"\0" + len(image).to_bytes(4, "big") + image
    headers = _headers(STREAM_PATH)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(_connect(port, receive_bytes=4096))
            connection.sendall(PREFACE + _frame(SETTINGS, b"") + _frame(HEADERS, headers, stream=1, flags=END_HEADERS))
            # Half of the window that the daemon gives a stream at first.
            connection.sendall(_frame(DATA, request, stream=1) * (WINDOW_BYTES // 2 // len(request)))
        threading.Event().wait(DEAF_SECONDS)


def image_bombs(port: int, count: int) -> None:
    """Send small files that would become large pictures; each is refused."""
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    request = pb.ClassifyRequest(model="digits", image=buffer.getvalue()).SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(PATH.decode(), request_serializer=bytes, response_deserializer=bytes)
        for _ in range(count):
            _refused(call, request, grpc.StatusCode.INVALID_ARGUMENT)


def _refused(call: Any, request: bytes, code: grpc.StatusCode, **options: Any) -> None:
    try:
        call(request, timeout=CALL_SECONDS, **options)
    except grpc.RpcError as error:
        assert error.code() is code, error  # noqa: PT017
    else:
        raise AssertionError("what is refused was taken")


class Attack(NamedTuple):
    """An attack, and how many connections, streams, frames or messages it is in full.

    Where it asks for answers as anybody may, a good client waits in line with it.
    """

    name: str
    run: Callable[[int, int], None]
    size: int
    asks_for_work: bool = False


ATTACKS = (
    Attack("rapid reset", rapid_reset, 20_000),
    Attack("ping flood", ping_flood, 20_000),
    Attack("idle connections", idle_connections, 10_000),
    Attack("slow clients", slow_clients, 200),
    Attack("clients that read nothing", deaf_clients, 200, asks_for_work=True),
    Attack("garbage", garbage, 1000),
    Attack("gzip bomb", gzip_bomb, 10),
    Attack("image bomb", image_bombs, 100),
)


@dataclass
class Survived:
    """What a good client saw meanwhile, and before, and the daemon's resident memory before and after, in bytes."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    journaled: list[bool] = field(default_factory=list)
    quiet_p99_seconds: float = 0.0
    before_bytes: int = 0
    after_bytes: int = 0

    @property
    def p99_seconds(self) -> float:
        """Give how long all but one of a hundred requests took at most."""
        return float(np.percentile(self.seconds, 99))

    @property
    def figures(self) -> dict[str, float]:
        """Give what is told of it: a good client's requests, those that failed, times, and what memory was kept."""
        return {
            "requests": len(self.seconds), "failures": len(self.failures), "p99_seconds": self.p99_seconds,
            "quiet_p99_seconds": self.quiet_p99_seconds,
            "kept_mebibytes": (self.after_bytes - self.before_bytes) / MEBIBYTE,
        }  # fmt: skip


def survive(daemon: Daemon, image: NDArray[np.uint8], attack: Attack, size: int) -> Survived:
    """Attack, while a good client is served."""
    with serving(daemon, image) as survived:
        command = [sys.executable, "-m", "tests.daemon.attacks", attack.name, str(daemon.places.port), str(size)]
        subprocess.run(command, check=True, cwd=TOP)
    return survived


@contextlib.contextmanager
def serving(daemon: Daemon, image: NDArray[np.uint8]) -> Iterator[Survived]:
    """Let a good client send a request each 20 ms until the end of the block, some of them later if it is short.

    Before, it sends some while nothing else happens. In the end descriptors are as before, or a while is over.
    """
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
                survived.journaled.append(daemon.classifier.Classify(request, timeout=CALL_SECONDS).journaled)
            except grpc.RpcError as error:
                survived.failures.append(error.code().name)
            survived.seconds.append(time.monotonic() - began)

    good = threading.Thread(target=ask)
    good.start()
    try:
        yield survived
    finally:
        over.set()
        good.join()
    wait_for_descriptors(process, descriptors)
    survived.after_bytes = process.memory_info().rss


def wait_for_descriptors(process: psutil.Process, count: int) -> None:
    """Wait until a process has no more descriptors open than so many, for a while."""
    until, pause = time.monotonic() + CALL_SECONDS, threading.Event()
    while process.num_fds() > count and time.monotonic() < until:
        pause.wait(0.05)


if __name__ == "__main__":
    name, port, size = sys.argv[1:]
    next(attack for attack in ATTACKS if attack.name == name).run(int(port), int(size))
