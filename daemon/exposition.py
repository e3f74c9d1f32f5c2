"""The metrics, in the text formats of Prometheus and OpenMetrics. `daemon.families` lists them.

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

from daemon import families
from daemon.clock import NANO
from daemon.dispatcher import Dispatcher
from daemon.families import POINT_LABELS, Family
from daemon.health import HealthState
from daemon.metering import Metering
from daemon.power import PowerState
from daemon.pulse import Pulse
from daemon.tally import Histogram, Served, Tally
from daemon.version import VERSION

HEALTHS = (*(state.value for state in HealthState), "shed")


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
        yield InfoMetricFamily(families.BUILD.name, families.BUILD.meaning, {"version": VERSION})
        yield from self._requests()
        yield from self._energy()
        yield from self._budget()
        yield from self._devices()
        yield from self._meters()

    def _requests(self) -> Iterator[Metric]:
        cells = self._tally.cells.values()
        yield _values(
            families.REQUESTS,
            (((*_labels(cell.served), status), count) for cell in cells for status, count in cell.statuses.items()),
        )
        expected: dict[tuple[str, str], float] = {}
        for cell in (cell for cell in cells if cell.right):
            key = cell.served.model, cell.served.variant
            expected[key] = expected.get(key, 0.0) + cell.right
        yield _values(families.EXPECTED_CORRECT, expected.items())
        yield _histograms(
            families.DURATION, ((cell.served[:3], cell.durations) for cell in cells if cell.durations.count)
        )

    def _energy(self) -> Iterator[Metric]:
        counts: dict[tuple[str, ...], int] = {}
        for bucket in self._pulse.latest.buckets:
            key = bucket.device, bucket.boundary, bucket.provenance, bucket.bucket
            counts[key] = counts.get(key, 0) + bucket.nanojoules
        yield _values(families.DEVICE_ENERGY, ((key, nanojoules / NANO) for key, nanojoules in counts.items()))
        final = (
            ((*cell.served[:3], provenance), histogram)
            for cell in self._tally.cells.values()
            for provenance, histogram in cell.energies.items()
        )
        yield _histograms(families.REQUEST_ENERGY, final)

    def _budget(self) -> Iterator[Metric]:
        sample = self._pulse.latest
        for family, value in (
            (families.WINDOW, sample.used_joules),
            (families.RESERVED, sample.reserved_joules),
            (families.LIMIT, sample.limit_joules),
            (families.WINDOW_LENGTH, sample.window_seconds),
            (families.VIOLATIONS, sample.overruns),
            (families.GAPS, sample.journal_gaps),
            (families.SAMPLED, sample.unix_seconds),
        ):
            yield _values(family, [((), value)])
        policies = self._dispatcher.policies
        yield _values(families.IN_FORCE, (((name,), float(name == sample.policy)) for name in policies))

    def _devices(self) -> Iterator[Metric]:
        devices = self._pulse.latest.devices
        health, power = (
            StateSetMetricFamily(family.name, family.meaning, labels=family.labels)
            for family in (families.HEALTH, families.POWER)
        )
        for device in devices:
            health.add_metric((device.name,), {state: state == device.health for state in HEALTHS})
            power.add_metric((device.name,), {state.value: state.value == device.power for state in PowerState})
        yield health
        yield power
        yield _values(families.STATIC, (((device.name,), device.static_watts) for device in devices))
        yield _values(families.QUEUED, (((device.name,), device.queued) for device in devices))

    def _meters(self) -> Iterator[Metric]:
        meters = self._metering.states
        yield _values(families.METER_UP, (((meter.name, meter.boundary), float(meter.up)) for meter in meters))
        yield _values(families.METER_RESETS, (((meter.name,), meter.resets) for meter in meters))
        yield _values(families.METER_REJECTED, (((meter.name,), meter.rejected) for meter in meters))


def _values(family: Family, rows: Iterable[tuple[Sequence[str], float]]) -> Metric:
    """Make a counter or a gauge from the values of its labels."""
    make = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    made = make(family.name, family.meaning, labels=family.labels)
    for values, value in rows:
        made.add_metric(values, value)
    return made


def _histograms(family: Family, rows: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    """Make a histogram; those of the same labels, which are of several operating points of a variant, are added."""
    joined: dict[tuple[str, ...], Histogram] = {}
    for names, histogram in rows:
        if names not in joined:
            joined[names] = Histogram(histogram.bounds)
        joined[names].add(histogram)
    made = HistogramMetricFamily(family.name, family.meaning, labels=family.labels)
    for names, histogram in joined.items():
        _add(made, names, histogram)
    return made


def _labels(served: Served) -> tuple[str, ...]:
    """Give the labels of an operating point, empty but for the model where nothing ran."""
    if not served.device:
        return served.model, *[""] * (len(POINT_LABELS) - 1)
    return served.model, served.variant, served.device, str(served.steps), str(served.margin)


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
