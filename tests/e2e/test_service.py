"""The installed service under real systemd: what an operator does to it, and what faults do.

How long each took is a property of its test, which `python -m tests.bench.faults` sets beside its bar.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from daemon.audit import audit
from daemon.history import read_journal
from tests.e2e.clients import Load, classify, policy
from tests.e2e.hang import hold_until_killed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.container import Container

    Record = Callable[[str, Any], None]

CONFIGURATION = "/etc/jouled/jouled.toml"
RESTART_SECONDS = 20.0


@pytest.fixture(autouse=True)
def ready(container: Container) -> Iterator[None]:
    """Begin each test with a daemon that is ready and whose failures are forgotten."""
    container.run("systemctl", "reset-failed", "jouled")
    container.run("systemctl", "start", "jouled")
    container.wait_until("active", RESTART_SECONDS)
    yield
    print(container.show("ActiveState", "NRestarts", "StatusText"))


def test_a_request_over_the_socket_is_answered(container: Container) -> None:
    """A client on the host's side of the socket gets a label with its joules; the journal has it."""
    reply = classify(container)
    assert reply.labels[0].name == "0"
    assert reply.energy.dynamic_nanojoules > 0
    said = container.run("jouled", "energy", str(reply.request_id), "--json").stdout
    assert f'"dynamic_nanojoules": {reply.energy.dynamic_nanojoules}' in said


def test_the_status_line_tells_policy_watts_and_devices(container: Container) -> None:
    """`systemctl status` is enough to see how the daemon fares."""
    (status,) = container.show("StatusText")
    assert status.startswith(f"policy {policy(container)}, ")
    assert status.endswith("3 of 3 devices up")


def test_the_journal_finds_a_request(container: Container) -> None:
    """What belongs to an entry is a field in systemd's journal: requests are found by number, devices by name."""
    container.run("jouled", "log-level", "debug")
    reply = classify(container)
    container.run("jouled", "log-level", "info")
    container.run("journalctl", "--sync")
    said = container.run("journalctl", "-o", "json", f"JOULED_REQUEST_ID={reply.request_id}").stdout
    entry = json.loads(said.splitlines()[-1])
    assert entry["MESSAGE"].startswith(f"request ended request_id={reply.request_id} status=ok ")
    assert (entry["JOULED_EVENT"], entry["JOULED_DEVICE"], entry["PRIORITY"]) == ("request ended", reply.device, "7")
    assert (entry["_SYSTEMD_UNIT"], entry["JOULED_POLICY"]) == ("jouled.service", reply.policy)
    assert "device up device=cpu" in container.run("journalctl", "JOULED_DEVICE=cpu").stdout


@pytest.mark.parametrize(
    ("groups", "opens"),
    [("nogroup", []), ("jouled", ["jouled.sock"]), ("jouled-admin", ["control/control.sock"])],
)
def test_groups_open_the_sockets(container: Container, groups: str, opens: list[str]) -> None:
    """Who is in neither group reaches nothing; each group reaches its own socket."""
    reached = []
    for name in ("jouled.sock", "control/control.sock"):
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect('/run/jouled/{name}')"
        command = ["setpriv", "--reuid=nobody", f"--regid={groups}", "--clear-groups", "python3", "-c", connect]
        if container.run(*command, check=False).returncode == 0:
            reached.append(name)
    assert reached == opens


def test_a_policy_is_switched(container: Container) -> None:
    """`jouled policy set` takes effect at once."""
    container.run("jouled", "policy", "set", "tight")
    assert policy(container) == "tight"
    assert classify(container).policy == "tight"
    container.run("jouled", "policy", "set", "balanced")


def test_a_reload_brings_new_policies(container: Container, record_property: Record) -> None:
    """`systemctl reload` reads the policies anew, requests go on."""
    file = container.path(CONFIGURATION)
    before = file.read_text()
    file.write_text(before + '\n[policy.added]\nstrategy = "saver"\nbudget_watts = 2.0\n')
    with Load(container) as load:
        began = time.monotonic()
        container.run("systemctl", "reload", "jouled")
        seconds = time.monotonic() - began
        container.run("jouled", "policy", "set", "added")
    assert classify(container).policy == "added"
    assert set(load.ends) == {"OK"}
    container.run("jouled", "policy", "set", "balanced")
    file.write_text(before)
    record_property("seconds", seconds)


def test_an_invalid_reload_is_refused(container: Container) -> None:
    """The reload fails with file, key and reason; the policy in force stays."""
    file = container.path(CONFIGURATION)
    before, in_force = file.read_text(), policy(container)
    file.write_text(before.replace('strategy = "saver"', 'strategy = "savour"'))
    refused = container.run("systemctl", "reload", "jouled", check=False)
    file.write_text(before)
    assert refused.returncode != 0
    assert "policy.tight.strategy: unknown 'savour'; did you mean 'saver'?" in container.log()
    assert policy(container) == in_force
    assert classify(container).policy == in_force


def test_killed_it_is_ready_again(container: Container, record_property: Record) -> None:
    """After kill -9 under load it serves again, and no acknowledged record is lost."""
    with Load(container) as load:
        killed = time.monotonic()
        os.kill(container.main_pid, signal.SIGKILL)
        seconds = container.ready_after(killed, RESTART_SECONDS)
        answered = len(load.replies)
        while len(load.replies) == answered:
            time.sleep(0.01)
    container.run("systemctl", "stop", "jouled")
    history = read_journal(container.root / "var/lib/jouled/journal.db")
    recorded = set(history.requests.numbers[history.requests.statuses == "ok"].tolist())
    assert set(load.replies) <= recorded
    assert [finding for finding in audit(history) if finding.violations] == []
    record_property("seconds", seconds)


def test_stopped_in_its_tracks_it_is_ready_again(container: Container, record_property: Record) -> None:
    """A daemon that does not turn any more is ended by the watchdog and started again."""
    stopped = time.monotonic()
    os.kill(container.main_pid, signal.SIGSTOP)
    record_property("seconds", container.ready_after(stopped, RESTART_SECONDS))
    assert classify(container).labels[0].name == "0"


def test_hanging_it_is_ready_again(container: Container, record_property: Record) -> None:
    """A daemon whose event loop alone stands still, its other threads alive, is ended by the watchdog as well."""
    began = time.monotonic()
    hold_until_killed(container.main_pid, RESTART_SECONDS)
    record_property("seconds", container.ready_after(began, RESTART_SECONDS))
    assert classify(container).labels[0].name == "0"


def test_without_its_socket_it_is_ready_again(container: Container, record_property: Record) -> None:
    """A daemon that clients do not find any more ends by itself, with a failure, and is started again."""
    removed = time.monotonic()
    (container.runtime / "jouled.sock").unlink()
    record_property("seconds", container.ready_after(removed, RESTART_SECONDS))
    assert classify(container).labels[0].name == "0"
    assert "/run/jouled/jouled.sock: does not listen any more" in container.log()


def test_a_daemon_that_cannot_start_is_given_up(container: Container) -> None:
    """With a broken configuration systemd tries a few times, then says that it failed."""
    file = container.path(CONFIGURATION)
    before = file.read_text()
    file.write_text(before + "\nbudget = 1\n")
    container.run("systemctl", "restart", "jouled", check=False)
    container.wait_until("failed", 60.0)
    file.write_text(before)
    assert "budget: unknown key" in container.log()
    assert int(container.show("NRestarts")[0]) >= 4


def test_stopped_under_load_all_accepted_is_answered(container: Container, record_property: Record) -> None:
    """Every request that was accepted has an answer, and the daemon ends with 0."""
    with Load(container) as load:
        began = time.monotonic()
        container.run("systemctl", "stop", "jouled")
        record_property("seconds", time.monotonic() - began)
        state, status, result = container.show("ActiveState", "ExecMainStatus", "Result")
        answered = dict(load.ends)
    assert (state, status, result) == ("inactive", "0", "success")
    history = read_journal(container.root / "var/lib/jouled/journal.db")
    assert set(load.replies) <= set(history.requests.numbers.tolist())
    assert set(answered) <= {"OK", "UNAVAILABLE", "CANCELLED"}


def test_an_upgrade_keeps_the_journal(container: Container) -> None:
    """The package is replaced while the daemon runs; what was recorded before is still there."""
    number = classify(container).request_id
    began = time.monotonic()
    container.run("dpkg", "--install", "/jouled.deb")
    container.ready_after(began, 60.0)
    said = container.run("jouled", "energy", str(number), "--json").stdout
    assert '"status": "ok"' in said
    assert classify(container).request_id > number
