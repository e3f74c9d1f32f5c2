"""`jouled top`: the page in a terminal, also over SSH."""

from __future__ import annotations

import http.client
import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from daemon.cli.output import EXIT_NO_DAEMON, fail, joules
from daemon.cli.tables import Cells, fitting
from daemon.clock import NANO

# A daemon that says nothing for so long has gone away.
SILENT_SECONDS = 5.0
PAUSE_SECONDS = 0.5
EVENTS_KEPT = 50
POINTS_SHOWN = 6
PANEL_EDGES = 4
BEYOND_ANY_TERMINAL = 10_000
LATEST = ("request", "status", "answered by", "dynamic", "figures")
BARS = "▁▂▃▄▅▆▇█"
HEALTH_STYLES = {"up": "green", "degraded": "yellow", "starting": "yellow", "lost": "bold red", "shed": "bold red"}


class _Gone(Exception):
    """The daemon does not answer, or has nothing to say at this address."""


class Screen:
    """What was told so far, and how it is drawn."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.present: dict[str, Any] | None = None
        self.moments: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.gone = ""

    def hear(self, kind: str, content: Any) -> None:
        """Take over a message of the daemon."""
        if kind == "past":
            self.moments = content["moments"]
            self.events = []
        elif kind == "present":
            self.present, self.gone = content, ""
            sample = content["sample"]
            self.moments.append(
                {
                    "unix_seconds": sample["unix_seconds"],
                    "watts": sample["watts"],
                    "answered": {point["name"]: point["answered"] for point in sample["points"]},
                }
            )
            del self.moments[:-600]
            self.events = [*reversed(content["events"]), *self.events][:EVENTS_KEPT]

    def __rich_console__(self, console: Console, _: Any) -> Iterator[RenderableType]:
        """Draw all of it, as high as the terminal is."""
        if self.present is None:
            yield self._waiting()
            return
        width = console.width
        head, devices, answers = self._now(self.present["sample"], width)
        layout = Layout()
        layout.split_column(
            Layout(head, size=5),
            *(Layout(table, size=len(console.render_lines(table)) + 1) for table in (devices, answers)),
            Layout(name="rest"),
        )
        # Requests and events lie beside each other where the requests still have one line each.
        latest = _latest(self.present["latest"])
        beside = fitting(LATEST, latest, 3 * width // 5 - PANEL_EDGES, broken=False)
        requests = beside or _table(LATEST, latest, width - PANEL_EDGES)
        parts = (
            Layout(Panel(requests, title="latest requests", title_align="left", box=box.ROUNDED), ratio=3),
            Layout(Panel(self._events(), title="events", title_align="left", box=box.ROUNDED), ratio=2),
        )
        (layout["rest"].split_row if beside else layout["rest"].split_column)(*parts)
        yield layout

    def whole(self, width: int) -> RenderableType:
        """Give all of it as high as it is."""
        if self.present is None:
            return self._waiting()
        latest = _table(LATEST, _latest(self.present["latest"]), width)
        return Group(
            *(part for each in (*self._now(self.present["sample"], width), latest) for part in (each, "")),
            self._events(),
        )

    def _waiting(self) -> Text:
        return Text(f"waiting for {self.address} {self.gone}")

    def _now(self, sample: dict[str, Any], width: int) -> tuple[Panel, Table, Table]:
        answers = self._answers(_used(sample)[:POINTS_SHOWN], width)
        return self._head(sample, width), _devices(sample, width), answers

    def _head(self, sample: dict[str, Any], width: int) -> Panel:
        title = Text.assemble(
            ("jouled ", "bold"), ("policy ", "dim"), (sample["policy"], "bold green"), "   ",
            ("power ", "dim"), (watts(sum(sample["watts"].values())), "bold"), "   ",
            ("limit ", "dim"), watts(sample["limit_joules"] / sample["window_seconds"]),
        )  # fmt: skip
        if self.gone:
            title.append(f"   {self.gone}", "bold red")
        used, limit = sample["used_joules"], sample["limit_joules"]
        filled = used / limit if limit else 0.0
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text("window", "dim"),
            ProgressBar(
                1.0, min(filled, 1.0), width=max(width - 50, 10), complete_style="red" if filled > 0.95 else "green"
            ),
            Text(f"{joules(used * NANO)} of {joules(limit * NANO)}, {filled:.1%}"),
        )
        levels = [sum(moment["watts"].values()) for moment in self.moments[-max(width - 12, 10) :]]
        return Panel(Group(title, bar, Text.assemble(("power  ", "dim"), sparkline(levels))), box=box.ROUNDED)

    def _answers(self, points: list[dict[str, Any]], width: int) -> Table:
        rows = [
            (
                point["name"], f"{point['accuracy']:.2%}", f"{self._rate(point['name']):.1f}", str(point["answered"]),
                joules(point["joules"] / point["finals"] * NANO) if point["finals"] else "", point["provenance"],
            )
            for point in points
        ]  # fmt: skip
        return _table(("operating point", "accuracy", "per second", "answers", "dynamic each", "figures"), rows, width)

    def _rate(self, name: str) -> float:
        """Give the answers per second over the last few seconds."""
        first, last = self.moments[-min(6, len(self.moments))], self.moments[-1]
        seconds = last["unix_seconds"] - first["unix_seconds"]
        return (last["answered"].get(name, 0) - first["answered"].get(name, 0)) / seconds if seconds > 0 else 0.0

    def _events(self) -> Text:
        text = Text()
        for event in self.events:
            moment = datetime.fromtimestamp(event["unix_seconds"]).astimezone()
            text.append(f"{moment:%H:%M:%S} ", "dim")
            text.append(event["text"] + "\n", "bold red" if event["grave"] else "")
        return text


def _devices(sample: dict[str, Any], width: int) -> Table:
    rows = []
    for device in sample["devices"]:
        mine = [each for each in sample["buckets"] if device["name"] in each["device"].split("+")]
        drawn = next((each for name, each in sample["watts"].items() if device["name"] in name.split("+")), 0.0)
        kind = "simulated" if device["simulated"] else "real"
        row = (
            device["name"], kind, Text(device["health"], HEALTH_STYLES.get(device["health"], "")), device["power"],
            watts(drawn), joules(sum(each["nanojoules"] for each in mine)), mine[0]["provenance"] if mine else "",
            str(device["queued"]),
        )  # fmt: skip
        rows.append(row)
    return _table(("device", "kind", "health", "power state", "draws", "total", "figures", "queued"), rows, width)


def _used(sample: dict[str, Any]) -> list[dict[str, Any]]:
    used = [point for point in sample["points"] if point["answered"]]
    return sorted(used, key=lambda point: -point["answered"])


def _latest(requests: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            str(each["request_id"]), each["status"].replace("_", " "),
            f"{each['model']}/{each['variant']} on {each['device']}" if each["device"] else "nothing",
            joules(each["dynamic_nanojoules"]) if each["provenance"] else "", each["provenance"],
        )
        for each in requests
    ]  # fmt: skip


def _table(columns: Sequence[str], rows: Cells, width: int) -> Table:
    """Make a table as wide as the terminal at most; where not even words fit, what is beyond the edge is cut."""
    for broken in (False, True):
        if (table := fitting(columns, rows, width, broken=broken)) is not None:
            return table
    return fitting(columns, rows, BEYOND_ANY_TERMINAL, broken=False) or Table()


def watts(value: float) -> str:
    """Write a power with four significant digits and a fitting unit."""
    return joules(value * NANO).replace("J", "W") if value else "0 W"


def sparkline(levels: list[float]) -> str:
    """Draw levels as bars, the highest one full."""
    most = max([*levels, 0.0]) or 1.0
    return "".join(BARS[min(int(level / most * len(BARS)), len(BARS) - 1)] for level in levels)


def top(
    address: Annotated[str, typer.Option(help="HOST:PORT of the daemon's page.")] = "127.0.0.1:9464",
    once: Annotated[bool, typer.Option("--once", help="Print how things stand and end.")] = False,
) -> None:
    """Watch power, answers, devices and requests in the terminal, until q is pressed."""
    screen, console = Screen(address), Console()
    if once:
        try:
            _listen(screen, lambda: screen.present is None)
        except _Gone as gone:
            fail(str(gone), EXIT_NO_DAEMON)
        console.print(screen.whole(console.width))
        return
    with (
        suppress(KeyboardInterrupt), _keys() as pressed, Live(screen, console=console, screen=True, auto_refresh=False)
        as live,
    ):  # fmt: skip

        def go_on() -> bool:
            live.refresh()
            return pressed() not in {"q", "Q"}

        while True:
            try:
                _listen(screen, go_on)
                return
            except _Gone as gone:
                screen.gone = str(gone)
                if not go_on():
                    return
                time.sleep(PAUSE_SECONDS)


def _listen(screen: Screen, go_on: Callable[[], bool]) -> None:
    """Read the daemon's messages for as long as wanted. Raises `_Gone`."""
    connection = http.client.HTTPConnection(screen.address, timeout=SILENT_SECONDS)
    try:
        connection.request("GET", "/events")
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise _Gone(f"http://{screen.address} has no page: {response.status} {response.reason}")
        kind = ""
        while go_on():
            line = response.readline().decode()
            if not line:
                raise _Gone(f"the daemon at {screen.address} has ended")
            name, _, content = line.rstrip("\n").partition(": ")
            if name == "event":
                kind = content
            elif name == "data":
                screen.hear(kind, json.loads(content))
    except (OSError, http.client.HTTPException) as error:
        raise _Gone(f"no daemon answers at http://{screen.address}: {error}") from None
    finally:
        connection.close()


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """Give what tells the key that was pressed since, if any; the terminal is put back in order afterwards."""
    if not sys.stdin.isatty():
        yield lambda: ""
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield lambda: os.read(descriptor, 1).decode() if select.select([descriptor], [], [], 0)[0] else ""
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
