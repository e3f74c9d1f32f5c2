"""`jouled serve`: run the daemon in this process."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import uvloop

from daemon import config, logs
from daemon.cli.output import fail
from daemon.errors import ConfigError, PolicyRefused
from daemon.journal import JournalError
from daemon.reach import Unreachable
from daemon.server import Places, StartError, serve
from hal.energy.frontier import FrontierError
from hal.errors import ArtifactError


def run_daemon(
    path: Path, tcp_address: str | None, state: Path, runtime: Path, *, metrics_address: str | None = None
) -> None:
    """Serve until told to stop; every reason not to start is one sentence and a non-zero exit status."""
    logs.configure("auto", "info")
    try:
        uvloop.run(serve(partial(config.load, path, tcp_address, metrics_address), Places(state, runtime)))
    except (ConfigError, JournalError, StartError, Unreachable) as error:
        fail(str(error))
    except PolicyRefused as error:
        fail(f"{path}: {error}")
    except FrontierError as error:
        fail(f"{path}: meters: {error}")
    except ArtifactError as error:
        fail(f"{path}: repository: {error}")
