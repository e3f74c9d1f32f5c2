"""A journal's store, opened only to be read."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from daemon.journal_schema import VERSION


class NoJournal(Exception):
    """A file is no journal that this release reads: the message says why."""


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a store, whether a daemon uses it or not; all that is read is of one moment, while a daemon writes on.

    What is still in the tail is not there yet: the last half second of a daemon that runs, and what a killed one wrote
    until the next one starts. Raises `NoJournal`, also in the place of SQLite's errors.
    """
    if not path.is_file():
        raise NoJournal(f"{path}: no such file")
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        ) as database:
            database.execute("BEGIN")
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            if missing := {"sessions", "reigns", "requests"} - tables:
                raise NoJournal(f"{path}: no journal, it has no table {min(missing)!r}")
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise NoJournal(
                    f"{path}: its format is {version}, this release reads {VERSION}; "
                    "a daemon that starts on an older journal brings it up"
                )
            yield database
    except sqlite3.Error as error:
        raise NoJournal(f"{path}: {error}") from None
