"""Load reports in ORCA, the Open Request Cost Aggregation: stock balancers see how many watts a host has to spare.

The utilisation is the power used over the budget. It comes with the rate of requests over the same time, the budget's
window: a balancer that weighs hosts by rate over utilisation sends each as many requests as it has power for.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from daemon.audit import ANSWERED, CANCELLED
from daemon.clock import NANO, Clock
from daemon.dispatcher import Dispatcher
from daemon.http2.call import Call
from daemon.journal import Record
from protos import orca_service_pb2, orca_service_pb2_grpc
from protos.orca_load_report_pb2 import OrcaLoadReport

# Balancers read the first one, and grpc takes it out of what an application sees; the second one stays.
BINARY_KEY, TEXT_KEY = "endpoint-load-metrics-bin", "endpoint-load-metrics"
COST = "energy_joules"
# How old the figures of a report may be.
REFRESH_NANOSECONDS = NANO // 10
# A client that names no interval gets a report each second, and none gets more than ten.
DEFAULT_INTERVAL_SECONDS, LEAST_INTERVAL_SECONDS = 1.0, 0.1

Trailer = tuple[tuple[str, str | bytes], ...]
pack_double = struct.Struct("<d").pack


class _Count(NamedTuple):
    """How many requests had ended at a moment, and how many of them without the answer that they waited for."""

    moment: int
    ended: int
    failed: int


class LoadReports(orca_service_pb2_grpc.OpenRcaServiceServicer):
    """Reports that go with what a call came to, and to those who ask for nothing else."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock) -> None:
        self._budget = dispatcher.budget
        self._clock = clock
        self._counts = deque([_Count(clock(), 0, 0)])
        self._ended = self._failed = 0
        self._over = asyncio.get_running_loop().create_future()
        self._refresh(clock())
        dispatcher.listeners.append(self._count)

    def _count(self, record: Record) -> None:
        self._ended += 1
        self._failed += record.status not in {ANSWERED, CANCELLED}

    def trailer(self, nanojoules: int = 0) -> Trailer:
        """Give the trailing metadata of a call that cost this much: the report, in both of its encodings."""
        self._keep_fresh()
        joules = nanojoules / NANO
        return (
            (BINARY_KEY, self._binary + REQUEST_COST + pack_double(joules)),
            (TEXT_KEY, f'{self._text}"request_cost": {{"{COST}": {joules!r}}}}}'),
        )

    async def StreamCoreMetrics(  # noqa: N802
        self, request: orca_service_pb2.OrcaLoadReportRequest, call: Call
    ) -> AsyncIterator[OrcaLoadReport]:
        """Report at once and at the interval that is asked for, until the daemon drains."""
        asked = request.report_interval.ToNanoseconds() / NANO
        seconds = max(asked or DEFAULT_INTERVAL_SECONDS, LEAST_INTERVAL_SECONDS)
        while not self._over.done():
            self._keep_fresh()
            yield self._report
            await asyncio.wait({self._over}, timeout=seconds)

    def end(self) -> None:
        """End the streams: the daemon drains."""
        self._over.set_result(None)

    def _keep_fresh(self) -> None:
        now = self._clock()
        if now - self._counts[-1].moment >= REFRESH_NANOSECONDS:
            self._refresh(now)

    def _refresh(self, now: int) -> None:
        """Look at the budget's window that ends now."""
        window, limit = self._budget.limit.window_nanoseconds, self._budget.limit.nanojoules
        self._counts.append(_Count(now, self._ended, self._failed))
        while self._counts[1].moment <= now - window:
            self._counts.popleft()
        before, seconds = self._counts[0], window / NANO
        used = self._budget.used_nanojoules(now)
        report = self._report = OrcaLoadReport(
            application_utilization=used / limit if limit else 1.0,
            rps_fractional=(self._ended - before.ended) / seconds,
            eps=(self._failed - before.failed) / seconds,
        )
        self._binary = report.SerializeToString()
        self._text = (
            f'JSON {{"application_utilization": {report.application_utilization!r}, '
            f'"rps_fractional": {report.rps_fractional!r}, "eps": {report.eps!r}, '
        )


def _before_cost() -> bytes:
    """Serialise the cost of a request up to its value: a double is the last eight bytes."""
    return OrcaLoadReport(request_cost={COST: 0.0}).SerializeToString()[:-8]


REQUEST_COST = _before_cost()
