"""How commands speak: tables for people, JSON for programs, errors on standard error with an exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import typer

if TYPE_CHECKING:
    from google.protobuf.message import Message

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_NO_DAEMON = 3


def fail(message: str, status: int = EXIT_REFUSED) -> NoReturn:
    """End the command with an error."""
    print(f"jouled: {message}", file=sys.stderr)
    raise typer.Exit(status)


def print_json(content: Any) -> None:
    """Print JSON."""
    print(json.dumps(content, indent=2, ensure_ascii=False))


def as_dict(message: Message) -> dict[str, Any]:
    """Turn a message into a dictionary with the names of the protocol, whole numbers as numbers."""
    from google.protobuf.json_format import MessageToDict

    content = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {key: _numbers(message.DESCRIPTOR.fields_by_name[key], value) for key, value in content.items()}


def _numbers(field: Any, value: Any) -> Any:
    """Undo the JSON mapping of 64-bit numbers to strings."""
    if isinstance(value, list):
        return [_numbers(field, each) for each in value]
    if isinstance(value, dict) and field.message_type.GetOptions().map_entry:
        return {key: _numbers(field.message_type.fields_by_name["value"], each) for key, each in value.items()}
    if isinstance(value, dict):
        return {key: _numbers(field.message_type.fields_by_name[key], each) for key, each in value.items()}
    return int(value) if field.cpp_type == field.CPPTYPE_INT64 else value


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table that fits the terminal."""
    # Rich is loaded where a table is printed, and by no other command.
    from daemon.cli import tables

    tables.print_table(title, columns, rows)


@contextmanager
def daemon_errors(where: object) -> Iterator[None]:
    """Turn a failed call into a sentence and an exit status."""
    try:
        yield
    except grpc.RpcError as error:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and "connect" in details.lower():
            fail(f"no daemon answers at {where}; start one with: jouled serve", EXIT_NO_DAEMON)
        fail(f"{code.name}: {details}")


@contextmanager
def trial_progress() -> Iterator[Callable[[int], Callable[[], None]]]:
    """Show a bar on a terminal: told how many trials are missing, it gives what is to be called after each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("calibrating", total=None)

        def begin(missing: int) -> Callable[[], None]:
            progress.update(task, description="searching", total=missing)
            return lambda: progress.advance(task)

        yield begin


def joules(nanojoules: float) -> str:
    """Write an energy with four significant digits and a fitting unit."""
    value = nanojoules * 1e-9
    for factor, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ"), (1e-9, "nJ")):
        if abs(value) >= factor or factor == 1e-9:
            return f"{value / factor:.4g} {unit}"
    raise AssertionError("unreachable")
