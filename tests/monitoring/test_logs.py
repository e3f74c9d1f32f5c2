"""The log in its formats, and its level while the daemon runs."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from typer.testing import CliRunner

from daemon import logs
from daemon.cli.main import app
from tests.daemon.serving import configuration, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

POLICY = '[policy.only]\nstrategy = "saver"\nbudget_watts = 100.0\n'


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen where systemd's journal would, and log there; afterwards the log is as it was."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, (tmp_path / "stderr").open("w") as stream:
        listener.bind(path)
        status = os.fstat(stream.fileno())
        logs.configure(
            "auto", "info", {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, stream=stream, journal=path
        )
        listener.settimeout(10)
        yield listener
    structlog.reset_defaults()


def fields(data: bytes) -> dict[str, str]:
    """Read an entry of the journal's native protocol."""
    found = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + length], data[9 + length :]
        found[name.decode()] = value.decode()
    return found


def test_the_journal_gets_fields(journal: socket.socket) -> None:
    """What belongs to an entry can be searched for; its message is what a person reads."""
    structlog.get_logger().warning("device lost", device="cpu", seconds=1.5, request_id=7)
    assert fields(journal.recv(65536)) == {
        "MESSAGE": "device lost device=cpu seconds=1.5 request_id=7", "PRIORITY": "4", "SYSLOG_IDENTIFIER": "jouled",
        "JOULED_DEVICE": "cpu", "JOULED_SECONDS": "1.5", "JOULED_REQUEST_ID": "7", "JOULED_EVENT": "device lost",
    }  # fmt: skip


def test_a_traceback_arrives_whole(journal: socket.socket) -> None:
    """A value of several lines is one field, and its lines do not become fields of their own."""
    try:
        raise ValueError("first\nPRIORITY=0")
    except ValueError:
        structlog.get_logger().exception("background step failed", task="meters")
    found = fields(journal.recv(65536))
    assert found["PRIORITY"] == "3"
    assert "ValueError: first\nPRIORITY=0" in found["JOULED_EXCEPTION"]
    assert found["MESSAGE"].startswith("background step failed task=meters\nTraceback")


def test_what_is_below_the_level_is_dropped(journal: socket.socket) -> None:
    """The level can be changed at any time, for loggers that exist already, too."""
    log = structlog.get_logger()
    log.debug("unheard")
    logs.threshold.level = "debug"
    log.debug("heard")
    assert fields(journal.recv(65536))["JOULED_EVENT"] == "heard"


def test_a_journal_that_is_gone_holds_up_nothing(tmp_path: Path) -> None:
    """What cannot be sent is lost."""
    logger = logs.JournalLogger(str(tmp_path / "nobody"))
    logger.info(b"MESSAGE=x\n")
    assert not (tmp_path / "nobody").exists()


def test_json_and_the_level_at_run_time(image: NDArray[np.uint8]) -> None:
    """Each line is an object; with the level at debug, requests are logged by their number as they end."""
    with running(configuration('[log]\nformat = "json"\n' + POLICY, start="only")) as daemon:
        environment = {"RUNTIME_DIRECTORY": str(daemon.places.runtime)}
        daemon.classify(image)
        said = CliRunner(env=environment).invoke(app, ["log-level", "debug"])
        assert (said.exit_code, said.stdout) == (0, "log level debug, before it was info\n")
        number = daemon.classify(image).request_id
        said = CliRunner(env=environment).invoke(app, ["log-level", "loud"])
        assert (said.exit_code, "unknown level 'loud'" in said.stderr) == (1, True)
        CliRunner(env=environment).invoke(app, ["log-level", "info"])
        daemon.classify(image)
        entries: list[dict[str, Any]] = [json.loads(line) for line in daemon.log if line.startswith("{")]
        ended = [entry for entry in entries if entry["event"] == "request ended"]
        assert [(entry["request_id"], entry["status"], entry["level"]) for entry in ended] == [(number, "ok", "debug")]
        assert any(entry["event"] == "ready" for entry in entries)
        daemon.kill()
