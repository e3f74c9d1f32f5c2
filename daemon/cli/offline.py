"""The offline commands: they hand over to `models`, which needs the extra `compile`. No daemon takes part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.output import AsJson, fail, print_json
from hal.errors import HalError


class Engine(StrEnum):
    """The engines of a spiking network, equal bit for bit."""

    FAST = "fast"
    REFERENCE = "reference"


@contextmanager
def _offline_errors() -> Iterator[None]:
    """Turn what is wrong with a file or an extra into a sentence and an exit status."""
    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"this command needs the module {error.name}: pip install 'jouled[compile]'")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except HalError as error:
        fail(str(error))


def import_net(
    file: Annotated[Path, typer.Argument(help="A network in Lava's exchange format, .net.")],
    out: Annotated[Path, typer.Option(help="A repository, or the artifact's folder model/version/variant.")],
    labels: Annotated[str, typer.Option(help="The classes, separated by commas; numbers where left out.")] = "",
    steps: Annotated[int | None, typer.Option(min=1, max=1024, help="Time steps; the file's where left out.")] = None,
    json: AsJson = False,
) -> None:
    """Turn a network that was trained for Lava into an artifact."""
    with _offline_errors():
        from models import importer

        found = importer.import_net(file, out, labels=labels.split(",") if labels else None, steps=steps)
    name = f"{found.model}/{found.version}/{found.variant}"
    if json:
        print_json({"artifact": name, "digest": found.digest})
    else:
        print(f"{name}: written, digest {found.digest}")


def trace(
    artifact: Annotated[Path, typer.Argument(help="A spiking artifact's folder, or one that holds just one.")],
    picture: Annotated[Path, typer.Option("--input", help="An .npy file: the picture in [0, 1], (C, H, W).")],
    steps: Annotated[int, typer.Option(min=1, help="Time steps.")],
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    engine: Annotated[Engine, typer.Option(help="Which engine runs.")] = Engine.FAST,
    bias: Annotated[bool, typer.Option("--bias", help="The input holds integer bias currents.")] = False,
) -> None:
    """Record the spikes and the state of every neuron at every step."""
    with _offline_errors():
        from models import trace as tracing

        tracing.trace(artifact, picture, steps, out, engine=engine.value, bias=bias)
    print(f"{out}: {steps} steps")
