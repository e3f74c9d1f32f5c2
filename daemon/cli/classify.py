"""`jouled classify`: send images to a daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.options import CALL_SECONDS, AsJson, Runtime
from daemon.cli.output import as_dict, daemon_errors, fail, joules, print_json
from daemon.client import classifier, default_runtime
from protos import jouled_pb2 as pb


def classify(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    images: Annotated[list[Path], typer.Argument(help="PNG or JPEG files.")],
    address: Annotated[str, typer.Option(help="HOST:PORT or unix:PATH; the daemon's Unix socket where left out.")] = "",
    top: Annotated[int, typer.Option(min=1, help="How many labels to show.")] = 1,
    max_energy_joules: Annotated[float | None, typer.Option(help="Dynamic joules that may be expected.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Accuracy that is needed, 0 to 1.")] = None,
    timeout_seconds: Annotated[float, typer.Option(help="How long to wait for each answer.")] = CALL_SECONDS,
    runtime: Runtime = None,
    json: AsJson = False,
) -> None:
    """Classify images and show what each answer cost."""
    address = address or f"unix:{(runtime or default_runtime()) / 'jouled.sock'}"
    stub = classifier(address)
    replies = []
    for path in images:
        try:
            content = path.read_bytes()
        except OSError as error:
            fail(f"{path}: {error.strerror}")
        request = pb.ClassifyRequest(
            model=model, image=content, top_k=top, max_energy_joules=max_energy_joules, min_accuracy=min_accuracy
        )
        with daemon_errors(address):
            reply = stub.Classify(request, timeout=timeout_seconds)
        replies.append({"image": str(path), **as_dict(reply)})
        if not json:
            _print(path, reply)
    if json:
        print_json(replies)


def _print(path: Path, reply: pb.ClassifyReply) -> None:
    energy = reply.energy
    labels = ", ".join(f"{label.name} ({label.score:g})" for label in reply.labels)
    kind = f"{reply.device}, simulated" if reply.simulated else reply.device
    print(f"{path}: {labels}")
    print(
        f"  {reply.variant} on {kind}, {reply.steps} steps, policy {reply.policy}, request {reply.request_id}: "
        f"{joules(energy.dynamic_nanojoules)} dynamic, {joules(energy.static_nanojoules)} static, "
        f"{energy.provenance}, {energy.state}"
    )
