"""The metrics endpoint of a running daemon."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.clock import NANO
from docs import reference
from tests.daemon.serving import CALL_SECONDS, Daemon, digit_request
from tests.monitoring.conftest import eventually, families, fetch, value

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from prometheus_client import Metric

REQUESTS = 25


def settled(base: str, requests: float) -> dict[str, Metric] | None:
    """Scrape until the figures of so many requests are final."""
    scraped = families(base)
    done = value(scraped, "jouled_request_energy_joules", "jouled_request_energy_joules_count")
    return scraped if done >= requests else None


def test_requests_and_their_energy_are_those_of_the_journal(
    daemon: Daemon, base: str, image: NDArray[np.uint8]
) -> None:
    """Every answer is counted once, by its operating point, and its joules are the final ones of the journal."""
    before = value(families(base), "jouled_requests", "jouled_requests_total", status="ok")
    replies = [daemon.classify(image) for _ in range(REQUESTS)]
    scraped = eventually(lambda: settled(base, before + REQUESTS))
    assert value(scraped, "jouled_requests", "jouled_requests_total", status="ok") == before + REQUESTS
    reply, energy = replies[-1], "jouled_request_energy_joules"
    labels = {
        "model": "digits",
        "variant": reply.variant,
        "device": reply.device,
        "provenance": reply.energy.provenance,
    }
    rows = [row for row in daemon.rows() if row.status == "ok" and row.variant == reply.variant]
    assert value(scraped, energy, f"{energy}_count", **labels) == sum(row.requests for row in rows)
    joules = sum(row.dynamic_nanojoules for row in rows) / NANO
    assert value(scraped, energy, f"{energy}_sum", **labels) == pytest.approx(joules, rel=1e-9)
    right = value(scraped, "jouled_expected_correct_answers", "jouled_expected_correct_answers_total")
    best = max(point.accuracy for point in daemon.points())
    assert right == pytest.approx(best * value(scraped, "jouled_requests", "jouled_requests_total", status="ok"))


def test_exemplars_name_requests(daemon: Daemon, base: str, image: NDArray[np.uint8]) -> None:
    """A bucket points to a request that fell into it, whose figure the journal has."""
    number = daemon.classify(image).request_id

    def exemplar() -> float | None:
        for sample in families(base)["jouled_request_energy_joules"].samples:
            if sample.exemplar is not None and sample.exemplar.labels == {"request_id": str(number)}:
                return float(sample.exemplar.value)
        return None

    joules = eventually(exemplar)
    assert joules > 0
    assert "request_id=" not in fetch(f"{base}/metrics"), "the older format has no exemplars"


def test_refusals_are_counted_by_their_status(daemon: Daemon, base: str, image: NDArray[np.uint8]) -> None:
    """A request that nothing runs for has no operating point."""
    before = value(families(base), "jouled_requests", "jouled_requests_total", status="no_candidate", device="")
    with pytest.raises(grpc.RpcError):
        daemon.classifier.Classify(digit_request(image, min_accuracy=1.0), timeout=CALL_SECONDS)
    after = value(families(base), "jouled_requests", "jouled_requests_total", status="no_candidate", device="")
    assert after == before + 1


def test_budget_policy_devices_and_meters(daemon: Daemon, base: str) -> None:
    """The gauges say what the operator's service says."""
    status, scraped = daemon.status(), families(base)
    limit = value(scraped, "jouled_budget_limit_joules", "jouled_budget_limit_joules")
    assert limit == status.budget.limit_nanojoules / NANO
    in_force = {each.labels["policy"]: each.value for each in scraped["jouled_policy_in_force"].samples}
    assert in_force == {"accurate": 1.0, "frugal": 0.0, "nothing": 0.0}
    up = {each.labels["device"] for each in scraped["jouled_device_health"].samples
          if each.value == 1.0 and each.labels["jouled_device_health"] == "up"}  # fmt: skip
    assert up == {"cpu", "loihi-sim", "ncs2-sim"}
    assert {each.labels["meter"] for each in scraped["jouled_meter_up"].samples} == {
        meter.name for meter in status.meters
    }


def test_an_idle_device_only_idles(base: str) -> None:
    """From one sample of the daemon to a later one, what nobody uses counts idle joules and none of requests."""
    family = "jouled_device_energy_joules"

    def counted() -> tuple[float, float, float]:
        scraped = families(base)
        moment = value(scraped, "jouled_sample_timestamp_seconds", "jouled_sample_timestamp_seconds")
        idle = value(scraped, family, f"{family}_total", device="ncs2-sim", bucket="idle")
        upkeep = value(scraped, family, f"{family}_total", device="ncs2-sim", bucket="maintenance")
        return moment, idle, value(scraped, family, f"{family}_total", device="ncs2-sim") - idle - upkeep

    began, idle, others = counted()
    _, later, same = eventually(lambda: now if (now := counted())[1] > idle and now[0] > began else None)
    assert later > idle
    assert same == pytest.approx(others, abs=1e-9)


@pytest.mark.parametrize(("host", "status"), [("evil.example", 421), ("127.0.0.1:1", 421), ("localhost", 421)])
def test_requests_for_another_host_are_refused(base: str, host: str, status: int) -> None:
    """A site whose name was made to point to this host reads nothing."""
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=CALL_SECONDS)
    connection.request("GET", "/metrics", headers={"Host": host})
    response = connection.getresponse()
    assert response.status == status
    assert b"jouled_" not in response.read()
    connection.close()


def test_the_reference_lists_every_metric(daemon: Daemon, base: str, image: NDArray[np.uint8]) -> None:
    """The reference has a row for each metric, with its type, its labels and its meaning as they are served."""
    daemon.classify(image)
    eventually(lambda: settled(base, 1))
    rows = []
    for family in text_string_to_metric_families(fetch(f"{base}/metrics")):
        if not family.name.startswith("process_"):
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            name = family.name + ("_total" if family.type == "counter" else "")
            marked = " ".join(f"`{label}`" for label in labels)
            rows.append(f"| `{name}` | {family.type} | {marked} | {family.documentation} |")
    listed = [line for line in reference.metrics().splitlines() if line.startswith("| `jouled_")]
    assert listed == rows
