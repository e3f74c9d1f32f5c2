"""How a daemon lives and ends: health, reflection, readiness, drain."""

from __future__ import annotations

import queue
import signal
import sqlite3
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos import jouled_pb2 as pb
from tests.daemon.refusals import refusal
from tests.daemon.serving import CALL_SECONDS, STOP_SECONDS, Daemon, configuration, digit_request

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
INFERENCE = {"jouled.v1.Classifier", "inference.GRPCInferenceService"}
BESIDES = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
STICK = configuration(
    '[policy.only]\nstrategy = "saver"\nbudget_watts = 100.0\n',
    start="only",
    devices='[device.stick]\ndriver = "ncs2-sim"\n',
)


@pytest.mark.parametrize("service", ["", *sorted(INFERENCE)])
def test_inference_is_healthy(daemon: Daemon, service: str) -> None:
    """The daemon as a whole and each service say that they serve."""
    health: Any = health_pb2_grpc.HealthStub(daemon.inference_channel)
    assert health.Check(health_pb2.HealthCheckRequest(service=service), timeout=CALL_SECONDS).status == SERVING


def test_control_is_healthy(daemon: Daemon) -> None:
    """The operator's socket has a health of its own service."""
    health: Any = health_pb2_grpc.HealthStub(daemon.control_channel)
    request = health_pb2.HealthCheckRequest(service="jouled.v1.Control")
    assert health.Check(request, timeout=CALL_SECONDS).status == SERVING


def test_health_of_an_unknown_service(daemon: Daemon) -> None:
    """What is not served has no health."""
    health: Any = health_pb2_grpc.HealthStub(daemon.inference_channel)
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="letters"), timeout=CALL_SECONDS)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def reflected(channel: grpc.Channel, **question: str) -> Any:
    """Ask one question of the reflection service."""
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(**question)
    (reply,) = reflection.ServerReflectionInfo(iter([request]), timeout=CALL_SECONDS)
    return reply


def test_reflection_lists_the_services(daemon: Daemon) -> None:
    """Each socket lists what it serves and no more."""
    on_inference = reflected(daemon.inference_channel, list_services="").list_services_response.service
    on_control = reflected(daemon.control_channel, list_services="").list_services_response.service
    assert {service.name for service in on_inference} == INFERENCE | BESIDES
    assert {service.name for service in on_control} == {"jouled.v1.Control"} | BESIDES


@pytest.mark.parametrize("symbol", sorted(INFERENCE))
def test_reflection_describes_the_services(daemon: Daemon, symbol: str) -> None:
    """A client without the protocol's files gets them from the daemon."""
    reply = reflected(daemon.inference_channel, file_containing_symbol=symbol)
    assert len(reply.file_descriptor_response.file_descriptor_proto) == 1


def test_supervisor_is_told(start_daemon: StartDaemon) -> None:
    """The daemon tells its supervisor when it is ready and when it stops."""
    daemon = start_daemon(STICK)
    status = "STATUS=policy only, 0.496 W of 100 W over the last 10 s, 1 of 1 devices up"
    assert daemon.ready.splitlines() == ["READY=1", status]
    daemon.stop()
    said = [daemon.supervisor.recv(4096).decode() for _ in range(2)]
    assert said == [status, "STOPPING=1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_is_announced(start_daemon: StartDaemon, number: signal.Signals) -> None:
    """Who watches the health learns of the drain from it."""
    daemon = start_daemon(STICK)
    health: Any = health_pb2_grpc.HealthStub(daemon.inference_channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service="jouled.v1.Classifier"), timeout=CALL_SECONDS)
    assert next(watch).status == SERVING
    daemon.process.send_signal(number)
    assert next(watch).status == NOT_SERVING
    watch.cancel()
    assert daemon.process.wait(STOP_SECONDS) == 0


def test_drain_does_not_wait_for_who_watches(start_daemon: StartDaemon) -> None:
    """A watch has no end of its own: the daemon ends it, with the news."""
    daemon = start_daemon(STICK)
    health: Any = health_pb2_grpc.HealthStub(daemon.control_channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
    assert next(watch).status == SERVING
    daemon.stop()
    assert [each.status for each in watch] == [NOT_SERVING]


def test_terminated_under_load(
    start_daemon: StartDaemon, image: NDArray[np.uint8], record_property: Callable[[str, Any], None]
) -> None:
    """Every request that was accepted is answered and in the journal, the others are told that they were not.

    Requests that gRPC had not handed over yet end as CANCELLED, which is grpc/grpc#41785.
    """
    daemon = start_daemon(STICK)
    ended: queue.SimpleQueue[grpc.Future[pb.ClassifyReply]] = queue.SimpleQueue()
    calls = [daemon.classifier.Classify.future(digit_request(image), timeout=CALL_SECONDS) for _ in range(200)]
    for call in calls:
        call.add_done_callback(ended.put)
    for _ in range(20):
        assert ended.get(timeout=CALL_SECONDS).result().journaled
    daemon.stop()
    codes = [call.code() for call in calls]
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    replies = [call.result() for call, code in zip(calls, codes, strict=True) if code is grpc.StatusCode.OK]
    assert len(replies) > 20
    database = sqlite3.connect(daemon.places.state / "journal.db")
    rows = database.execute("SELECT id, status, dynamic_nanojoules FROM requests").fetchall()
    database.close()
    record_property("accepted", len(rows))
    record_property("unanswered", len(rows) - len(replies))
    record_property("exit_status", daemon.process.returncode)
    assert {(reply.request_id, "ok", reply.energy.dynamic_nanojoules) for reply in replies} == set(rows)


def test_cancelled_call_is_recorded(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """A call that its client gave up leaves the queue; the journal says so."""
    daemon = start_daemon(STICK)
    calls = [daemon.classifier.Classify.future(digit_request(image), timeout=CALL_SECONDS) for _ in range(80)]
    # The daemon takes calls in their order: when this one is refused, those before it are in the queue.
    refusal(lambda: daemon.classifier.Classify(pb.ClassifyRequest(model="letters"), timeout=CALL_SECONDS))
    for call in calls[40:]:
        call.cancel()
    assert [call.code() for call in calls[:40]] == [grpc.StatusCode.OK] * 40
    daemon.stop()
    database = sqlite3.connect(daemon.places.state / "journal.db")
    statuses = dict(database.execute("SELECT status, COUNT(*) FROM requests GROUP BY status").fetchall())
    database.close()
    assert set(statuses) == {"ok", "cancelled"}
    assert statuses["ok"] >= 40
    assert statuses["cancelled"] <= 40
