"""What several commands have in common: their options, and how long they wait for the daemon."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.output import EXIT_USAGE, fail

CALL_SECONDS = 10.0
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Runtime = Annotated[
    Path | None, typer.Option("--runtime-directory", envvar="RUNTIME_DIRECTORY", help="Where the daemon's sockets are.")
]


def span_seconds(option: str, text: str) -> float:
    """Read a length of time, such as 10m."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match:
        fail(f"{option} {text!r}: a number and one of s, m, h, d is needed, such as 10m", EXIT_USAGE)
    return float(match[1]) * UNITS[match[2]]
