"""A daemon that breaks when told to: `python -m tests.daemon.fragile serve ...`.

SIGUSR1 lets its server fail at the next call, SIGUSR2 shuts the sockets that listen on TCP.
"""

from __future__ import annotations

import os
import signal
import socket
from typing import Any, NoReturn

from daemon import grpc_core
from daemon.cli.main import run
from daemon.reach import listening


def _fail_at_the_next_call(*_: Any) -> None:
    def fail(*_: Any) -> NoReturn:
        raise RuntimeError("a fault of the tests")

    grpc_core._Core._make_request_call_future = fail  # type: ignore[assignment, method-assign]


def _shut(*_: Any) -> None:
    for descriptor, place in listening().items():
        if not place.address.startswith("unix:"):
            with socket.socket(fileno=os.dup(descriptor)) as shared:
                shared.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _fail_at_the_next_call)
    signal.signal(signal.SIGUSR2, _shut)
    run()
