"""The metrics, in the text formats of Prometheus and OpenMetrics. `docs/metrics.md` lists them.

Nothing is counted here: the families are made from the tally and the last sample when somebody asks. All labels are
bounded by the configuration and the artifacts; the number of a request appears in exemplars only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as SampleExemplar
from prometheus_client.utils import floatToGoString

from daemon.clock import NANO
from daemon.dispatcher import Dispatcher
from daemon.health import State as Health
from daemon.metering import Metering
from daemon.power import State as Power
from daemon.pulse import Pulse
from daemon.tally import Histogram, Served, Tally
from daemon.version import VERSION

POINT_LABELS = ("model", "variant", "device", "steps", "margin")
HEALTHS = (*(state.value for state in Health), "shed")


class Exposition:
    """What `GET /metrics` answers."""

    def __init__(self, pulse: Pulse, tally: Tally, dispatcher: Dispatcher, metering: Metering) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Families(pulse, tally, dispatcher, metering))
        ProcessCollector(registry=self._registry, pid=os.getpid)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Give the text and its content type: OpenMetrics, with exemplars, where an Accept header asks for it."""
        if "application/openmetrics-text" in accept:
            text: bytes = openmetrics.generate_latest(self._registry)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4


class _Families(Collector):
    def __init__(self, pulse: Pulse, tally: Tally, dispatcher: Dispatcher, metering: Metering) -> None:
        self._pulse = pulse
        self._tally = tally
        self._dispatcher = dispatcher
        self._metering = metering

    def describe(self) -> Iterable[Metric]:
        """Register no names: nothing else is in the registry that could have the same."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("jouled_build", "The release that runs.", {"version": VERSION})
        yield from self._requests()
        yield from self._energy()
        yield from self._budget()
        yield from self._devices()
        yield from self._meters()

    def _requests(self) -> Iterator[Metric]:
        cells = self._tally.cells.values()
        yield _counter(
            "jouled_requests",
            "Requests that ended, by operating point and terminal status; the model alone where nothing ran for them.",
            (*POINT_LABELS, "status"),
            (((*_labels(cell.served), status), count) for cell in cells for status, count in cell.statuses.items()),
        )
        expected: dict[tuple[str, str], float] = {}
        for cell in (cell for cell in cells if cell.right):
            key = cell.served.model, cell.served.variant
            expected[key] = expected.get(key, 0.0) + cell.right
        yield _counter(
            "jouled_expected_correct_answers",
            "Answers that are expected to be right: the sum of the held-out accuracy of the points that gave them.",
            ("model", "variant"),
            expected.items(),
        )
        durations = HistogramMetricFamily(
            "jouled_request_duration_seconds",
            "Seconds from the acceptance of an answered request to its end on the device.",
            labels=("model", "variant", "device"),
        )
        answered = ((cell.served[:3], cell.durations) for cell in cells if cell.durations.count)
        for names, histogram in _joined(answered):
            _add(durations, names, histogram)
        yield durations

    def _energy(self) -> Iterator[Metric]:
        counts: dict[tuple[str, ...], int] = {}
        for bucket in self._pulse.latest.buckets:
            key = bucket.device, bucket.boundary, bucket.provenance, bucket.bucket
            counts[key] = counts.get(key, 0) + bucket.nanojoules
        yield _counter(
            "jouled_device_energy_joules",
            "Joules that meters counted, or models where there is no meter, and where they went.",
            ("device", "boundary", "provenance", "bucket"),
            ((key, nanojoules / NANO) for key, nanojoules in counts.items()),
        )
        energies = HistogramMetricFamily(
            "jouled_request_energy_joules",
            "Dynamic joules of answered requests, final figures.",
            labels=("model", "variant", "device", "provenance"),
        )
        final = (
            ((*cell.served[:3], provenance), histogram)
            for cell in self._tally.cells.values()
            for provenance, histogram in cell.energies.items()
        )
        for names, histogram in _joined(final):
            _add(energies, names, histogram)
        yield energies

    def _budget(self) -> Iterator[Metric]:
        sample = self._pulse.latest
        for name, text, value in (
            ("window_joules", "Joules of the trailing window, static power included.", sample.used_joules),
            ("reserved_joules", "Upper bounds of what is under way.", sample.reserved_joules),
            ("limit_joules", "The most that any window may hold under the policy in force.", sample.limit_joules),
            ("window_seconds", "Length of the window under the policy in force.", sample.window_seconds),
        ):
            yield GaugeMetricFamily(f"jouled_budget_{name}", text, value)
        yield CounterMetricFamily(
            "jouled_budget_violations", "How often meters counted more than the budget had room for.", sample.overruns
        )
        yield _gauge(
            "jouled_policy_in_force",
            "1 for the policy in force, 0 for the others.",
            ("policy",),
            (((name,), float(name == sample.policy)) for name in self._dispatcher.policies),
        )
        yield CounterMetricFamily(
            "jouled_journal_gaps", "Records that could not be written to the journal.", sample.journal_gaps
        )
        yield GaugeMetricFamily(
            "jouled_sample_timestamp_seconds",
            "When the figures of energy, budget and devices were read, in seconds since 1970; once a second.",
            sample.unix_seconds,
        )

    def _devices(self) -> Iterator[Metric]:
        devices = self._pulse.latest.devices
        health = StateSetMetricFamily("jouled_device_health", "The health of a device.", labels=("device",))
        power = StateSetMetricFamily("jouled_device_power", "The power state of a device.", labels=("device",))
        for device in devices:
            health.add_metric((device.name,), {state: state == device.health for state in HEALTHS})
            power.add_metric((device.name,), {state.value: state.value == device.power for state in Power})
        yield health
        yield power
        yield _gauge(
            "jouled_device_static_watts",
            "What a device draws without a request.",
            ("device",),
            (((device.name,), device.static_watts) for device in devices),
        )
        yield _gauge(
            "jouled_device_queued_requests",
            "Requests that wait or run at a device.",
            ("device",),
            (((device.name,), device.queued) for device in devices),
        )

    def _meters(self) -> Iterator[Metric]:
        meters = self._metering.states
        yield _gauge(
            "jouled_meter_up",
            "1 while a meter can be read, 0 while a model stands in for it.",
            ("meter", "boundary"),
            (((meter.name, meter.boundary), float(meter.up)) for meter in meters),
        )
        yield _counter(
            "jouled_meter_resets",
            "How often a meter began anew.",
            ("meter",),
            (((meter.name,), meter.resets) for meter in meters),
        )
        yield _counter(
            "jouled_meter_rejected_readings",
            "Readings that could not be believed.",
            ("meter",),
            (((meter.name,), meter.rejected) for meter in meters),
        )


def _counter(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in rows:
        family.add_metric(values, count)
    return family


def _gauge(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _labels(served: Served) -> tuple[str, ...]:
    """Give the labels of an operating point, empty but for the model where nothing ran."""
    if not served.device:
        return served.model, *[""] * (len(POINT_LABELS) - 1)
    return served.model, served.variant, served.device, str(served.steps), str(served.margin)


def _joined(rows: Iterable[tuple[tuple[str, ...], Histogram]]) -> Iterator[tuple[tuple[str, ...], Histogram]]:
    """Add the histograms of the same labels, which are those of several operating points of a variant."""
    joined: dict[tuple[str, ...], Histogram] = {}
    for names, histogram in rows:
        if names not in joined:
            joined[names] = Histogram(histogram.bounds)
        joined[names].add(histogram)
    yield from joined.items()


def _add(family: HistogramMetricFamily, names: tuple[str, ...], histogram: Histogram) -> None:
    """Add a histogram in the cumulative form that the formats have."""
    cumulative, buckets = 0, list[tuple[str, float] | tuple[str, float, SampleExemplar]]()
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    for bound, count, exemplar in zip(bounds, histogram.counts, histogram.exemplars, strict=True):
        cumulative += count
        if exemplar is None:
            buckets.append((bound, cumulative))
        else:
            request_id, value, unix_seconds = exemplar
            last = SampleExemplar({"request_id": str(request_id)}, value, unix_seconds)
            buckets.append((bound, cumulative, last))
    family.add_metric(names, buckets=buckets, sum_value=histogram.sum)
