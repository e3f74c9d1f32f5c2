"""The offline commands: they hand over to `models`, which needs the extra `compile`. No daemon takes part."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.output import EXIT_USAGE, AsJson, fail, joules, print_json, print_table
from hal.errors import HalError


class Engine(StrEnum):
    """The engines of a spiking network, equal bit for bit."""

    FAST = "fast"
    REFERENCE = "reference"


class Reset(StrEnum):
    """What a spike does to the voltage of its neuron."""

    SUBTRACT = "subtract"
    ZERO = "zero"


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


@contextmanager
def _model_errors() -> Iterator[None]:
    """Turn what is wrong with a network or a data set into a sentence as well."""
    with _offline_errors():
        from models.errors import ConversionError, DataError

        try:
            yield
        except (ConversionError, DataError) as error:
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


def compile_model(
    network: Annotated[Path, typer.Argument(metavar="NET.onnx", help="A trained classifier.")],
    calibration: Annotated[
        Path,
        typer.Option(help="Its data set: a folder, or an .npz with images and labels, which it is measured on too."),
    ],
    out: Annotated[Path, typer.Option(help="A repository, or the folder model/version.")],
    model: Annotated[str, typer.Option(help="The model's name; the file's where left out.")] = "",
    mean: Annotated[str, typer.Option(help="Subtracted from pictures in [0, 1]: one number, or one per channel.")] = "",
    std: Annotated[str, typer.Option(help="They are then divided by it, as in training.")] = "",
    steps: Annotated[int, typer.Option(min=1, max=256, help="Time steps to calibrate the spiking network for.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="How many images to calibrate on.")] = 1000,
    reset: Annotated[
        Reset,
        typer.Option(
            help="Of a neuron that fires: subtract takes two compartments on Loihi 1, zero is the chip's own."
        ),
    ] = Reset.SUBTRACT,
    labels: Annotated[str, typer.Option(help="The classes, separated by commas; the data set's where left out.")] = "",
    replace: Annotated[bool, typer.Option("--replace", help="Replace artifacts that exist.")] = False,
    json: AsJson = False,
) -> None:
    """Turn a trained network into artifacts: dense in halves and in 8-bit integers, and spiking."""
    with _model_errors():
        from models import compiler

        folder = compiler.model_folder(out, model or network.stem)
        compiler.check_free(folder, replace=replace)
        options = compiler.Options(
            mean=_numbers("mean", mean),
            std=_numbers("std", std),
            steps=steps,
            images=images,
            reset=reset.value,
            labels=tuple(labels.split(",")) if labels else (),
            command=f"jouled {' '.join(sys.argv[1:])}",
        )
        compiled = compiler.compile_file(network, calibration, options)
        written = compiler.write(compiled, folder, replace=replace)
    names = [f"{each.model}/{each.version}/{each.variant}" for each in written]
    if json:
        findings = [vars(finding) for finding in compiled.findings]
        print_json({"artifacts": names, "findings": findings, "loihi": compiled.capacity})
        return
    rows = [
        (
            each.form,
            f"{100 * each.accuracy:.2f}",
            "" if each.dynamic_joules is None else joules(each.dynamic_joules * 1e9),
            each.remark,
        )
        for each in compiled.findings
    ]
    print_table(f"On {compiled.data.held_out_note}", ("form", "accuracy %", "dynamic energy", ""), rows)
    print(f"The spiking network {compiled.capacity}.")
    for name in names:
        print(f"{name}: written")


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        fail(f"--{option} {text}: numbers separated by commas are needed", EXIT_USAGE)


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
