"""`jouled`: the one program, with a command for each thing a person does with the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli import audit, calibrate, classify, demo, energy, models, offline, operate, reload, replay, runtime, top
from daemon.client import default_runtime, default_state
from daemon.version import VERSION

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve image classifiers on edge accelerators under a power budget, with the joules of every answer.",
)
app.add_typer(operate.policy, name="policy")
app.add_typer(energy.app, name="energy", help="Show what requests cost, or would have cost.")
app.add_typer(models.app, name="models")
app.add_typer(runtime.app, name="runtime")
energy.app.command()(replay.replay)
app.command()(operate.devices)
app.command()(operate.status)
app.command()(operate.log_level)
app.command()(reload.reload)
app.command()(top.top)
app.command()(audit.audit)
app.command()(classify.classify)
app.command()(demo.demo)
app.command()(calibrate.calibrate)
app.command("compile")(offline.compile_model)
app.command("import")(offline.import_net)
app.command()(offline.trace)
app.command()(offline.tune)
app.command()(offline.compare)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(VERSION)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the release and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take what belongs to no command."""


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="The configuration file.")] = Path("/etc/jouled/jouled.toml"),
    tcp_address: Annotated[
        str | None, typer.Option(help="HOST:PORT instead of the configured one; empty for Unix sockets only.")
    ] = None,
    metrics_address: Annotated[
        str | None, typer.Option(help="HOST:PORT instead of the configured one for metrics; empty for none.")
    ] = None,
    state_directory: Annotated[
        Path | None, typer.Option(envvar="STATE_DIRECTORY", help="Where the journal is kept.")
    ] = None,
    runtime_directory: Annotated[
        Path | None, typer.Option(envvar="RUNTIME_DIRECTORY", help="Where the Unix sockets are made.")
    ] = None,
) -> None:
    """Run the daemon until SIGTERM."""
    from daemon.cli.serve import run_daemon

    state, sockets = state_directory or default_state(), runtime_directory or default_runtime()
    run_daemon(config, tcp_address, state, sockets, metrics_address=metrics_address)


def run() -> None:
    """Enter from the console script."""
    app()


if __name__ == "__main__":
    run()
