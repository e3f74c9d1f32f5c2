"""The offline commands: they hand over to `models`, which needs the extra `compile`. No daemon takes part."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import AsJson
from daemon.cli.output import EXIT_USAGE, fail, joules, print_json, print_table, trial_progress
from daemon.repository import SHIPPED
from hal.errors import HalError
from hal.names import near

if TYPE_CHECKING:
    from models.compiler import Compiled


class Engine(StrEnum):
    """The engines of a spiking network, equal bit for bit."""

    FAST = "fast"
    REFERENCE = "reference"


class Reset(StrEnum):
    """What a spike does to the voltage of its neuron."""

    SUBTRACT = "subtract"
    ZERO = "zero"


INSTALL_EXTRA = ".venv/bin/uv sync --frozen --inexact --extra compile"


@contextmanager
def _offline_errors() -> Iterator[None]:
    """Turn what is wrong with a file or an extra into a sentence and an exit status."""
    try:
        yield
    except ModuleNotFoundError as error:
        fail(f"this command needs the module {error.name} of the extra 'compile'; in a clone: {INSTALL_EXTRA}")
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
    images: Annotated[int, typer.Option(min=2, help="How many images to calibrate on.")] = 1000,
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
        written = compiler.write_variants(compiled.variants, folder, replace=replace)
    _print_compiled(compiled, [f"{each.model}/{each.version}/{each.variant}" for each in written], json=json)


def _print_compiled(compiled: Compiled, names: list[str], *, json: bool) -> None:
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


def tune(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder model/version that jouled compile wrote.")],
    calibration: Annotated[Path, typer.Option(help="Its data set, as for jouled compile.")],
    out: Annotated[Path | None, typer.Option(help="The folder model/version to write; else the next version.")] = None,
    report: Annotated[Path | None, typer.Option(help="The folder of report and search; else tune-MODEL.")] = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try, earlier runs included.")] = 60,
    images: Annotated[int, typer.Option(min=50, help="How many images to calibrate on.")] = 1000,
    max_loss: Annotated[float, typer.Option(min=0, help="Points that may be lost to the dense network.")] = 0.3,
    min_accuracy: Annotated[float | None, typer.Option(min=0, max=1, help="A least accuracy instead.")] = None,
    longest: Annotated[int, typer.Option(min=1, max=64, help="The most time steps.")] = 16,
    reset: Annotated[Reset, typer.Option(help="As for jouled compile.")] = Reset.SUBTRACT,
    json: AsJson = False,
) -> None:
    """Find thresholds, time steps and early exit of least energy; a search that was interrupted goes on."""
    with _model_errors():
        from models import tuning, tuning_report
        from models.tune import Limits

        folder = model.resolve()
        place = report or Path(f"tune-{folder.parent.name}-{folder.name}")
        limits = Limits(max_loss, min_accuracy, longest, reset.value)
        command = f"jouled {' '.join(sys.argv[1:])}"
        job = tuning.Job(folder, calibration, place, trials, images, limits, command)
        with trial_progress() as progress:
            found, written = tuning.tune_model(job, out.resolve() if out else tuning.next_version(folder), progress)
    if json:
        print_json(
            {**found.as_json(), "artifacts": [f"{each.model}/{each.version}/{each.variant}" for each in written]}
        )
        return
    print_table(f"{found.model}, on {found.held_out}", tuning_report.COLUMNS, found.cells())
    print(
        f"{found.ratio:.2f} times less dynamic energy than the comparable untuned network. {tuning_report.PROVENANCE}"
    )
    for name in ("report.md", "report.json", "pareto.png", "pareto.html"):
        print(place / name)
    for each in written:
        print(f"{each.model}/{each.version}/{each.variant}: written")


def compare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A folder model/version, or a name in the repository.")],
    data: Annotated[Path | None, typer.Option(help="The data set's folder: run its test images.")] = None,
    repository: Annotated[Path, typer.Option(help="Where models are looked for by name.")] = SHIPPED,
    out: Annotated[Path | None, typer.Option(help="Write compare.md, .json and .png into this folder.")] = None,
    json: AsJson = False,
) -> None:
    """Compare the spiking variant on Loihi with the dense one on the NCS2, both simulated, as the study does."""
    with _model_errors():
        from models import compare as comparing

        found = comparing.compare(_version_folder(model, repository), data)
        if out is not None:
            comparing.write(found, out)
    if json:
        print_json(found.as_json())
        return
    print_table(f"{found.model}, all simulated", comparing.COLUMNS, found.cells())
    print_table("times less than the DNN on the NCS2", ("", "power", "energy", "latency"), found.ratio_cells())
    for line in (*(f"{device}: {source}." for device, source in comparing.PROVENANCE.items()), *found.reasons()):
        print(line)


def _version_folder(model: str, repository: Path) -> Path:
    """Find the latest version of a model in a repository, or take a path as it is."""
    if Path(model).is_dir():
        return Path(model).resolve()
    versions = [path for path in (repository / model).glob("*/") if path.name.isdecimal()] if model else []
    if not versions:
        known = sorted(path.name for path in repository.glob("*/") if any(path.glob("*/*/")))
        fail(f"{model}: no such model{near(model, known)}")
    return max(versions, key=lambda path: int(path.name))


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
