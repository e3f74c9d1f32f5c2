"""`jouled models`: what a daemon serves, what an artifact holds, and who vouches for it."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from daemon.cli.options import CALL_SECONDS, AsJson, Runtime
from daemon.cli.output import EXIT_USAGE, as_dict, daemon_errors, fail, joules, print_json, print_table
from daemon.client import control, default_runtime
from daemon.clock import NANO
from daemon.config import PUBLIC_KEY
from daemon.repository import SHIPPED, scan
from hal import artifact, signature
from hal.errors import ArtifactError
from protos import jouled_pb2 as pb

# A board is booted with its network.
LOAD_SECONDS = 150.0

app = typer.Typer(no_args_is_help=True, help="Show, load, unload, inspect, sign and verify models.")


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
            f"{point.accuracy:.2%}", joules(point.dynamic_joules * NANO), f"{point.seconds * 1e3:.3g}",
            point.provenance,
        )
        for model in reply.models for point in model.points
    ]  # fmt: skip
    columns = ("variant", "device", "steps", "margin", "accuracy", "dynamic", "time [ms]", "provenance")
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
    columns = ("steps", "margin", "accuracy", "synaptic operations", "spikes")
    print_table("operating points", columns, rows)


@app.command("keygen")
def models_keygen(
    key: Annotated[Path, typer.Argument(help="The file of the private key, which must not exist.")],
) -> None:
    """Make a key to sign artifacts with, and print its public key, for `trusted_keys` of the configuration."""
    private = signature.new_private_key()
    try:
        with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(private)
    except OSError as error:
        fail(f"{key}: {error.strerror}")
    print(signature.public_key(private))


@app.command("sign")
def models_sign(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Artifacts' folders, model/version/variant.")
    ],
    key: Annotated[Path, typer.Option(help="The private key, as jouled models keygen makes it.")],
) -> None:
    """Sign artifacts, each after verifying that it is whole; an earlier signature is replaced."""
    try:
        private = key.read_bytes()
        for folder in (each.resolve() for each in folders):
            found = artifact.read(folder)
            subject = f"{found.model}/{found.version}/{found.variant}"
            _replace(folder / signature.SIGNATURE, signature.sign(private, subject, found.digest))
            print(f"{subject}: signed, digest {found.digest}")
    except ArtifactError as error:
        fail(str(error))
    except ValueError as error:
        fail(f"{key}: {error}")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")


def _replace(path: Path, content: bytes) -> None:
    """Write a file of an artifact, whole or not at all. Until then it lies where nobody reads it."""
    written = path.parent.with_name(f".{path.parent.name}.{secrets.token_hex(4)}")
    try:
        with written.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written.rename(path)
    finally:
        written.unlink(missing_ok=True)


@app.command("verify")
def models_verify(
    repository: Annotated[Path, typer.Argument(help="A repository; the shipped one where left out.")] = SHIPPED,
    trusted: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="A public key that may have signed; may be repeated.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Verify every artifact of a repository; the exit status tells whether all are whole, and signed by a key named."""
    for key in trusted or ():
        if not re.fullmatch(PUBLIC_KEY, key):
            fail(
                f"--trusted {key!r}: a public key has 64 hexadecimal digits, as jouled models keygen prints them",
                EXIT_USAGE,
            )
    try:
        found = scan(repository, trusted=trusted or ())
    except ArtifactError as error:
        fail(str(error))
    rows = [
        {"artifact": f"{each.model}/{each.version}/{each.variant}", "digest": each.digest, "problem": ""}
        for each in found.artifacts
    ] + [{"artifact": each.subject, "digest": "", "problem": each.reason} for each in found.refused]
    whole = "whole, signed" if trusted else "whole"
    if json:
        print_json(rows)
    else:
        table = [(row["artifact"], row["digest"][:16], row["problem"] or whole) for row in rows]
        print_table(str(repository), ("artifact", "digest", "state"), table)
    if found.refused:
        raise typer.Exit(1)
    if not rows:
        fail(f"{repository}: no artifact in it")
