"""The benchmark of the server measures what it says, whatever is installed beside it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from tests.bench import drive, serve, servers, tiny
from tests.daemon.serving import free_port

if TYPE_CHECKING:
    from pathlib import Path


def test_it_measures_the_daemon_beside_an_echo() -> None:
    """Every mode has its rows, each answered in full; a peer that is not installed has no ratio."""
    result = serve.measure(None, rounds=1, seconds=0.05)
    modes = {mode: list(rows) for mode, rows in groupby(result["rows"], key=lambda row: row["mode"])}
    assert {(row["server"], row["concurrency"]) for row in modes["closed"]} == {
        (server, concurrency) for server in ("echo", "jouled") for concurrency in (1, 8, 32)
    }
    assert [row["server"] for row in modes["stream"]] == ["jouled"]
    assert {row["server"] for row in modes["open"]} == {"echo", "jouled"}
    for row in result["rows"]:
        assert row["failed_requests"] == 0
        assert row["requests_per_second"] > 0
        assert 0 < row["p50_seconds"] <= row["p99_seconds"]
        assert row["rss_bytes"] > 1 << 24
    ratios = result["ratios"]
    assert [ratios[f"vs_{peer}"] for peer in serve.PEERS] == [None, None, None]
    assert ratios["cpu_vs_echo"] > 1
    assert ratios["stream_vs_unary"] > 0


def test_refusals_are_no_answers(tmp_path: Path) -> None:
    """In closed loop a refusal ends the run; on a stream it is counted, and answers go on."""
    address = f"127.0.0.1:{free_port()}"
    unary, stream = (serve.target_of(address, method) for method in ("ModelInfer", "ModelStreamInfer"))
    with servers.started(servers.daemon_command(tiny.configuration(tmp_path), tmp_path, address)) as process:
        servers.wait_until_it_answers(process, unary)
        driven = drive.closed(unary, requests=20, concurrency=3)
        assert (len(driven.seconds), driven.failed) == (20, 0)
        with pytest.raises(RuntimeError, match="refuses"):
            drive.closed(unary._replace(request=b""), requests=20, concurrency=3)
        assert drive.stream(stream, 20, 3, serve.is_error).failed == 0
        driven = drive.stream(stream._replace(request=b""), 20, 3, serve.is_error)
        assert (len(driven.seconds), driven.failed) == (20, 20)
