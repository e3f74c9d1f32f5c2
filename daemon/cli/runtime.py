"""`jouled runtime`: the environments in which vendors' libraries run."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.options import AsJson
from daemon.cli.output import fail, print_json, print_table
from hal.runtimes import RUNTIMES, default_directory
from hal.runtimes.install import InstallError, install

app = typer.Typer(no_args_is_help=True, help="Install what Loihi and the NCS2 need of their vendor.")

Directory = Annotated[
    Path | None, typer.Option(envvar="JOULED_RUNTIMES", help="Where they lie; beside the daemon where left out.")
]
Name = StrEnum("Name", {name: name for name in RUNTIMES})  # type: ignore[misc]


@app.command("install")
def runtime_install(
    names: Annotated[list[Name], typer.Argument(help="Which ones.", show_default=False)],
    python: Annotated[
        Path | None, typer.Option(help="The interpreter to use; one is looked for where left out.")
    ] = None,
    directory: Directory = None,
    json: AsJson = False,
) -> None:
    """Make the environment of a vendor's library, from pinned packages; at once where it is there already."""
    place = directory or default_directory()
    if python is not None and len(names) > 1:
        raise typer.BadParameter("one interpreter fits one runtime, each needs another version", param_hint="--python")
    installed = {}
    for name in names:
        try:
            installed[name.value] = str(install(RUNTIMES[name.value], place, python=python))
        except InstallError as error:
            fail(str(error))
        if not json:
            print(f"{name.value}: {installed[name.value]}")
    if json:
        print_json(installed)


@app.command("list")
def runtime_list(directory: Directory = None, json: AsJson = False) -> None:
    """List the runtimes and whether they are installed."""
    place = directory or default_directory()
    found = [
        {
            "runtime": runtime.name, "python": runtime.python, "installed": runtime.installed(place),
            "folder": str(runtime.folder(place)),
        }
        for runtime in RUNTIMES.values()
    ]  # fmt: skip
    if json:
        print_json(found)
        return
    rows = [(row["runtime"], row["python"], "yes" if row["installed"] else "no", row["folder"]) for row in found]
    print_table("runtimes", ["runtime", "Python", "installed", "folder"], rows)
