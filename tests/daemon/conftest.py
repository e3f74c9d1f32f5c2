"""What the tests of the daemon share: running daemons, a repository to serve and images to send."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from daemon.repository import SHIPPED
from hal.artifact import TensorSpec
from models.data import digits
from tests.daemon.networks import write_dense
from tests.daemon.serving import Daemon, configuration, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

# Holds as many answers as a test asks for. The processor's bound of 7.5 J for a run fits as well.
ROOMY = """
[policy.roomy]
strategy = "accuracy"
budget_watts = 100.0
[policy.spare]
strategy = "saver"
budget_watts = 100.0
"""
# The dependencies of tritonclient and those of this project do not go together.
ENVIRONMENT = Path(__file__).parents[2] / ".cache" / "tritonclient-env"
# One stick holds one network, and the repository of the tests has two.
SECOND_NETWORK = "tint/dnn on ncs2-sim: 2 networks exceed the limit of 1"


class StartDaemon(Protocol):
    """Starts a daemon that ends with the test."""

    def __call__(
        self,
        config: str,
        *,
        may_log: Sequence[str] = (),
        port: int | None = None,
        state: Path | None = None,
        runtime: Path | None = None,
    ) -> Daemon:
        """Start a daemon of this configuration."""
        ...


@pytest.fixture
def start_daemon() -> Iterator[StartDaemon]:
    """Start daemons that the test has for itself."""
    with contextlib.ExitStack() as stack:

        def start(
            config: str,
            *,
            may_log: Sequence[str] = (),
            port: int | None = None,
            state: Path | None = None,
            runtime: Path | None = None,
        ) -> Daemon:
            return stack.enter_context(running(config, may_log=may_log, port=port, state=state, runtime=runtime))

        yield start


@pytest.fixture(scope="session")
def daemon(repository: Path) -> Iterator[Daemon]:
    """Run one daemon for all tests that leave it as it is."""
    with running(configuration(ROOMY, start="roomy", repository=repository), may_log=[SECOND_NETWORK]) as shared:
        yield shared


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a repository with the shipped digits and with `tint`, which tells the colour of 4 x 4 pixels in float32."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(SHIPPED / "digits", folder / "digits")
    weight = np.repeat(np.eye(3, dtype=np.float32), 16, axis=1)
    spec = TensorSpec("picture", "float32", (3, 4, 4))
    write_dense(folder, "tint", spec, weight, output="tints", labels=("red", "green", "blue"))
    return folder


@pytest.fixture(scope="session")
def held_out() -> digits.Part:
    """Give the held-out digits."""
    return digits.load()[1]


@pytest.fixture(scope="session")
def image(held_out: digits.Part) -> NDArray[np.uint8]:
    """Give a digit, the first held-out one, a 0."""
    assert held_out.labels[0] == 0
    first: NDArray[np.uint8] = held_out.images[0]
    return first


@pytest.fixture(scope="session")
def tritonclient() -> Path:
    """Give the interpreter of an environment with tritonclient, made on first use and kept; skips where pip cannot."""
    interpreter = ENVIRONMENT / "bin" / "python"
    complete, packages = ENVIRONMENT / ".complete", ["tritonclient[grpc]", "pillow"]
    if not complete.exists() or complete.read_text().split() != packages:
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        installed = subprocess.run(command, check=False, capture_output=True, text=True)
        if installed.returncode != 0:
            pytest.skip(f"tritonclient cannot be installed: {(installed.stderr.splitlines() or ['?'])[-1]}")
        complete.write_text(" ".join(packages))
    return interpreter
