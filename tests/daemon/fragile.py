"""A daemon that breaks when told to: `python -m tests.daemon.fragile serve ...`.

SIGUSR1 lets its server fail at the next connection, SIGUSR2 shuts the sockets that listen on TCP.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any, NoReturn

from daemon.cli.main import run
from daemon.http2.server import Server
from daemon.reach import listening


def _fail_at_the_next_connection(*_: Any) -> None:
    def fail(*_: Any) -> NoReturn:
        raise RuntimeError("a fault of the tests")

    Server._connect = fail  # type: ignore[assignment, method-assign]


def _shut(*_: Any) -> None:
    for descriptor, place in listening().items():
        if not place.address.startswith("unix:"):
            with socket.socket(fileno=os.dup(descriptor)) as shared:
                shared.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _fail_at_the_next_connection)
    signal.signal(signal.SIGUSR2, _shut)
    run()
