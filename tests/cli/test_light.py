"""What systemd and operators run loads no more than it needs, since most of its time is that."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.daemon.serving import Daemon

# Runs a command as the program does, then names all that was loaded.
SCRIPT = """
import sys
from daemon.cli.main import app
app(sys.argv[1:], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""
HEAVY = (
    "PIL", "aiohttp", "daemon.cli.demo", "daemon.config", "daemon.server", "hal.artifact", "hal.snn", "matplotlib",
    "models", "msgspec", "numba", "numpy", "openvino", "rich", "sklearn", "structlog", "uvloop",
)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reload"], "is in force\n"),
        (["status"], "budget 1000 J"),
        (["policy", "set", "accurate"], "policy accurate is in force"),
        (["policy", "show", "--json"], '"name": "accurate"'),
        (["log-level", "info"], "log level info"),
        (["energy", "--since", "1h", "--csv"], "policy,model,"),
    ],
    ids=" ".join,
)
def test_a_command_loads_nothing_heavy(daemon: Daemon, arguments: list[str], says: str) -> None:
    """Neither arrays nor pictures, neither tables for people nor the daemon itself."""
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(daemon.places.runtime)}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert says in ended.stdout
    loaded = ended.stderr.split()
    assert "daemon.client" in loaded
    assert sorted(name for name in loaded if name in HEAVY) == []
