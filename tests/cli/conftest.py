"""What the tests of the command line share: a daemon, and the program `jouled`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from daemon.cli.main import app
from models.data import digits
from tests.daemon.serving import Daemon, configuration, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLICIES = """
[policy.accurate]
strategy = "accuracy"
budget_watts = 100.0
[policy.frugal]
strategy = "saver"
budget_watts = 50.0
window_seconds = 5.0
min_accuracy = 0.9
[policy.nothing]
strategy = "saver"
budget_watts = 0.0
"""


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Read the standard output of a command that went well and had nothing to complain of."""
        assert (self.status, self.err) == (0, "")
        return json.loads(self.out)


class Jouled(Protocol):
    """The program, as a person calls it."""

    def __call__(self, *arguments: object, runtime: Path | None = None, columns: int = 200) -> Said:
        """Run a command in a terminal of so many columns, against the daemon whose sockets are in `runtime`."""
        ...


@pytest.fixture
def jouled(daemon: Daemon) -> Jouled:
    """Run commands in this process; the shared daemon is found through the environment."""

    def run(*arguments: object, runtime: Path | None = None, columns: int = 200) -> Said:
        environment = {"RUNTIME_DIRECTORY": str(runtime or daemon.places.runtime), "COLUMNS": str(columns)}
        result = CliRunner(env=environment).invoke(app, [str(argument) for argument in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    """Run one daemon for all commands."""
    with running(configuration(POLICIES, start="accurate")) as shared:
        yield shared


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Give the first held-out 0, 1 and 2 as PNG files, named by their labels."""
    folder = tmp_path_factory.mktemp("pictures")
    part = digits.load()[1]
    files = []
    for label in range(3):
        files.append(folder / f"{label}.png")
        Image.fromarray(np.asarray(part.images[part.labels == label][0])).save(files[-1])
    return files
