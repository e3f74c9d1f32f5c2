"""A daemon that cannot serve as configured says why in one sentence; what is broken keeps nothing else from serving."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import psutil
import pytest

from daemon.repository import SHIPPED
from hal.energy import ncs2
from protos import jouled_pb2 as pb
from tests.daemon.refusals import refusal
from tests.daemon.serving import CALL_SECONDS, Daemon, configuration, digit_request, places, refuses_to_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon
    from tests.daemon.serving import Places

POLICY = """
[policy.only]
strategy = "accuracy"
budget_watts = 100.0
"""
CONFIG = configuration(POLICY, start="only")
METERS = """
[[meters.account]]
devices = ["{}"]
meters = [{}]
"""


@pytest.fixture
def place() -> Iterator[Places]:
    """Give a folder and a port to start at."""
    with places() as free:
        yield free


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("start_policy = only", "Invalid value (at line 1, column 16)"),
        (CONFIG + "budget = 1\n", "policy.only.budget: unknown key; did you mean 'budget_watts'?"),
        (CONFIG.replace('"ncs2-sim"', '"ncs3-sim"'), "device.ncs2-sim.driver: unknown driver 'ncs3-sim'; did you mean"),
        (CONFIG.replace("100.0", "0.3"), "policy.only.budget_watts: 0.3 is below the static power of 0."),
        (CONFIG + METERS.format("cpuu", ""), "meters: unknown device 'cpuu'; did you mean 'cpu'?"),
        (CONFIG + METERS.format("cpu", "'rapl:x'"), "meters: unknown meter 'rapl:x'; known are none"),
        (CONFIG + METERS.format("cpu", "") * 2, "meters: device cpu is in two accounts: its joules would be counted"),
        ("repository = 'nowhere'\n" + CONFIG, "nowhere: the repository is not a folder"),
    ],
)
def test_broken_configuration(place: Places, config: str, complaint: str) -> None:
    """The sentence names the file, the key and the reason."""
    said = refuses_to_start(config, place)
    file = place.folder / "jouled.toml"
    assert said.startswith(f"jouled: {file}: ")
    assert complaint in said


def test_tcp_stays_on_this_host(place: Places) -> None:
    """Without encryption the daemon listens for this host's clients only."""
    place.host = "0.0.0.0"  # noqa: S104 (this is what must not be)
    assert "server.tcp_address: '0.0.0.0:" in (said := refuses_to_start(CONFIG, place))
    assert "is not HOST:PORT on loopback" in said


@pytest.mark.parametrize("broken", ["snn/network.safetensors", "dnn/model.bin"])
def test_artifact_with_one_flipped_bit(
    start_daemon: StartDaemon, tmp_path: Path, image: NDArray[np.uint8], broken: str
) -> None:
    """The altered variant is refused by its name, the other one serves on."""
    shutil.copytree(SHIPPED / "digits", tmp_path / "digits")
    file = tmp_path / "digits" / "1" / broken
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    variant, name = broken.split("/")
    other = {"snn": "dnn", "dnn": "snn"}[variant]
    served = start_daemon(configuration(POLICY, start="only", repository=tmp_path), may_log=["artifact refused"])
    assert served.classify(image).variant == other
    (line,) = [line for line in served.log if "artifact refused" in line]
    assert f"artifact=digits/1/{variant}" in line
    assert f"{name} has SHA-256 " in line
    problems = [each for model in served.control.Models(pb.ModelsRequest()).models for each in model.problems]
    assert len(problems) == 1
    assert problems[0].startswith(f"digits/1/{variant}: {name} has SHA-256 ")


def test_second_daemon_on_the_same_port(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """The second one ends, the first one serves on."""
    first = start_daemon(CONFIG)
    with places(port=first.places.port) as same_port:
        said = refuses_to_start(CONFIG, same_port)
    assert said == f"jouled: {first.address}: cannot be bound: Address already in use; is another daemon running?"
    assert_serves(first, image)


def test_second_daemon_on_the_same_journal(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """Two daemons never share a journal: the second one ends, the first one serves on."""
    first = start_daemon(CONFIG)
    with places(state=first.places.state) as same_state:
        said = refuses_to_start(CONFIG, same_state)
    assert said == f"jouled: {first.places.state}: another daemon keeps its journal here"
    assert_serves(first, image)


def test_second_daemon_on_the_same_sockets(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """Two daemons never share their sockets: the second one ends, the first one is still reached through them."""
    first = start_daemon(CONFIG)
    with places(runtime=first.places.runtime) as same_runtime:
        said = refuses_to_start(CONFIG, same_runtime)
    assert said == f"jouled: {first.places.runtime}: another daemon has its sockets here"
    assert_serves(first, image)


def assert_serves(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Assert that a daemon answers on new connections to each of its sockets."""
    assert daemon.classify(image).labels[0].name == "0"
    for target in (f"unix:{daemon.places.runtime / 'jouled.sock'}", daemon.address):
        grpc.channel_ready_future(daemon.channel(target)).result(CALL_SECONDS)
    assert daemon.status().policy == "only"


def test_socket_that_a_dead_daemon_left(start_daemon: StartDaemon, tmp_path: Path, image: NDArray[np.uint8]) -> None:
    """The sockets that a killed daemon left behind do not keep the next one from starting."""
    first = start_daemon(CONFIG)
    first.kill()
    assert (first.places.runtime / "jouled.sock").is_socket()
    second = start_daemon(CONFIG, runtime=first.places.runtime, state=tmp_path)
    assert_serves(second, image)


def test_journal_below_a_file(place: Places) -> None:
    """A journal that can have no folder is named with the reason."""
    place.folder.joinpath("file").write_text("")
    place.state = place.folder / "file" / "state"
    said = refuses_to_start(CONFIG, place)
    assert said == f"jouled: {place.state}: Not a directory"


def test_no_write_permission_for_the_journal(place: Places) -> None:
    """A journal that may not be written is named with the reason."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("setpriv is not installed, and root may write anywhere")
        prefix = [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
    place.state.mkdir(mode=0o500)
    said = refuses_to_start(CONFIG, place, prefix=prefix)
    assert said == f"jouled: {place.state / 'tail'}: Permission denied"


def test_journal_that_is_no_database(start_daemon: StartDaemon, tmp_path: Path, image: NDArray[np.uint8]) -> None:
    """A journal that cannot be read is set aside as it is, and counts as a full window."""
    database = tmp_path / "journal.db"
    database.write_text("a shopping list, " * 100)
    daemon = start_daemon(CONFIG, state=tmp_path, may_log=["journal cannot be read"])
    (aside,) = tmp_path.glob("journal.unreadable-*.db")
    assert aside.read_text().startswith("a shopping list")
    budget = daemon.status().budget
    assert budget.spent_nanojoules == budget.limit_nanojoules
    answer = refusal(lambda: daemon.classifier.Classify(digit_request(image), timeout=1.0))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_socket_path_beyond_the_limit(place: Places) -> None:
    """A Unix socket whose path the kernel would not take is refused by its length."""
    place.runtime = place.folder / ("x" * 90)
    assert "exceed the 107 of a Unix socket's path" in refuses_to_start(CONFIG, place)


def test_budget_of_static_power_alone_may_start(start_daemon: StartDaemon) -> None:
    """The limit may be as low as the static power, at which nothing can be served."""
    devices = '[device.stick]\ndriver = "ncs2-sim"\n'
    lowest = POLICY.replace("100.0", str(ncs2.IDLE_WATTS))
    status = start_daemon(configuration(lowest, start="only", devices=devices)).status()
    assert status.budget.limit_nanojoules == status.budget.static_nanojoules


def test_nobody_is_told(start_daemon: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon starts no other process, leaves nothing in its user's home and calls nobody."""
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    process = psutil.Process(start_daemon(CONFIG).process.pid)
    assert process.children() == []
    assert [place.name for place in tmp_path.iterdir()] == []
    assert [connection for connection in process.net_connections() if connection.raddr] == []


def test_told_to_stop_before_it_is_ready(place: Places) -> None:
    """A device that takes its time to open does not keep the daemon from ending, and ending well."""
    opening, leave = place.folder / "opening", place.folder / "leave"
    for pipe in (opening, leave):
        os.mkfifo(pipe)
    slow = place.folder / "slow"
    slow.write_text(f"#!/bin/sh\necho > {opening}\nread answer < {leave}\n")
    slow.chmod(0o755)
    device = f"[device.cpu]\ndriver = 'cpu'\nworker = true\npython = '{slow}'\n"
    config = configuration(POLICY, start="only", devices=device)
    with subprocess.Popen(place.command(config), stderr=subprocess.PIPE, text=True) as daemon:
        assert opening.read_text() == "\n"
        daemon.send_signal(signal.SIGTERM)
        assert daemon.stderr is not None
        assert any("told to stop before it was ready" in line for line in daemon.stderr)
        leave.write_text("go\n")
        assert not any("event=ready" in line for line in daemon.stderr)
    assert daemon.returncode == 0
