"""A bounded load on a daemon: a few clients send requests at a steady pace, each with its end and its time."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from tests.daemon.serving import digit_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from protos import jouled_pb2 as pb
    from tests.daemon.serving import Daemon

CLIENTS = 4
# Together they keep a device of 465 images a second, as the simulated stick is one, busy for four fifths of the time.
REQUESTS_PER_SECOND = 372.0
# No request has more time than this, whatever happens to a device.
DEADLINE_SECONDS = 5.0


@dataclass
class Load:
    """What the requests came to: how many were sent, replies, statuses other than OK, and the longest that one took."""

    replies: list[pb.ClassifyReply] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    sent: int = 0
    longest_seconds: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _adding: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        """Count the requests that have ended."""
        return len(self.replies) + len(self.statuses)

    def __str__(self) -> str:
        by_device: dict[str, int] = {}
        for reply in self.replies:
            by_device[reply.device] = by_device.get(reply.device, 0) + 1
        refused = {status: self.statuses.count(status) for status in set(self.statuses)}
        unended = self.sent - self.requests
        return (
            f"{self.sent} requests, answered by {by_device}, refused {refused}, without a status {unended}, "
            f"longest {self.longest_seconds:.3f} s"
        )

    def run(self, daemon: Daemon, image: NDArray[np.uint8]) -> None:
        """Send requests at this client's pace until told to stop; it catches up on none that it was late for."""
        due = time.monotonic()
        while not self._stop.wait(max(due - time.monotonic(), 0.0)):
            started = time.monotonic()
            with self._adding:
                self.sent += 1
            due = max(due, started) + CLIENTS / REQUESTS_PER_SECOND
            try:
                reply = daemon.classifier.Classify(digit_request(image), timeout=DEADLINE_SECONDS)
            except grpc.RpcError as error:
                with self._adding:
                    self.statuses.append(error.code().name)
            else:
                with self._adding:
                    self.replies.append(reply)
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - started)

    def stop(self) -> None:
        """Let every client end with the request that it has."""
        self._stop.set()


@contextlib.contextmanager
def loading(daemon: Daemon, image: NDArray[np.uint8]) -> Iterator[Load]:
    """Load a daemon until the end of the block; then every request has ended."""
    load = Load()
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(load.run, daemon, image) for _ in range(CLIENTS)]
        try:
            yield load
        finally:
            load.stop()
        for each in running:
            each.result()
