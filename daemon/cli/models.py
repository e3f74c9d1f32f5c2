"""`jouled models`: what a daemon serves, and what an artifact holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from daemon.cli.operate import CALL_SECONDS, Runtime
from daemon.cli.output import AsJson, as_dict, daemon_errors, fail, print_json, print_table
from daemon.client import control, default_runtime
from daemon.repository import SHIPPED, scan
from hal import artifact
from hal.errors import ArtifactError
from protos import jouled_pb2 as pb

# A board is booted with its network.
LOAD_SECONDS = 150.0

app = typer.Typer(no_args_is_help=True, help="Show, load, unload, inspect and verify models.")


@app.command("list")
def models_list(runtime: Runtime = None, json: AsJson = False) -> None:
    """List the models that the daemon serves, with their operating points."""
    place = runtime or default_runtime()
    with daemon_errors(place):
        reply = control(place).Models(pb.ModelsRequest(), timeout=CALL_SECONDS)
    if json:
        print_json(as_dict(reply)["models"])
        return
    rows = [
        (
            f"{model.name}/{model.version}/{point.variant}", point.device, point.steps, point.margin or "",
            f"{point.accuracy:.2%}", f"{point.dynamic_joules:.3g}", f"{point.seconds:.3g}", point.provenance,
        )
        for model in reply.models for point in model.points
    ]  # fmt: skip
    columns = ("variant", "device", "steps [1]", "margin [1]", "accuracy [%]", "dynamic [J]", "time [s]", "provenance")
    print_table("operating points", columns, rows)
    for problem in (problem for model in reply.models for problem in model.problems):
        print(f"not served: {problem}")


@app.command("load")
def models_load(
    name: Annotated[str, typer.Argument(help="A model of the daemon's repository.")],
    runtime: Runtime = None,
    json: AsJson = False,
) -> None:
    """Serve a model as the repository has it now, in all its versions."""
    place = runtime or default_runtime()
    with daemon_errors(place):
        reply = control(place).LoadModel(pb.LoadModelRequest(name=name), timeout=LOAD_SECONDS)
    if json:
        print_json(as_dict(reply)["models"])
        return
    for model in reply.models:
        print(f"{model.name}/{model.version}: {len(model.points)} operating points")
        for problem in model.problems:
            print(f"not served: {problem}")


@app.command("unload")
def models_unload(
    name: Annotated[str, typer.Argument(help="A model that the daemon serves.")], runtime: Runtime = None
) -> None:
    """Take a model off the devices, in all its versions. What is queued is still answered."""
    place = runtime or default_runtime()
    with daemon_errors(place):
        control(place).UnloadModel(pb.UnloadModelRequest(name=name), timeout=LOAD_SECONDS)
    print(f"{name} is not served any more")


@app.command("inspect")
def models_inspect(
    folder: Annotated[Path, typer.Argument(help="An artifact's folder, model/version/variant.")], json: AsJson = False
) -> None:
    """Show what an artifact says of itself, after verifying it."""
    try:
        found = artifact.read(folder.resolve())
    except ArtifactError as error:
        fail(str(error))
    manifest = found.manifest
    if json:
        print_json({"digest": found.digest, **msgspec.to_builtins(manifest)})
        return
    print(f"{found.model}/{found.version}/{found.variant}: {manifest.kind.value}, digest {found.digest}")
    print(f"input {manifest.input.name} {manifest.input.dtype} {list(manifest.input.shape)}")
    print(f"{len(manifest.labels)} labels: {', '.join(manifest.labels[:10])}")
    print(f"data: {manifest.origin.data}; held out: {manifest.origin.held_out}")
    print(f"made by {manifest.tool} with: {manifest.origin.command}")
    rows = [
        (
            point.steps, point.margin or "", f"{point.accuracy:.2%}", f"{point.synaptic_operations:.0f}",
            f"{point.active_updates:.0f}",
        )
        for point in manifest.operating_points
    ]  # fmt: skip
    columns = ("steps [1]", "margin [1]", "accuracy [%]", "synaptic operations [1]", "spikes [1]")
    print_table("operating points", columns, rows)


@app.command("verify")
def models_verify(
    repository: Annotated[Path, typer.Argument(help="A repository; the shipped one where left out.")] = SHIPPED,
    json: AsJson = False,
) -> None:
    """Verify every artifact of a repository; the exit status tells whether all are whole."""
    try:
        found = scan(repository)
    except ArtifactError as error:
        fail(str(error))
    rows = [
        {"artifact": f"{each.model}/{each.version}/{each.variant}", "digest": each.digest, "problem": ""}
        for each in found.artifacts
    ] + [{"artifact": each.subject, "digest": "", "problem": each.reason} for each in found.refused]
    if json:
        print_json(rows)
    else:
        table = [(row["artifact"], row["digest"][:16], row["problem"] or "whole") for row in rows]
        print_table(str(repository), ("artifact", "digest", "state"), table)
    if found.refused:
        raise typer.Exit(1)
    if not rows:
        fail(f"{repository}: no artifact in it")
