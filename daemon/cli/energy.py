"""`jouled energy`: what requests cost, by kind and over time, as a table, a plot, a picture or CSV."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from daemon.cli.options import CALL_SECONDS, AsJson, Runtime, span_seconds
from daemon.cli.output import as_dict, daemon_errors, fail, joules, print_json, print_table
from daemon.cli.replay import replay
from daemon.client import control, default_runtime
from daemon.clock import NANO
from hal.device import Provenance, weakest
from protos import jouled_pb2 as pb

STEPS = (1, 10, 60, 600, 3600, 6 * 3600, 86400)
# How many steps of time a plot has at most, unless --step says otherwise.
MOST_STEPS = 60
STEPS_LIMIT = 10_000
LONGEST_BAR = 40
SUMMED = (
    "requests", "dynamic_nanojoules", "static_nanojoules", "device_seconds", "provisional_requests",
    "provisional_dynamic_nanojoules", "provisional_static_nanojoules",
)  # fmt: skip


class By(StrEnum):
    """What sums are told apart by."""

    TIME = "time"
    MODEL = "model"
    VARIANT = "variant"
    DEVICE = "device"
    POLICY = "policy"


class _Energy(TyperGroup):
    """Takes whatever is no command of its own as arguments of the first one, which sums."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        return super().parse_args(ctx, args if args and args[0] in self.commands else ["sum", *args])


app = typer.Typer(cls=_Energy, help="Show what requests cost, or would have cost.")
app.command()(replay)


@app.command("sum", epilog="What another policy would have cost: jouled energy replay --help")
def energy(
    request: Annotated[int, typer.Argument(help="A request's number; a summary where left out.")] = 0,
    since: Annotated[str, typer.Option(help="How far back to sum: 30s, 10m, 2h, 1d. All where left out.")] = "",
    by: Annotated[By | None, typer.Option(help="Add up, and draw, by this alone.")] = None,
    step: Annotated[str, typer.Option(help="With --by time, the length of a step: 1s, 10m, 1h, 1d.")] = "",
    png: Annotated[Path | None, typer.Option(help="With --by, write the plot as a picture.")] = None,
    as_csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV: a line for each row, energies in nanojoules.")
    ] = False,
    follow: Annotated[bool, typer.Option(help="Show final figures as they become known, until interrupted.")] = False,
    runtime: Runtime = None,
    json: AsJson = False,
) -> None:
    """Show what requests cost, and how each figure was obtained."""
    place = runtime or default_runtime()
    stub = control(place)
    if request:
        with daemon_errors(place):
            reply = stub.RequestEnergy(pb.RequestEnergyRequest(request_id=request), timeout=CALL_SECONDS)
        _print_request(request, reply, json)
        return
    if follow:
        with daemon_errors(place), suppress(KeyboardInterrupt):
            for final in stub.EnergyStream(pb.EnergyStreamRequest()):
                _print_final(final, json)
        return
    question = _question(since, by, step, png)
    with daemon_errors(place):
        found = stub.EnergySummary(question, timeout=CALL_SECONDS).rows
    rows = list(found) if by is None else _added_up(found, by)
    if json:
        print_json(as_dict(pb.EnergySummaryReply(rows=rows)))
    elif as_csv:
        _print_csv(rows)
    elif by is None:
        _print_rows(rows)
    else:
        _print_bars(rows, by)
    if png and by:
        _draw(rows, by, png)


def _question(since: str, by: By | None, step: str, png: Path | None) -> pb.EnergySummaryRequest:
    """Ask for sums since then, over time in steps."""
    if png and by is None:
        fail("--png needs --by", 2)
    if step and by is not By.TIME:
        fail("--step needs --by time", 2)
    if by is By.TIME and not since:
        fail("--by time needs --since", 2)
    span = span_seconds("--since", since) if since else 0.0
    return pb.EnergySummaryRequest(
        since_unix_nanoseconds=time.time_ns() - round(span * NANO) if since else 0,
        step_nanoseconds=_step_seconds(span, step) * NANO if by is By.TIME else 0,
    )


def _step_seconds(span: float, step: str) -> int:
    """Give the length of a step: the given one, else the shortest of a few with which there are not too many."""
    if not step:
        return next((each for each in STEPS if span / each <= MOST_STEPS), STEPS[-1])
    seconds = round(span_seconds("--step", step))
    if seconds < 1 or span / seconds > STEPS_LIMIT:
        fail(f"--step {step}: a step is a second at least, and there are {STEPS_LIMIT} at most", 2)
    return seconds


def _name(row: pb.EnergyRow, by: By) -> str:
    match by:
        case By.TIME:
            return datetime.fromtimestamp(row.begin_unix_nanoseconds / NANO).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case By.VARIANT:
            return f"{row.model}/{row.variant}" if row.model else ""
        case _:
            return str(getattr(row, by.value))


def _added_up(rows: Iterable[pb.EnergyRow], by: By) -> list[pb.EnergyRow]:
    """Add up the rows of the same name: of the weakest provenance among them, and of no status but a common one."""
    sums: dict[str, pb.EnergyRow] = {}
    for row in rows:
        name = _name(row, by)
        if name not in sums:
            sums[name] = pb.EnergyRow()
            sums[name].CopyFrom(row)
            continue
        known = sums[name]
        for field in SUMMED:
            setattr(known, field, getattr(known, field) + getattr(row, field))
        known.provenance = _weakest(known, row)
        for field in ("policy", "model", "variant", "device", "status"):
            if getattr(known, field) != getattr(row, field):
                setattr(known, field, "")
    return [sums[name] for name in sorted(sums)]


def _weakest(*rows: pb.EnergyRow) -> str:
    """Give the label of the rows' sum, none where nothing of them ran."""
    labels = [Provenance(row.provenance) for row in rows if row.provenance]
    return weakest(labels).value if labels else ""


def _print_bars(rows: Sequence[pb.EnergyRow], by: By) -> None:
    """Print a line for each row, with a bar as long as its energy."""
    from daemon.cli.tables import room_beside

    totals = [row.dynamic_nanojoules + row.static_nanojoules for row in rows]
    most = max([*totals, 1])
    columns = (by.value, "requests", "dynamic", "static", "provenance")
    figures = [
        (
            _name(row, by) or "nothing", row.requests, joules(row.dynamic_nanojoules), joules(row.static_nanojoules),
            row.provenance,
        )
        for row in rows
    ]  # fmt: skip
    longest = min(LONGEST_BAR, room_beside(columns, figures))
    bars = ["█" * round(longest * total / most) or ("▏" if total else "") for total in totals]
    table = [(*row, bar) for row, bar in zip(figures, bars, strict=True)]
    print_table("energy of requests", (*columns, ""), table)


def _draw(rows: Sequence[pb.EnergyRow], by: By, path: Path) -> None:
    """Write the plot as a picture."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        fail("--png needs matplotlib: pip install 'jouled[compile]'")
    names = [_name(row, by) or "nothing" for row in rows]
    dynamic, static = (
        [getattr(row, field) / NANO for row in rows] for field in ("dynamic_nanojoules", "static_nanojoules")
    )
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(names, dynamic, color="#0b6e4f", label="dynamic")
    axes.bar(names, static, bottom=dynamic, color="#9ccbb8", label="static")
    axes.set_ylabel("energy of requests [J]")
    if by is By.TIME:
        axes.set_xticks(range(0, len(names), max(len(names) // 6, 1)))
    axes.tick_params("x", rotation=20)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="/".join(sorted({row.provenance for row in rows if row.provenance})))
    figure.savefig(path, dpi=120)


def _print_csv(rows: Iterable[pb.EnergyRow]) -> None:
    fields = [field.name for field in pb.EnergyRow.DESCRIPTOR.fields]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(fields)
    writer.writerows([getattr(row, field) for field in fields] for row in rows)


def _where(row: pb.EnergyRow) -> str:
    """Name the variant and the device, as the page does."""
    return (f"{row.model}/{row.variant}" if row.model else "nothing") + (f" on {row.device}" if row.device else "")


def _print_request(number: int, reply: pb.RequestEnergyReply, json: bool) -> None:
    if json:
        print_json(as_dict(reply))
        return
    row = reply.row
    print(f"request {number}: {row.status}, {_where(row)} under policy {row.policy}")
    replied = (row.provisional_dynamic_nanojoules, row.provisional_static_nanojoules)
    print(f"replied: {joules(replied[0])} dynamic, {joules(replied[1])} static, provisional")
    for figure in reply.failed:
        print(f"failed attempt: {_figure(figure)}")
    print(f"{reply.energy.state or 'final'}: {_figure(reply.energy)}")


def _print_final(final: pb.FinalEnergy, json: bool) -> None:
    if json:
        print_json(as_dict(final))
    else:
        attempt = f", failed attempt {final.failed_attempt}" if final.failed_attempt else ""
        print(f"request {final.request_id}{attempt}: {_figure(final.energy)}", flush=True)


def _figure(report: pb.EnergyReport) -> str:
    labels = [label for label in (report.provenance, report.sharing, report.boundary) if label]
    return (
        f"{joules(report.dynamic_nanojoules)} dynamic, {joules(report.static_nanojoules)} static, "
        f"+- {joules(report.uncertainty_nanojoules)}; {', '.join(labels)}"
    )


def _print_rows(rows: Sequence[pb.EnergyRow]) -> None:
    table = [
        (
            row.policy, _where(row), row.status.replace("_", " "), row.requests, joules(row.dynamic_nanojoules),
            joules(row.static_nanojoules),
            joules(row.dynamic_nanojoules / max(row.requests - row.provisional_requests, 1)), row.provenance,
        )
        for row in rows
    ]  # fmt: skip
    columns = ("policy", "answered by", "status", "requests", "dynamic", "static", "dynamic each", "provenance")
    print_table("energy of requests", columns, table)
    for row in rows:
        if row.provisional_requests:
            what = f"{row.policy}, {_where(row)}, {row.status.replace('_', ' ')}"
            print(f"{what}: {row.provisional_requests} not final yet, not in the joules")
