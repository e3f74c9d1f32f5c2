"""What the requests of each model came to, added up as they end."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.audit import ANSWERED
from daemon.journal import Record


@dataclass(slots=True)
class Duration:
    """How often something was, and how long altogether."""

    count: int = 0
    nanoseconds: int = 0

    def add(self, nanoseconds: int) -> None:
        """Count once more."""
        self.count += 1
        self.nanoseconds += nanoseconds


@dataclass(slots=True)
class ModelStatistics:
    """The sums of one version of a model.

    `success` and `fail` are of whole requests, from their acceptance on, `queue` and `compute` of those that succeeded.
    `images` counts the images of these, `executions` the runs of devices, `batches` these by their size in images.
    """

    last_accepted_unix: int = 0
    images: int = 0
    executions: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    batches: dict[int, Duration] = field(default_factory=dict)


class Statistics:
    """The sums by model and version. Requests that were malformed, or named no model, are in none of them."""

    def __init__(self) -> None:
        self._by_version: dict[tuple[str, str], ModelStatistics] = {}

    def of(self, model: str, version: str) -> ModelStatistics:
        """Give the sums of a version of a model."""
        found = self._by_version.get((model, version))
        if found is None:
            found = self._by_version[model, version] = ModelStatistics()
        return found

    def ended(self, record: Record) -> None:
        """Count a request that has ended; a listener of the dispatcher."""
        sums = self.of(record.model, record.version)
        sums.last_accepted_unix = record.accepted_unix
        compute = record.compute_nanoseconds
        if record.energy is not None and record.first == 0:
            sums.executions += 1
            sums.batches.setdefault(record.batch, Duration()).add(compute)
        if record.status != ANSWERED:
            sums.fail.add(record.ended - record.accepted)
            return
        sums.images += record.images
        sums.success.add(record.ended - record.accepted)
        sums.queue.add(record.queue_nanoseconds)
        sums.compute.add(compute)
