"""`jouled energy replay`: what recorded requests would have cost under another policy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from daemon.cli.options import CALL_SECONDS, AsJson, Runtime, span_seconds
from daemon.cli.output import daemon_errors, fail, joules, print_json, print_table
from daemon.client import control, default_runtime, default_state
from daemon.clock import NANO
from daemon.errors import ConfigError
from hal.device import Cost, Kind
from hal.names import near
from protos import jouled_pb2 as pb

if TYPE_CHECKING:
    from daemon.points import Point
    from daemon.replay import Bill
    from hal.device import Program


def replay(
    policy: Annotated[str, typer.Option(help="A policy of the configuration.")],
    since: Annotated[str, typer.Option(help="How far back to begin: 30s, 10m, 2h, 1d.")] = "1h",
    config: Annotated[Path, typer.Option(help="The configuration file with the policy.")] = Path(
        "/etc/jouled/jouled.toml"
    ),
    state_directory: Annotated[
        Path | None, typer.Option(envvar="STATE_DIRECTORY", help="Where the journal is kept.")
    ] = None,
    runtime: Runtime = None,
    json: AsJson = False,
) -> None:
    """Tell what recorded requests would have cost under a policy, beside what they did cost.

    The router decides about them anew, in simulated time; operating points and devices are those of the running daemon.
    """
    from daemon import replay as past
    from daemon.config import load
    from daemon.journal_reader import NoJournal

    try:
        policies = load(config).policy
        if policy not in policies:
            fail(f"{config}: no policy {policy!r}{near(policy, policies)}")
        until = time.time_ns()
        journal = (state_directory or default_state()) / "journal.db"
        recording = past.read(journal, until - round(span_seconds("--since", since) * NANO), until)
    except (ConfigError, NoJournal) as error:
        fail(str(error))
    place = runtime or default_runtime()
    with daemon_errors(place):
        stub = control(place)
        models = stub.Models(pb.ModelsRequest(), timeout=CALL_SECONDS).models
        devices = stub.Devices(pb.DevicesRequest(), timeout=CALL_SECONDS).devices
    watts = {device.name: device.powered_watts for device in devices}
    reopening = {
        device.name: Cost(device.reopening_joules, device.reopening_upper_joules, device.reopening_seconds)
        for device in devices
        if device.break_even_seconds
    }
    points = [_point(model, point) for model in models for point in model.points]
    try:
        bill = past.replay(recording, policy, policies[policy], points, watts, reopening)
    except ValueError as error:
        fail(f"{journal}: {error}")
    names = "/".join(recording.policies)
    if json:
        print_json({"recorded": _as_json(names, recording.bill), "replayed": _as_json(policy, bill)})
    else:
        _print(names, recording.bill, policy, bill, (recording.end_unix - recording.begin_unix) / NANO)


def _point(model: pb.ModelState, state: pb.PointState) -> Point:
    """Make an operating point that can be chosen, though not run."""
    from daemon.points import Point

    return Point(
        model=model.name, version=model.version, variant=state.variant, kind=Kind(state.kind),
        digest=state.artifact_digest, device=state.device, simulated=True, provenance=state.provenance, boundary="",
        steps=state.steps, margin=state.margin, accuracy=state.accuracy,
        dynamic_nanojoules=round(state.dynamic_joules * NANO), upper_nanojoules=round(state.upper_joules * NANO),
        seconds=state.seconds, program=cast("Program", None), service_seconds=state.seconds,
    )  # fmt: skip


def _as_json(policies: str, bill: Bill) -> dict[str, object]:
    return {
        "policies": policies,
        "statuses": bill.statuses,
        "expected_right": bill.expected_right,
        "dynamic_joules": bill.dynamic_joules,
        "static_joules": bill.static_joules,
        "joules": bill.joules,
    }


def _print(before: str, recorded: Bill, policy: str, replayed: Bill, seconds: float) -> None:
    def accuracy(bill: Bill) -> str:
        answered = bill.statuses.get("ok", 0)
        return f"{bill.expected_right / answered:.2%}" if answered else ""

    bills = (recorded, replayed)
    rows = [
        ("policy", before, policy),
        ("requests", *(str(sum(bill.statuses.values())) for bill in bills)),
        ("answered", *(str(bill.statuses.get("ok", 0)) for bill in bills)),
        ("expected accuracy", *map(accuracy, bills)),
        *(
            (name, *(joules(getattr(bill, field) * NANO) for bill in bills))
            for name, field in (("dynamic", "dynamic_joules"), ("static", "static_joules"), ("together", "joules"))
        ),
    ]
    print_table(f"{seconds:.0f} s of recorded requests", ("", "recorded", "replayed, simulated"), rows)
