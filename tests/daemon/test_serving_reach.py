"""A daemon that clients do not reach any more answers what it accepted and ends; its supervisor starts another one."""

from __future__ import annotations

import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from protos import jouled_pb2 as pb
from tests.daemon.conftest import ROOMY
from tests.daemon.serving import CALL_SECONDS, STOP_SECONDS, Daemon, configuration, running

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

CHIP = '[device.loihi-sim]\ndriver = "loihi-sim"\n'


def _fail(daemon: Daemon, image: NDArray[np.uint8]) -> str:
    """Let the server fail as it takes the next connection; a call on another one is answered all the same."""
    daemon.process.send_signal(signal.SIGUSR1)
    with socket.create_connection(("127.0.0.1", daemon.places.port), CALL_SECONDS):
        assert daemon.classify(image).labels[0].name == "0"
    return "a server ended: a fault of the tests"


def _fail_of_the_operator(daemon: Daemon, _: NDArray[np.uint8]) -> str:
    daemon.process.send_signal(signal.SIGUSR1)
    with socket.socket(socket.AF_UNIX) as operator:
        operator.connect(str(daemon.places.runtime / "control" / "control.sock"))
        assert daemon.status().policy == "roomy"
    return "a server ended: a fault of the tests"


def _shut(daemon: Daemon, _: NDArray[np.uint8]) -> str:
    daemon.process.send_signal(signal.SIGUSR2)
    return f"a server ended: 127.0.0.1:{daemon.places.port}: "


def _remove(daemon: Daemon, _: NDArray[np.uint8]) -> str:
    path = daemon.places.runtime / "jouled.sock"
    path.unlink()
    return f"unix:{path}: does not listen any more"


def _replace(daemon: Daemon, _: NDArray[np.uint8]) -> str:
    path = daemon.places.runtime / "control" / "control.sock"
    path.unlink()
    path.touch()
    return f"unix:{path}: does not listen any more"


@pytest.mark.parametrize("fault", [_fail, _fail_of_the_operator, _shut, _remove, _replace])
def test_lost(
    image: NDArray[np.uint8], fault: Callable[[Daemon, NDArray[np.uint8]], str],
    record_property: Callable[[str, Any], None],
) -> None:  # fmt: skip
    """Whatever took it from its clients: it says so, and ends with a status that a supervisor takes for a failure."""
    with running(configuration(ROOMY, start="roomy", devices=CHIP), program="tests.daemon.fragile") as daemon:
        assert daemon.classify(image).labels[0].name == "0"
        assert daemon.control.Status(pb.StatusRequest(), timeout=CALL_SECONDS).policy == "roomy"
        began = time.monotonic()
        why = fault(daemon, image)
        assert daemon.process.wait(STOP_SECONDS) == 1
        record_property("ended_seconds", time.monotonic() - began)
        (said,) = (line for line in daemon.log if line.startswith("jouled: "))
        assert said.startswith(f"jouled: {why}")
        assert [line for line in daemon.log if "level=error" in line and "do not reach" in line] != []
