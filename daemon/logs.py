"""The daemon's log: for people, as JSON, or with fields to systemd's journal; its level can be changed while it runs.

Where systemd runs the daemon, its journal gets each entry as a datagram with fields (systemd.journal-fields(7), native
protocol), so that `journalctl JOULED_DEVICE=cpu` finds them.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import structlog

from daemon.clock import NANO
from daemon.journal import Record

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS = ("auto", "console", "logfmt", "json")
JOURNAL_SOCKET = "/run/systemd/journal/socket"
# The priorities of syslog(3), by the names of structlog.
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}


class Threshold:
    """The least level that is logged, as a structlog processor: what is below it is dropped."""

    def __init__(self, level: str) -> None:
        self.level = level

    def __call__(self, _: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Let an entry through, or drop it."""
        if LEVELS.get(method, logging.ERROR) < LEVELS[self.level]:
            raise structlog.DropEvent
        return event


threshold = Threshold("info")
log = structlog.get_logger()


def ended(record: Record) -> None:
    """Log a request that has ended, at the level debug."""
    if threshold.level == "debug":
        log.debug(
            "request ended",
            request_id=record.request_id,
            status=record.status,
            model=record.model,
            device=record.point.device if record.point else "",
            policy=record.policy,
            seconds=(record.ended - record.accepted) / NANO,
        )


def configure(
    how: str,
    level: str,
    environment: Mapping[str, str] = os.environ,
    *,
    stream: TextIO | None = None,
    journal: str = JOURNAL_SOCKET,
) -> None:
    """Log to standard error, or to systemd's journal where that is what standard error leads to."""
    threshold.level = level
    stream = stream or sys.stderr
    processors: list[structlog.typing.Processor] = [threshold, structlog.processors.add_log_level]
    factory: Any = structlog.PrintLoggerFactory(stream)
    if how == "auto" and _journal_reads(stream, environment) and Path(journal).exists():
        logger = JournalLogger(journal)
        factory = lambda *_: logger  # noqa: E731
        processors += [structlog.processors.format_exc_info, journal_fields]
    else:
        processors += [structlog.processors.TimeStamper(fmt="iso"), *_renderers(how, stream)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=factory,
    )


def _renderers(how: str, stream: TextIO) -> list[structlog.typing.Processor]:
    if how == "console" or (how == "auto" and stream.isatty()):
        return [structlog.dev.ConsoleRenderer()]
    renderer = structlog.processors.JSONRenderer() if how == "json" else structlog.processors.LogfmtRenderer()
    return [structlog.processors.format_exc_info, renderer]


def _journal_reads(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Tell whether a stream leads to systemd's journal, as JOURNAL_STREAM says (systemd.exec(5))."""
    if "JOURNAL_STREAM" not in environment:
        return False
    status = os.fstat(stream.fileno())
    return environment["JOURNAL_STREAM"] == f"{status.st_dev}:{status.st_ino}"


def journal_fields(_: Any, method: str, event: structlog.typing.EventDict) -> bytes:
    """Write an entry as the journal's native protocol wants it. A value of several lines gets its length before it."""
    event.pop("level", None)
    fields = {"MESSAGE": _message(event), "PRIORITY": PRIORITIES.get(method, 6), "SYSLOG_IDENTIFIER": "jouled"}
    fields |= {f"JOULED_{_field_name(key)}": value for key, value in event.items()}
    data = b""
    for name, value in fields.items():
        text = (value if isinstance(value, str) else json.dumps(value, default=str)).encode()
        if b"\n" in text:
            data += name.encode() + b"\n" + len(text).to_bytes(8, "little") + text + b"\n"
        else:
            data += name.encode() + b"=" + text + b"\n"
    return data


def _field_name(key: str) -> str:
    """Make a field's name of upper-case letters, digits and underscores, which is all that the journal takes."""
    return "".join(each if each.isascii() and each.isalnum() else "_" for each in key.upper())[:50]


def _message(event: structlog.typing.EventDict) -> str:
    """Write an entry for people: its event, and what belongs to it."""
    rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in {"event", "exception"})
    return f"{event.get('event', '')} {rest}".strip() + (f"\n{event['exception']}" if "exception" in event else "")


class JournalLogger:
    """Sends what is logged to the journal's socket. What it does not take at once is lost: nothing waits for a log."""

    def __init__(self, path: str) -> None:
        self._path = path

    def msg(self, data: bytes) -> None:
        """Send an entry."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel, suppress(OSError):
            channel.sendto(data, socket.MSG_DONTWAIT, self._path)

    debug = info = warning = error = critical = exception = log = msg
