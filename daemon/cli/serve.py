"""`jouled serve`: run the daemon in this process."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path

import structlog
import uvloop

from daemon import config
from daemon.cli.output import fail
from daemon.errors import ConfigError, PolicyRefused
from daemon.journal import JournalError
from daemon.server import Places, StartError, serve
from hal.energy.frontier import FrontierError
from hal.errors import ArtifactError


def run_daemon(
    path: Path, tcp_address: str | None, state: Path, runtime: Path, *, metrics_address: str | None = None
) -> None:
    """Serve until told to stop; every reason not to start is one sentence and a non-zero exit status."""
    _log_to_stderr()
    try:
        uvloop.run(serve(partial(config.load, path, tcp_address, metrics_address), Places(state, runtime)))
    except (ConfigError, JournalError, StartError) as error:
        fail(str(error))
    except PolicyRefused as error:
        fail(f"{path}: {error}")
    except FrontierError as error:
        fail(f"{path}: meters: {error}")
    except ArtifactError as error:
        fail(f"{path}: repository: {error}")


def _log_to_stderr() -> None:
    renderers: list[structlog.typing.Processor] = [
        structlog.processors.format_exc_info, structlog.processors.LogfmtRenderer(),
    ]  # fmt: skip
    if sys.stderr.isatty():
        renderers = [structlog.dev.ConsoleRenderer()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
