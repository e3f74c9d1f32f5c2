"""Load reports: what balancers are told, in which encodings, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.errors import OverBudget
from daemon.load_report import BINARY_KEY, REFRESH_NANOSECONDS, TEXT_KEY, LoadReports
from protos import open_inference_pb2 as oip
from protos import orca_load_report_pb2, orca_service_pb2
from protos.orca_load_report_pb2 import OrcaLoadReport
from protos.orca_service_pb2_grpc import OpenRcaServiceStub
from tests.daemon.builders import Bench, ManualClock, drive, hosting
from tests.daemon.conftest import ROOMY
from tests.daemon.serving import CALL_SECONDS, configuration, digit_request

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from daemon.load_report import Trailer
    from tests.daemon.conftest import StartDaemon
    from tests.daemon.serving import Daemon

# 1000 nJ in any ten seconds, as the policy's budget; an image of the bench takes 100 nJ and reserves more.
LIMIT_NANOJOULES = 1000
NARROW = {"narrow": PolicyConfig("accuracy", LIMIT_NANOJOULES / 10 / NANO, 10.0)}


def _parsed(trailer: Trailer) -> OrcaLoadReport:
    """Give the report of a trailer, which says the same in both encodings."""
    found: dict[str, Any] = dict(trailer)
    report = OrcaLoadReport.FromString(found[BINARY_KEY])
    assert found[TEXT_KEY].startswith("JSON ")
    assert json.loads(found[TEXT_KEY].removeprefix("JSON ")) == {
        "application_utilization": report.application_utilization,
        "rps_fractional": report.rps_fractional,
        "eps": report.eps,
        "request_cost": dict(report.request_cost),
    }
    return report


def test_what_a_report_says(tmp_path: Path) -> None:
    """Utilisation is the window's energy over its limit, the rates count the requests of the same window."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, NARROW, Bench()) as host:
            reports = LoadReports(host.dispatcher, clock)
            for _ in range(2):
                await host.ask()
            clock.advance(REFRESH_NANOSECONDS)
            report = _parsed(reports.trailer(100))
            assert (report.application_utilization, report.rps_fractional, report.eps) == (0.2, 0.2, 0.0)
            assert dict(report.request_cost) == {"energy_joules": 100 / NANO}
            with pytest.raises(OverBudget):
                await host.ask(images=8)
            clock.advance(REFRESH_NANOSECONDS)
            report = _parsed(reports.trailer())
            assert (report.application_utilization, report.rps_fractional, report.eps) == (0.2, 0.3, 0.1)
            assert dict(report.request_cost) == {"energy_joules": 0.0}
            clock.advance(10 * NANO)
            report = _parsed(reports.trailer())
            assert (report.application_utilization, report.rps_fractional, report.eps) == (0.0, 0.0, 0.0)

    clock = ManualClock()
    drive(clock, scenario())


def test_no_budget_is_used_up(tmp_path: Path) -> None:
    """Where the limit is zero a balancer is told that nothing is left."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, {"nothing": PolicyConfig("accuracy", 0.0)}, Bench()) as host:
            assert _parsed(LoadReports(host.dispatcher, clock).trailer()).application_utilization == 1.0

    clock = ManualClock()
    drive(clock, scenario())


@pytest.fixture
def reporting(start_daemon: StartDaemon) -> Daemon:
    """Run a daemon that reports its load."""
    return start_daemon(configuration(f"[server]\nload_reports = true\n{ROOMY}", start="roomy"))


def _text(call: Any) -> dict[str, Any]:
    """Give the report that came with a call; grpc keeps the binary one to itself."""
    found = {key: value for key, value in call.trailing_metadata() if key == TEXT_KEY}
    report: dict[str, Any] = json.loads(found[TEXT_KEY].removeprefix("JSON "))
    return report


def test_every_call_reports(reporting: Daemon, image: NDArray[np.uint8]) -> None:
    """Answers and refusals of both protocols, and ended streams, come with a report that has the joules they took."""
    reply, call = reporting.classifier.Classify.with_call(digit_request(image), timeout=CALL_SECONDS)
    assert _text(call)["request_cost"] == {"energy_joules": reply.energy.dynamic_nanojoules / NANO}
    request = oip.ModelInferRequest(model_name="digits", raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=[1, 8, 8])
    response, call = reporting.inference.ModelInfer.with_call(request, timeout=CALL_SECONDS)
    joules = response.parameters["energy_joules"].double_param
    assert _text(call)["request_cost"] == {"energy_joules": joules}
    stream = reporting.inference.ModelStreamInfer(iter([request, request]), timeout=CALL_SECONDS)
    joules = sum(each.infer_response.parameters["energy_joules"].double_param for each in stream)
    assert _text(stream)["request_cost"]["energy_joules"] == pytest.approx(joules)
    own = reporting.classifier.ClassifyStream(iter([digit_request(image)] * 2), timeout=CALL_SECONDS)
    spent = sum(each.reply.energy.dynamic_nanojoules for each in own)
    assert _text(own)["request_cost"] == {"energy_joules": spent / NANO}
    request.model_name = "letters"
    with pytest.raises(grpc.RpcError) as refused:
        reporting.inference.ModelInfer(request, timeout=CALL_SECONDS)
    assert 0 < _text(refused.value)["application_utilization"] < 1
    with pytest.raises(grpc.RpcError) as refused:
        reporting.classifier.Classify(digit_request(image[:4]), timeout=CALL_SECONDS)
    assert _text(refused.value)["request_cost"] == {"energy_joules": 0.0}


def test_reports_apart_from_requests(reporting: Daemon, image: NDArray[np.uint8]) -> None:
    """Who asks for reports alone gets them at the interval asked for, with the power that idle devices draw."""
    stub = OpenRcaServiceStub(reporting.inference_channel)
    request = orca_service_pb2.OrcaLoadReportRequest()
    request.report_interval.FromMilliseconds(100)
    stream = stub.StreamCoreMetrics(request, timeout=CALL_SECONDS)
    first = next(stream)
    # The two accelerators draw a little more than 0.6 of the 100 W.
    assert 0.006 < first.application_utilization < 0.0061
    reporting.classify(image)
    assert any(report.rps_fractional == 0.1 for report in stream)
    # The stream is still open: the daemon ends it when it drains.
    reporting.stop()
    assert all(report.rps_fractional == 0.1 for report in stream)
    assert stream.code() is grpc.StatusCode.OK


def test_no_reports_unless_asked_for(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """By default nothing is reported, and the service is not there."""
    _, call = daemon.classifier.Classify.with_call(digit_request(image), timeout=CALL_SECONDS)
    assert TEXT_KEY not in dict(call.trailing_metadata())
    stream = OpenRcaServiceStub(daemon.inference_channel).StreamCoreMetrics(
        orca_service_pb2.OrcaLoadReportRequest(), timeout=CALL_SECONDS
    )
    with pytest.raises(grpc.RpcError) as refused:
        next(stream)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


FIELDS_OF_XDS = """
import json
from xds.data.orca.v3 import orca_load_report_pb2
from xds.service.orca.v3 import orca_pb2
files = orca_load_report_pb2.DESCRIPTOR, orca_pb2.DESCRIPTOR
messages = [message for file in files for message in file.message_types_by_name.values()]
fields = {m.full_name: {f.name: [f.number, f.type] for f in m.fields} for m in messages}
services = {s.full_name: [m.name for m in s.methods] for file in files for s in file.services_by_name.values()}
print(json.dumps([fields, services]))
"""


def test_it_is_the_published_protocol() -> None:
    """Messages, numbers and the service are those of the published xDS API, which is loaded in another process."""
    ended = subprocess.run([sys.executable, "-c", FIELDS_OF_XDS], check=True, capture_output=True, text=True)
    fields, services = json.loads(ended.stdout)
    for file in (orca_load_report_pb2.DESCRIPTOR, orca_service_pb2.DESCRIPTOR):
        for message in file.message_types_by_name.values():
            own = {field.name: [field.number, field.type] for field in message.fields}
            assert own.items() <= fields[message.full_name].items()
        for service in file.services_by_name.values():
            assert services[service.full_name] == [method.name for method in service.methods]
