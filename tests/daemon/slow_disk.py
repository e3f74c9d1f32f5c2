"""A daemon whose disk is slow: `python -m tests.daemon.slow_disk serve ...`.

Each transaction of the journal's store takes half a second more before it is on disk, as an fsync of a busy disk does.
"""

from __future__ import annotations

import sqlite3
import threading
from functools import partial
from typing import TYPE_CHECKING, Literal

from daemon.cli.main import run

if TYPE_CHECKING:
    from types import TracebackType

STALL_SECONDS = 0.5


class _Slow(sqlite3.Connection):
    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        """Wait, as for the disk, then commit."""
        threading.Event().wait(STALL_SECONDS)
        return super().__exit__(kind, raised, traceback)


if __name__ == "__main__":
    sqlite3.connect = partial(sqlite3.connect, factory=_Slow)  # type: ignore[assignment]
    run()
