"""Devices open, load, fail and close without hurting one another."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from daemon import lane as lane_module
from daemon.budget import Reservation
from daemon.clock import NANO, boot_id, boot_nanoseconds
from daemon.config import DeviceConfig, PolicyConfig
from daemon.dispatcher import Dispatcher
from daemon.errors import NotFound
from daemon.fleet import Fleet
from daemon.journal import Journal
from daemon.metering import open_metering
from daemon.repository import SHIPPED, scan
from daemon.router import Constraints
from daemon.tasks import Job
from hal.artifact import Artifact, OperatingPoint, TensorSpec
from hal.device import Inference, Kind
from hal.energy import loihi, ncs2
from hal.errors import ArtifactError, DeviceUnavailable, Reason
from tests.daemon.builders import NO_METERS, PATIENT, Bench, ManualClock, drive, make_artifact, turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hal.device import Device


def _opening(monkeypatch: pytest.MonkeyPatch, **devices: Bench | Exception) -> dict[str, DeviceConfig]:
    """Let these devices be opened; an exception is one that cannot be."""

    def open_one(name: str, _config: DeviceConfig, _say: Callable[[str], None]) -> Device:
        opened = devices[name]
        if isinstance(opened, Exception):
            raise opened
        return opened

    monkeypatch.setattr(lane_module, "open_configured", open_one)
    return dict.fromkeys(devices, PATIENT)


def test_a_start_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """After two seconds the devices that are not up are named, with how long they are waited for, if there are any."""

    async def scenario() -> None:
        for late in (slow, quick):
            fleet, said = Fleet(_opening(monkeypatch, quick=quick, slow=late), clock), list[str]()
            fleet.waits = said.append
            starting = asyncio.create_task(fleet.start([make_artifact()]))
            while not fleet.lanes["quick"].health.usable:
                fleet.changed.clear()
                await fleet.changed.wait()
            if late is quick:
                await starting
            clock.advance(2 * NANO)
            await turns()
            assert said == (["waiting for slow, at most 118 s more"] if late is slow else [])
            slow.loadable.set()
            await starting
            await fleet.close()

    clock, quick, slow = ManualClock(), Bench("quick"), Bench("slow")
    slow.loadable.clear()
    drive(clock, scenario())
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "the start waits" in line]
    assert "at_most_seconds=118.0" in line
    assert "devices=['slow']" in line


def test_shipped_models_on_real_devices(tmp_path: Path) -> None:
    """The shipped digits are served by all three devices; the journal has the sum of the replies."""

    async def scenario() -> None:
        journal = Journal(tmp_path, boot_id(), boot_nanoseconds, boot_nanoseconds)
        fleet = Fleet({name: DeviceConfig(name) for name in ("loihi-sim", "ncs2-sim", "cpu")}, boot_nanoseconds)
        fleet.register = journal.register
        metering = await open_metering(NO_METERS, fleet.lanes, journal, boot_nanoseconds)
        await fleet.start(scan(SHIPPED).artifacts)
        model = fleet.find("digits", "")
        policies = {name: PolicyConfig("pin", 100.0, pin=name) for name in fleet.lanes}
        dispatcher = Dispatcher(fleet, journal, metering, policies, "cpu", boot_nanoseconds, boot_nanoseconds)
        images = np.zeros((1, *model.manifest.input.shape), model.manifest.input.dtype)
        answers = []
        for name in fleet.lanes:
            dispatcher.set_policy(name)
            wanted = Constraints(boot_nanoseconds() + 60 * NANO)
            answers += await asyncio.gather(*(dispatcher.classify(model, images, wanted) for _ in range(9)))
        assert [answer.point.device for answer in answers] == [name for name in fleet.lanes for _ in range(9)]
        assert fleet.static_watts == pytest.approx(ncs2.IDLE_WATTS + fleet.lanes["loihi-sim"].static_watts)
        assert all(answer.point.service_seconds != answer.point.seconds for answer in answers)
        await fleet.close()
        await metering.close()
        journal.move()
        total = sum(row.dynamic_nanojoules for row in journal.store.summary(0))
        assert total == sum(answer.energy.dynamic_nanojoules for answer in answers) > 0
        journal.close()

    asyncio.run(scenario())


def test_the_loop_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device's thread yields to the event loop when both want the processor."""

    async def scenario() -> None:
        fleet = Fleet(_opening(monkeypatch, chip=Bench()), boot_nanoseconds)
        await fleet.start([])
        assert await fleet.lanes["chip"].call(lambda: os.sched_getscheduler(0)) == os.SCHED_BATCH
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
        await fleet.close()

    asyncio.run(scenario())


def test_one_device_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that cannot be opened is lost and says why; the others serve."""

    async def scenario() -> None:
        fleet = Fleet(devices, clock)
        await fleet.start([make_artifact()])
        assert fleet.load_seconds("gone") is None
        assert fleet.lanes["gone"].health.failure == failure
        assert fleet.load_seconds("chip") == 0.0
        assert [point.device for point in fleet.find("toy", "1").points] == ["chip"]
        await fleet.close()

    clock, failure = ManualClock(), DeviceUnavailable("gone", Reason.NOT_FOUND)
    devices = _opening(monkeypatch, gone=failure, chip=Bench())
    drive(clock, scenario())


def test_artifact_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that a device refuses is a problem of its model, told with the device."""

    async def scenario() -> None:
        fleet = Fleet(devices, clock)
        await fleet.start([make_artifact()])
        model = fleet.find("toy", "")
        assert model.points == []
        assert model.problems == ["chip: toy/snn: too strange"]
        await fleet.close()

    def refuse(artifact: Artifact) -> Bench:
        raise ArtifactError(artifact.name, "too strange")

    clock, bench = ManualClock(), Bench()
    monkeypatch.setattr(bench, "load", refuse)
    devices = _opening(monkeypatch, chip=bench)
    drive(clock, scenario())


def test_static_power_without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is on draws its static power whether or not anything is loaded on it."""

    async def scenario() -> None:
        fleet = Fleet(devices, clock)
        await fleet.start([])
        assert fleet.static_watts == 0.75
        await fleet.close()

    clock = ManualClock()
    devices = _opening(monkeypatch, chip=Bench(static_watts=0.5), spare=Bench("spare", static_watts=0.25))
    drive(clock, scenario())


@pytest.mark.parametrize(
    "changes", [{"labels": ("no", "maybe", "yes")}, {"input": TensorSpec("image", "float32", (1, 2))}]
)
def test_variants_that_disagree(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """A variant whose input or labels differ from the first one's is left out and told."""

    async def scenario() -> None:
        fleet = Fleet(devices, clock)
        odd = make_artifact(kind=Kind.DNN, operating_points=(OperatingPoint(0.9),), **changes)
        await fleet.start([make_artifact(), odd])
        model = fleet.find("toy", "1")
        assert [point.variant for point in model.points] == ["snn"]
        assert model.problems == ["toy/dnn: its input or labels are not those of the other variants"]
        await fleet.close()

    clock, dense = ManualClock(), Bench("dense")
    monkeypatch.setattr(dense, "kind", Kind.DNN)
    devices = _opening(monkeypatch, chip=Bench(), dense=dense)
    drive(clock, scenario())


def test_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest version by number is found where none is named; unknown names and versions are told."""

    async def scenario() -> None:
        fleet = Fleet(devices, clock)
        whole = make_artifact()
        versions = [Artifact("toy", version, "snn", "d" * 64, whole.manifest, {}) for version in ("9", "10", "2")]
        await fleet.start(versions)
        assert fleet.find("toy", "").version == "10"
        assert fleet.find("toy", "9").version == "9"
        with pytest.raises(NotFound, match="model 'toy' has no version '3'; known are 9, 10, 2"):
            fleet.find("toy", "3")
        with pytest.raises(NotFound, match="no model 'tay'; did you mean 'toy'"):
            fleet.find("tay", "")
        await fleet.close()

    clock = ManualClock()
    devices = _opening(monkeypatch, chip=Bench())
    drive(clock, scenario())


def test_close_finishes_what_is_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing runs what is queued first, closes every device once, and ends its thread."""

    async def scenario() -> None:
        fleet = Fleet(devices, clock)
        await fleet.start([make_artifact()])
        lane, (point,) = fleet.lanes["chip"], fleet.find("toy", "1").points
        ended: list[Inference | DeviceUnavailable | None] = []
        lane.landed = lambda _jobs, outcome: ended.append(outcome)
        for _ in range(5):
            lane.submit(Job(point, np.zeros((1, 1, 2), np.uint8), clock() + NANO, Reservation(0), 0.1))
        assert lane.queued == 5
        assert lane.backlog_seconds == pytest.approx(0.5)
        await fleet.close()
        assert [isinstance(outcome, Inference) for outcome in ended] == [True] * 5
        assert (lane.queued, lane.backlog_seconds, bench.closed) == (0, 0.0, 1)

    before = threading.active_count()
    clock, bench = ManualClock(), Bench()
    devices = _opening(monkeypatch, chip=bench, gone=DeviceUnavailable("gone", Reason.NO_RUNTIME))
    drive(clock, scenario())
    assert threading.active_count() == before


def test_late_and_early_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of jobs taken together those past their deadline do not run; the device's time is learned from the others."""

    async def scenario() -> None:
        fleet = Fleet(devices, clock)
        await fleet.start([make_artifact()])
        lane, (point,) = fleet.lanes["chip"], fleet.find("toy", "1").points
        landings: dict[int, str] = {}
        lane.landed = lambda jobs, outcome: landings.update({job.deadline: type(outcome).__name__ for job in jobs})
        bench.gate.clear()
        deadlines = [clock() + NANO, clock() + 2 * NANO, clock() + 1, clock() + 3 * NANO, clock() + 2]
        for deadline in deadlines:
            lane.submit(Job(point, np.zeros((1, 1, 2), np.uint8), deadline, Reservation(0), 0.1))
            assert await asyncio.to_thread(bench.entered.wait, 30)
        clock.advance(2)
        bench.gate.set()
        bench.during = lambda: clock.advance(NANO // 100)
        await fleet.close()
        assert [landings[deadline] for deadline in deadlines] == [
            "Inference", "Inference", "NoneType", "Inference", "NoneType",
        ]  # fmt: skip
        assert bench.batches == [1, 2]
        assert point.service_seconds < 0.01

    clock, bench = ManualClock(), Bench(batch_limit=8)
    devices = _opening(monkeypatch, chip=bench)
    drive(clock, scenario())


def test_static_power_of_loihi() -> None:
    """The simulated chip draws its power with the cores that its network uses."""

    async def scenario() -> None:
        fleet = Fleet({"chip": DeviceConfig("loihi-sim")}, clock)
        await fleet.start([])
        assert fleet.static_watts == loihi.static_watts(1, 0)
        await fleet.close()
        empty = fleet.static_watts
        loaded = Fleet({"chip": DeviceConfig("loihi-sim")}, clock)
        await loaded.start(scan(SHIPPED).artifacts)
        assert loaded.static_watts > empty
        await loaded.close()

    clock = ManualClock()
    drive(clock, scenario())


def test_artifact_for_other_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact that is made for some drivers is loaded on no other device of its kind, and that is no problem."""

    async def scenario() -> None:
        fleet = Fleet(devices, clock)
        await fleet.start([make_artifact(), make_artifact(drivers=("bench",)), make_artifact(drivers=("cpu",))])
        model = fleet.find("toy", "1")
        assert len(model.points) == 2 * len(make_artifact().manifest.operating_points)
        assert model.problems == []
        await fleet.close()

    clock = ManualClock()
    devices = _opening(monkeypatch, chip=Bench())
    drive(clock, scenario())
