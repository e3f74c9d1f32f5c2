"""Workers that die, hang or talk nonsense under load: no request is left without a status, and all comes back.

Each records its figures for `python -m tests.bench.faults`. `JOULED_SOAK_SECONDS` makes the storm of kills longer.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import jouled_pb2 as pb
from tests.daemon.load import Load, loading
from tests.daemon.serving import CALL_SECONDS, configuration, digit_request
from tests.hal import strange_worker, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon
    from tests.daemon.serving import Daemon

    Record = Callable[[str, Any], None]

POLICY = """
[policy.pinned]
strategy = "pin"
pin = "accelerator"
budget_watts = 1000.0
"""
MAY_LOG = ["device lost", "device unavailable"]
SOAK_SECONDS = float(os.environ.get("JOULED_SOAK_SECONDS", "10"))
# What a fault may take until the host is itself again; the figures that count are recorded.
PATIENCE_SECONDS = 60.0


def _devices(driver: str, fallback: str, python: str = "") -> str:
    """Configure an accelerator in a worker, and the device that stands in for it."""
    return f"""
[device.accelerator]
driver = "{driver}"
worker = true
python = "{python}"
time_limit_seconds = 0.4
fallback = "substitute"
[device.substitute]
driver = "{fallback}"
"""


@pytest.fixture
def stick(start_daemon: StartDaemon) -> Daemon:
    """Start a daemon with a simulated stick in a worker and the processor in its place."""
    config = configuration(POLICY, start="pinned", devices=_devices("ncs2-sim", "cpu"))
    return start_daemon(config, may_log=MAY_LOG)


@pytest.fixture
def strange(start_daemon: StartDaemon, tmp_path: Path) -> Daemon:
    """Start a daemon with a device that does what a picture says, and a simulated chip in its place."""
    devices = _devices("loihi-sim", "loihi-sim", workers.strange(tmp_path))
    return start_daemon(configuration(POLICY, start="pinned", devices=devices), may_log=MAY_LOG)


def _device(daemon: Daemon, name: str = "accelerator") -> pb.DeviceState:
    devices: list[pb.DeviceState] = list(daemon.control.Devices(pb.DevicesRequest(), timeout=CALL_SECONDS).devices)
    return next(device for device in devices if device.name == name)


def _worker(daemon: Daemon) -> psutil.Process | None:
    """Find the process of the worker, which is the daemon's only child."""
    children = psutil.Process(daemon.process.pid).children()
    return children[0] if children else None


def _until(condition: Callable[[], bool], what: str) -> float:
    """Ask until something is true; give the seconds that it took."""
    started, pause = time.monotonic(), threading.Event()
    while not condition():
        pause.wait(0.01)
        assert time.monotonic() - started < PATIENCE_SECONDS, f"{what} not within {PATIENCE_SECONDS:.0f} s"
    return time.monotonic() - started


def _usable(daemon: Daemon) -> bool:
    return _device(daemon).health in {"up", "degraded"}


def _lost(daemon: Daemon) -> bool:
    return _device(daemon).health == "lost"


def _picture(deed: int) -> NDArray[np.uint8]:
    picture = np.ones((8, 8), np.uint8)
    picture[0, 0] = deed
    return picture


def _serves_again(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Check that the device is back, without a restart, and that its answers say so."""
    _until(lambda: _usable(daemon), "the device is back")
    _until(lambda: daemon.classify(image).device == "accelerator", "the device answers")
    reply = daemon.classify(image)
    assert (reply.device, reply.fallback_of) == ("accelerator", "")


def test_kill_each_second(stick: Daemon, image: NDArray[np.uint8], record_property: Record) -> None:
    """A worker that is killed each second: every request is answered, by the fallback meanwhile, and it comes back."""
    assert stick.classify(image).device == "accelerator"
    before, respawns = _descriptors(stick), []
    with loading(stick, image) as load:
        began = time.monotonic()
        while time.monotonic() - began < SOAK_SECONDS:
            respawns.append(_kill(stick, load, tick=time.monotonic() + 1.0))
    record_property("respawn_seconds", float(np.median(respawns)))
    record_property("longest_respawn_seconds", max(respawns))
    _record_load(record_property, load)
    assert load.sent == load.requests
    assert load.statuses == []
    assert {reply.fallback_of for reply in load.replies if reply.device == "substitute"} == {"accelerator"}
    assert {reply.fallback_of for reply in load.replies if reply.device == "accelerator"} == {""}
    _serves_again(stick, image)
    assert _descriptors(stick) <= before + 4


def _record_load(record: Record, load: Load) -> None:
    record("requests", load.sent)
    record("without_a_status", load.sent - load.requests)
    record("refused", len(load.statuses))


def _kill(daemon: Daemon, load: Load, tick: float) -> float:
    """Kill the worker; wait until it is back, has answered and the second is over; give how long it was away."""
    worker = _worker(daemon)
    assert worker is not None
    worker.kill()
    started = time.monotonic()
    _until(lambda: _worker(daemon) not in {None, worker} or _lost(daemon), "the kill is noticed")
    _until(lambda: _usable(daemon), "the device is back")
    away = time.monotonic() - started
    first = len(load.replies)
    _until(lambda: any(reply.device == "accelerator" for reply in load.replies[first:]), "the device answers")
    _until(lambda: time.monotonic() >= tick, "the second is over")
    return away


def _descriptors(daemon: Daemon) -> int:
    return psutil.Process(daemon.process.pid).num_fds()


def test_stopped(stick: Daemon, image: NDArray[np.uint8], record_property: Record) -> None:
    """A worker that stands still is noticed at the device's time limit, killed and replaced."""
    with loading(stick, image) as load:
        _until(lambda: load.requests > 20, "the load runs")
        worker = _worker(stick)
        assert worker is not None
        worker.send_signal(signal.SIGSTOP)
        noticed = _until(lambda: _lost(stick), "the hang is noticed")
        _until(lambda: any(reply.fallback_of for reply in load.replies), "the fallback answers")
        _serves_again(stick, image)
    record_property("noticed_seconds", noticed)
    _record_load(record_property, load)
    assert load.sent == load.requests
    assert load.statuses == []
    assert not worker.is_running()


DEEDS = {
    "abort": strange_worker.ABORT,
    "garbage": strange_worker.GARBAGE,
    "wrong size": strange_worker.WRONG_SIZE,
    "asleep": strange_worker.SLEEP,
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_driver_misbehaves(strange: Daemon, image: NDArray[np.uint8], deed: int, record_property: Record) -> None:
    """A driver that aborts, hangs or answers nonsense: the very request is answered by the fallback, and flagged."""
    image = _picture(strange_worker.WELL)
    with loading(strange, image) as load:
        _until(lambda: load.requests > 20, "the load runs")
        started = time.monotonic()
        reply = strange.classify(_picture(deed))
        seconds = time.monotonic() - started
        _serves_again(strange, image)
    record_property("fallback_seconds", seconds)
    _record_load(record_property, load)
    assert (reply.device, reply.fallback_of, reply.simulated) == ("substitute", "accelerator", True)
    said = any("worker says" in line and "terminate called" in line for line in strange.log)
    assert said == (deed == strange_worker.ABORT)
    assert load.sent == load.requests
    assert load.statuses == []


def test_dies_at_load(
    start_daemon: StartDaemon, tmp_path: Path, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that dies with every load is lost and tried again; the day it loads, it serves."""
    grave = tmp_path / "grave"
    grave.touch()
    monkeypatch.setenv("DIE_AT_LOAD", str(grave))
    devices = _devices("loihi-sim", "loihi-sim", workers.strange(tmp_path))
    daemon = start_daemon(configuration(POLICY, start="pinned", devices=devices), may_log=MAY_LOG)
    assert (_device(daemon).health, daemon.classify(image).fallback_of) == ("lost", "accelerator")
    assert "SIGABRT" in _device(daemon).detail
    grave.unlink()
    _serves_again(daemon, image)


def test_daemon_is_killed(strange: Daemon) -> None:
    """A daemon that is killed leaves no worker behind, not even one that hangs."""
    worker = _worker(strange)
    assert worker is not None
    worker.send_signal(signal.SIGSTOP)
    strange.kill()
    _until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker is gone")
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_health_is_told(strange: Daemon) -> None:
    """Who watches a device's health is told when it is lost and when it is back; its fallback serves the model."""
    stub = health_pb2_grpc.HealthStub(strange.inference_channel)
    watch: Iterator[health_pb2.HealthCheckResponse] = stub.Watch(
        health_pb2.HealthCheckRequest(service="device/accelerator"), timeout=PATIENCE_SECONDS
    )
    model = health_pb2.HealthCheckRequest(service="model/digits")
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    assert strange.classify(_picture(strange_worker.EXIT)).fallback_of == "accelerator"
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert stub.Check(model, timeout=CALL_SECONDS).status == health_pb2.HealthCheckResponse.SERVING
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING


def test_without_a_fallback(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """With its only device lost a model is not served, is NOT_SERVING, and is served again by itself."""
    devices = f"""
[device.accelerator]
driver = "loihi-sim"
worker = true
python = "{workers.strange(tmp_path)}"
"""
    daemon = start_daemon(configuration(POLICY, start="pinned", devices=devices), may_log=MAY_LOG)
    stub = health_pb2_grpc.HealthStub(daemon.inference_channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="model/digits"), timeout=PATIENCE_SECONDS)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        daemon.classifier.Classify(digit_request(_picture(strange_worker.ABORT)), timeout=CALL_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "SIGABRT" not in str(caught.value.details())
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    assert daemon.classify(_picture(strange_worker.WELL)).device == "accelerator"
