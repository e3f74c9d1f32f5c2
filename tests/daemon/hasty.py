"""A daemon that soon loses patience with connections: `python -m tests.daemon.hasty serve ...`."""

from __future__ import annotations

from functools import partial

from daemon import server
from daemon.cli.main import run
from daemon.http2.limits import Limits

if __name__ == "__main__":
    # A connection without a call ends after 1 s; one with a call is pinged each 0.3 s and has 0.2 s for its answer.
    server.Limits = partial(  # type: ignore[assignment, attr-defined]
        Limits, idle_seconds=1.0, keepalive_seconds=0.3, ping_timeout_seconds=0.2
    )
    run()
