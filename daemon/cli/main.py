"""`jouled`: the one program, with a command for each thing a person does with the daemon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup
from typer.main import get_group

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from typer._click import Command

# Each command, in the order of the help, with the module of this package and the function or the group in it.
COMMANDS = {
    "serve": ("serve", "serve"),
    "reload": ("reload", "reload"),
    "status": ("operate", "status"),
    "devices": ("operate", "devices"),
    "policy": ("operate", "policy"),
    "log-level": ("operate", "log_level"),
    "energy": ("energy", "app"),
    "top": ("top", "top"),
    "audit": ("audit", "audit"),
    "classify": ("classify", "classify"),
    "demo": ("demo", "demo"),
    "models": ("models", "app"),
    "runtime": ("runtime", "app"),
    "calibrate": ("calibrate", "calibrate"),
    "compile": ("offline", "compile_model"),
    "import": ("offline", "import_net"),
    "tune": ("offline", "tune"),
    "compare": ("offline", "compare"),
    "trace": ("offline", "trace"),
}


class _Commands(Mapping[str, "Command"]):
    """Loads a command's module when the command is looked up, so that none waits for what only others import."""

    def __getitem__(self, name: str) -> Command:
        module, attribute = COMMANDS[name]
        found = getattr(import_module(f"daemon.cli.{module}"), attribute)
        holder = typer.Typer()
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=name)
        else:
            holder.command(name)(found)
        return get_group(holder).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Program(TyperGroup):
    """The program, whose commands are loaded one by one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast("MutableMapping[str, Command]", _Commands())


app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve image classifiers on edge accelerators under a power budget, with the joules of every answer.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from daemon.version import VERSION

        print(VERSION)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the release and end.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take what belongs to no command."""


def run() -> None:
    """Enter from the console script."""
    app()


if __name__ == "__main__":
    run()
