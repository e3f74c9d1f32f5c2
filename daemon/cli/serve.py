"""`jouled serve`: run the daemon in this process."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.output import fail


def serve(
    config: Annotated[Path, typer.Option(help="The configuration file.")] = Path("/etc/jouled/jouled.toml"),
    tcp_address: Annotated[
        str | None, typer.Option(help="HOST:PORT instead of the configured one; empty for Unix sockets only.")
    ] = None,
    metrics_address: Annotated[
        str | None, typer.Option(help="HOST:PORT instead of the configured one for metrics; empty for none.")
    ] = None,
    page_control: Annotated[
        bool,
        typer.Option("--page-control", help="Let the page switch policies, and with it every user of this host."),
    ] = False,
    state_directory: Annotated[
        Path | None, typer.Option(envvar="STATE_DIRECTORY", help="Where the journal is kept.")
    ] = None,
    runtime_directory: Annotated[
        Path | None, typer.Option(envvar="RUNTIME_DIRECTORY", help="Where the Unix sockets are made.")
    ] = None,
) -> None:
    """Run the daemon until SIGTERM."""
    from daemon.client import default_runtime, default_state

    state, sockets = state_directory or default_state(), runtime_directory or default_runtime()
    run_daemon(config, tcp_address, state, sockets, metrics_address=metrics_address, page_control=page_control)


def run_daemon(
    path: Path, tcp_address: str | None, state: Path, runtime: Path, *,
    metrics_address: str | None = None, page_control: bool = False,
) -> None:  # fmt: skip
    """Serve until told to stop; every reason not to start is one sentence and a non-zero exit status."""
    # The daemon is loaded here, since the program's help loads this module.
    import uvloop

    from daemon import config, logs, server
    from daemon.errors import ConfigError, PolicyRefused
    from daemon.journal import JournalError
    from daemon.reach import Unreachable
    from hal.energy.frontier import FrontierError
    from hal.errors import ArtifactError

    logs.configure("auto", "info")
    try:
        load = partial(config.load, path, tcp_address, metrics_address, page_control=page_control)
        uvloop.run(server.serve(load, server.Places(state, runtime)))
    except (ConfigError, JournalError, server.StartError, Unreachable) as error:
        fail(str(error))
    except PolicyRefused as error:
        fail(f"{path}: {error}")
    except FrontierError as error:
        fail(f"{path}: meters: {error}")
    except ArtifactError as error:
        fail(f"{path}: repository: {error}")
