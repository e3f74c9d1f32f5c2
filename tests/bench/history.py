"""How long `jouled energy` takes over a journal of ten million records: a day's summary, and a day by the hour.

    python -m tests.bench.history [--records N] [--json FILE]

The journal is generated: its records are spread evenly over a day and a half that ends now, over two policies and eight
operating points. It is summed as the daemon does it beside its work, which is timed as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from daemon import journal_sums
from daemon.clock import NANO
from daemon.journal_store import Store
from tests.daemon.builders import make_point

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAY = 86400 * NANO
BAR_SECONDS = 1.0
CHUNK = 200_000
INSERT = (
    "INSERT INTO requests VALUES (?1, 1, ?2, ?3, 'ok', 1, ?4, ?4, ?4 + 1000, ?4 + 2000, 900, 100 + ?1 % 97, 7, 3, "
    "'final', 0.001, 0, ?1, 'simulated', 'exclusive', 100, 7)"
)


def records(count: int, begin: int, points: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """Give the records' number, reign, point and moment."""
    for number in range(1, count + 1):
        yield number, 1 + number % 2, points[number % len(points)], begin + number * (3 * DAY // 2) // count


def measure(count: int) -> dict[str, float]:
    """Generate a journal, sum it, and ask; give the seconds of each."""
    now = time.time_ns()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder, "journal.db"))
        store.open_session("boot", now, now)
        points = [store.point_id(make_point(device=f"chip{index % 2}", steps=index)) for index in range(8)]
        database = store._database
        database.execute("PRAGMA synchronous = OFF")
        database.executemany(
            "INSERT INTO reigns VALUES (?, 1, ?, 1, 1, 0.1, 1, NULL, 0)", [(1, "tight"), (2, "balanced")]
        )
        rows = records(count, now - 3 * DAY // 2, points)
        for begin in range(0, count, CHUNK):
            database.execute("BEGIN")
            chunk = [row for _, row in zip(range(min(CHUNK, count - begin)), rows, strict=False)]
            database.executemany(INSERT, chunk)
            journal_sums.touch(database, [row[3] for row in chunk])
            database.execute("COMMIT")
        found = {"summing": timed(lambda: store.sum_up(now - 60 * NANO))}
        asked = [timed(lambda: store.summary(now - DAY)) for _ in range(5)]
        hours = [timed(lambda: store.summary(now - DAY, step=3600 * NANO)) for _ in range(5)]
        total = sum(row.requests for row in store.summary(0))
        assert total == count, f"{total} of {count} records are in the sums"
        store.close()
    return {**found, "day": statistics.median(asked), "day_by_hour": statistics.median(hours)}


def timed(work: Callable[[], object]) -> float:
    """Tell how many seconds some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Sums over a large journal.")
    parser.add_argument("--records", type=int, default=10_000_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.records)
    print(f"{options.records} records over a day and a half")
    print(f"  summing them all, beside the daemon's work   {found['summing']:8.3f} s")
    print(f"  summary of a day                             {found['day']:8.3f} s (bar: {BAR_SECONDS} s)")
    print(f"  a day by the hour                            {found['day_by_hour']:8.3f} s")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
