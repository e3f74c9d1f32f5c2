"""A daemon that soon loses patience with connections: `python -m tests.daemon.hasty serve ...`."""

from __future__ import annotations

from daemon.cli.main import run
from daemon.listener import LIMITS

# A connection without a call ends after 1 s; one with a call is pinged each 0.3 s and has 0.2 s for its answer.
DIVISORS = {"grpc.max_connection_idle_ms": 600, "grpc.keepalive_time_ms": 200, "grpc.http2.ping_timeout_ms": 100}

if __name__ == "__main__":
    LIMITS[:] = [(name, value // DIVISORS.get(name, 1)) for name, value in LIMITS]
    run()
