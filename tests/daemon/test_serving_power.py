"""Power states, triggers and reload of a running daemon, as clients and the operator see them."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import grpc
import pytest

from daemon.audit import audit
from daemon.history import read_journal
from hal.energy import ncs2
from protos import jouled_pb2 as pb
from tests.daemon.serving import CALL_SECONDS, Daemon, configuration

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon

STICK = '[device.stick]\ndriver = "ncs2-sim"\n'
POLICIES = """
[policy.whole]
strategy = "accuracy"
budget_watts = 100.0
[policy.nothing]
strategy = "accuracy"
budget_watts = 0.0
power_down = ["stick"]
[policy.sparing]
strategy = "accuracy"
budget_watts = 100.0
power_down = ["stick"]
"""


def _stick(daemon: Daemon) -> pb.DeviceState:
    (device,) = daemon.control.Devices(pb.DevicesRequest(), timeout=CALL_SECONDS).devices
    assert isinstance(device, pb.DeviceState)
    return device


def _until(happened: Callable[[], bool]) -> None:
    """Wait for what the daemon does by itself."""
    deadline = time.monotonic() + CALL_SECONDS
    while not happened():
        assert time.monotonic() < deadline


def test_down_and_up(start_daemon: StartDaemon, tmp_path: Path, image: NDArray[np.uint8]) -> None:
    """A budget of nothing powers the stick down; a request with time for its firmware to boot brings it back."""
    daemon = start_daemon(configuration(POLICIES, start="whole", devices=STICK), state=tmp_path)
    assert (_stick(daemon).power, _stick(daemon).static_watts) == ("on", ncs2.IDLE_WATTS)
    assert _stick(daemon).break_even_seconds == 5.0
    daemon.set_policy("nothing")
    _until(lambda: _stick(daemon).power == "off")
    assert (_stick(daemon).static_watts, daemon.status().budget.static_nanojoules) == (0.0, 0)
    daemon.set_policy("sparing")
    assert _stick(daemon).power == "off"
    assert daemon.classify(image).queue_seconds > ncs2.REOPENING_SECONDS * 0.99
    assert (_stick(daemon).power, _stick(daemon).static_watts) == ("on", ncs2.IDLE_WATTS)
    (maintenance,) = [row for row in daemon.rows() if row.status == "maintenance"]
    assert maintenance.dynamic_nanojoules == round(ncs2.dynamic_joules(ncs2.REOPENING_SECONDS) * 1e9)
    daemon.stop()
    assert [finding.violations for finding in audit(read_journal(tmp_path / "journal.db"))] == [[]] * 4


def test_policy_that_keeps_it_on(start_daemon: StartDaemon) -> None:
    """A switch to a policy that does not let the stick be down brings it back without a request."""
    daemon = start_daemon(configuration(POLICIES, start="nothing", devices=STICK))
    _until(lambda: _stick(daemon).power == "off")
    daemon.set_policy("whole")
    assert _stick(daemon).power == "opening"
    _until(lambda: _stick(daemon).power == "on")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("budget_watts = 100.0", "budget_watts = -1.0", "policy.whole.budget_watts: Expected `float` >= 0.0"),
        ("budget_watts = 100.0", "budget_watts = 0.1", "policy.whole.budget_watts: 0.1 is below the static power"),
        ("100.0\n", "100.0\nmin_accuracy = 1.0\n", "policy.whole.min_accuracy: 1 is reached by no operating point"),
        ("100.0\n", "100.0\nwindow_seconds = 60.0\n", "policy.whole.window_seconds: 60 exceeds the 10 s of which"),
        ('["stick"]', '["stik"]', "policy.nothing.power_down: no such device 'stik'; did you mean 'stick'?"),
    ],
)
def test_refused_reload(start_daemon: StartDaemon, old: str, new: str, complaint: str) -> None:
    """An invalid file is refused with key and reason; the old policies stay in force."""
    config = configuration(POLICIES, start="whole", devices=STICK)
    daemon = start_daemon(config)
    before = daemon.control.Policies(pb.PoliciesRequest(), timeout=CALL_SECONDS)
    assert old in config
    (daemon.places.folder / "jouled.toml").write_text(config.replace(old, new, 1))
    with pytest.raises(grpc.RpcError) as caught:
        daemon.control.Reload(pb.ReloadRequest(), timeout=CALL_SECONDS)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert complaint in (caught.value.details() or "")
    assert daemon.control.Policies(pb.PoliciesRequest(), timeout=CALL_SECONDS) == before


def test_reload(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """A valid file's policies are taken over at once, and the one in force stays so under its new terms."""
    config = configuration(POLICIES, start="whole", devices=STICK)
    daemon = start_daemon(config)
    changed = config.replace("100.0", "50.0", 1).replace("[policy.sparing]", "[policy.frugal]")
    file = daemon.places.folder / "jouled.toml"
    file.write_text(changed + "[server]\nbatch_limit = 3\n")
    reply = daemon.control.Reload(pb.ReloadRequest(), timeout=CALL_SECONDS)
    assert reply == pb.ReloadReply(
        policy="whole", added=["frugal"], removed=["sparing"], changed=["whole"], needs_restart=["server"]
    )
    assert daemon.status().budget.limit_nanojoules == 500 * 10**9
    file.write_text(configuration(POLICIES.replace("[policy.whole]", "[policy.all]"), start="sparing", devices=STICK))
    assert daemon.control.Reload(pb.ReloadRequest(), timeout=CALL_SECONDS).policy == "sparing"
    assert daemon.classify(image).policy == "sparing"


def _told(daemon: Daemon) -> str:
    """Give what the supervisor is told next, the status aside."""
    daemon.supervisor.settimeout(CALL_SECONDS)
    while (said := daemon.supervisor.recv(4096).decode()).startswith("STATUS="):
        pass
    return said


def test_reload_by_signal(start_daemon: StartDaemon) -> None:
    """SIGHUP reloads too, and the supervisor is told of both ends; a file that is refused is an error in the log."""
    config = configuration(POLICIES, start="whole", devices=STICK)
    daemon = start_daemon(config)
    file = daemon.places.folder / "jouled.toml"
    for text in (config.replace("100.0", "50.0", 1), "["):
        file.write_text(text)
        daemon.process.send_signal(signal.SIGHUP)
        assert _told(daemon).startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert _told(daemon) == "READY=1"
    assert daemon.status().budget.limit_nanojoules == 500 * 10**9
    daemon.stop(may_log=["configuration refused"])
    assert sum("configuration refused" in line for line in daemon.log) == 1


def test_trigger(start_daemon: StartDaemon) -> None:
    """A trigger whose hours are now switches soon after the start; without it the start policy is back."""
    config = configuration(POLICIES, start="whole", devices=STICK)
    daemon = start_daemon(config + '[[trigger]]\npolicy = "sparing"\nhours = "00:00-00:00"\n')
    _until(lambda: daemon.status().policy == "sparing")
    (line,) = [line for line in daemon.log if "policy switched" in line]
    assert all(word in line for word in ("policy=sparing", "previous=whole", 'reason="trigger[0] holds"'))
    daemon.set_policy("nothing")
    daemon.control.Reload(pb.ReloadRequest(), timeout=CALL_SECONDS)
    assert daemon.status().policy == "nothing"
