"""Clients outside the container, on the daemon's own sockets."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Self

import grpc
import numpy as np

from daemon.client import classifier, control
from models.data import digits
from protos import jouled_pb2 as pb
from tests.daemon.serving import digit_request

if TYPE_CHECKING:
    from tests.e2e.container import Container

CALL_SECONDS = 10.0


def classify(container: Container) -> pb.ClassifyReply:
    """Classify one digit, a zero."""
    part = digits.load()[1]
    image = np.asarray(part.images[part.labels == 0][0])
    stub = classifier(f"unix:{container.runtime / 'jouled.sock'}")
    reply: pb.ClassifyReply = stub.Classify(digit_request(image), timeout=CALL_SECONDS)
    return reply


def policy(container: Container) -> str:
    """Ask which policy is in force."""
    return str(control(container.runtime).Status(pb.StatusRequest(), timeout=CALL_SECONDS).policy)


class Load:
    """Requests from several threads until the end of the block; `ends` counts how they ended."""

    def __init__(self, container: Container, threads: int = 4) -> None:
        self.ends: Counter[str] = Counter()
        self.replies: list[int] = []
        self._container = container
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        while not self.replies:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        request = digit_request(np.zeros((8, 8), np.uint8))
        address = f"unix:{self._container.runtime / 'jouled.sock'}"
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 100)]
        with grpc.insecure_channel(address, options=options) as channel:
            call = channel.unary_unary(
                "/jouled.v1.Classifier/Classify",
                request_serializer=pb.ClassifyRequest.SerializeToString,
                response_deserializer=pb.ClassifyReply.FromString,
            )
            while not self._stop.is_set():
                try:
                    self.replies.append(call(request, timeout=CALL_SECONDS).request_id)
                    self.ends["OK"] += 1
                except grpc.RpcError as error:
                    self.ends[error.code().name] += 1
                    time.sleep(0.01)
