"""Devices that come and go while requests are served: nothing is lost with them, and they come back by themselves."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from daemon import lane as lane_module
from daemon.clock import NANO
from daemon.config import DeviceConfig, PolicyConfig
from daemon.errors import Unavailable
from daemon.fleet import PROBE_SECONDS, Fleet
from daemon.health import LONGEST_PAUSE_NANOSECONDS, PROBATION_NANOSECONDS
from hal.errors import ArtifactError, DeviceUnavailable, Reason
from tests.daemon.builders import PATIENT, Bench, ManualClock, drive, entered, hosting, make_artifact, turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hal.artifact import Artifact
    from tests.daemon.builders import Host

ROOMY = {"roomy": PolicyConfig("accuracy", 1.0)}
HASTY = DeviceConfig("loihi-sim", time_limit_seconds=0.5)


class Socket:
    """Where a device is plugged in: opening it gives the device or raises what is there instead."""

    def __init__(self, bench: Bench, *failures: Exception) -> None:
        self.bench = bench
        self.failures = list(failures)
        self.opened = 0

    def __call__(self) -> Bench:
        """Open what is plugged in."""
        self.opened += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.bench


def _plug(monkeypatch: pytest.MonkeyPatch, **sockets: Socket) -> None:
    """Let the devices be opened from their sockets."""
    monkeypatch.setattr(lane_module, "open_configured", lambda name, _config, _say: sockets[name]())


def _with_fallback(name: str) -> DeviceConfig:
    return DeviceConfig("loihi-sim", time_limit_seconds=600.0, fallback=name)


def _health(host: Host, device: str = "chip") -> str:
    return host.fleet.lanes[device].health.state.value


def _is(host: Host, health: str, device: str = "chip") -> Callable[[], bool]:
    return lambda: _health(host, device) == health


@pytest.mark.parametrize("failure", [DeviceUnavailable("chip", Reason.LOST), ZeroDivisionError("driver's own")])
def test_failover(tmp_path: Path, failure: Exception) -> None:
    """When a device fails the next one answers; the failed attempt is charged at its bound and said to be unsure."""

    async def scenario() -> None:
        chip, spare = Bench(), Bench("spare")
        async with hosting(tmp_path, clock, ROOMY, chip, spare) as host:
            chip.failures = [failure]
            chip.loadable.clear()
            answer = await host.ask()
            assert answer.point.device == "spare"
            assert answer.energy[:3] == (300, 0, 210)
            assert (host.rows(), host.attempts()) == ([("ok", 100)], [(1, 1, 200)])
            assert host.dispatcher.budget.spent_nanojoules(clock()) == 300
            assert host.fleet.lanes["chip"].lost
            assert (await host.ask()).point.device == "spare"
            chip.loadable.set()
            await host.until(lambda: not host.fleet.lanes["chip"].lost)
            assert (await host.ask()).point.device == "chip"
            assert host.fleet.lanes["chip"].health.state.value == "degraded"
            clock.advance(PROBATION_NANOSECONDS)
            assert (await host.ask()).point.device == "chip"
            assert host.fleet.lanes["chip"].health.state.value == "up"
            assert host.fleet.lanes["chip"].health.failure is None
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_appears_after_the_start(tmp_path: Path) -> None:
    """A device that was not there at the start is tried again; it serves, is journaled and counts once it is there."""

    async def scenario() -> None:
        chip, late = Bench(), Bench("late", static_watts=0.25)
        async with hosting(tmp_path, clock, ROOMY, chip, late) as host:
            assert _health(host, "late") == "lost"
            assert [point.device for point in host.points] == ["chip"]
            assert host.dispatcher.budget.static_watts == 0.0
            clock.advance(LONGEST_PAUSE_NANOSECONDS)
            await host.until(_is(host, "degraded", "late"))
            assert [point.device for point in host.points] == ["chip", "late"]
            assert host.dispatcher.budget.static_watts == 0.25
            host.points.reverse()
            assert (await host.ask()).point.device == "late"
            assert host.rows() == [("ok", 100)]

    clock = ManualClock()
    with pytest.MonkeyPatch.context() as patch:
        gone = DeviceUnavailable("late", Reason.NOT_FOUND)
        patch.setattr(Bench, "load", _missing_at_first(gone))
        drive(clock, scenario())


def _missing_at_first(failure: DeviceUnavailable) -> Callable[[Bench, Artifact], Bench]:
    """Let the device named by the failure fail with it, once."""
    failures = [failure]

    def load(bench: Bench, _artifact: Artifact) -> Bench:
        if bench.name == failure.device and failures:
            raise failures.pop()
        return bench

    return load


def test_returns_to_the_bus(monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, Any], None]) -> None:
    """A stick that is away for a while, as with each upload of its firmware, is lost once and comes back once."""

    async def scenario() -> None:
        fleet = Fleet({"chip": PATIENT}, clock)
        await fleet.start([make_artifact()])
        lane, (point,) = fleet.lanes["chip"], fleet.find("toy", "").points
        seen = [lane.health.state.value]
        lane.changed = lambda: seen.append(lane.health.state.value)
        socket.failures = [DeviceUnavailable("chip", Reason.NOT_FOUND) for _ in range(4)]
        socket.bench = again
        lane.fail(DeviceUnavailable("chip", Reason.LOST, "X_LINK_ERROR"), clock())
        while not lane.health.usable:
            clock.advance(LONGEST_PAUSE_NANOSECONDS)
            await asyncio.sleep(0)
        assert list(dict.fromkeys(seen)) == ["up", "lost", "degraded"]
        record_property("times_lost", sum(before != "lost" == after for before, after in pairwise(seen)))
        assert socket.opened == 6
        assert fleet.find("toy", "").points == [point]
        assert point.program is again
        assert first.closed == 1
        await fleet.close()

    clock, first, again = ManualClock(), Bench(), Bench()
    socket = Socket(first)
    _plug(monkeypatch, chip=socket)
    drive(clock, scenario())


def test_what_waits_goes_elsewhere(tmp_path: Path) -> None:
    """Of the requests at a device that fails only those that ran pay for it; the others are decided again."""

    async def scenario() -> None:
        chip, spare = Bench(), Bench("spare")
        async with hosting(tmp_path, clock, ROOMY, chip, spare) as host:
            chip.gate.clear()
            chip.loadable.clear()
            chip.failures = [DeviceUnavailable("chip", Reason.LOST)]
            asked = [host.ask() for _ in range(5)]
            await entered(chip)
            await turns()
            chip.gate.set()
            answers = await asyncio.gather(*asked)
            assert [answer.point.device for answer in answers] == ["spare"] * 5
            assert [answer.energy.dynamic_nanojoules for answer in answers] == [300, 100, 100, 100, 100]
            assert chip.batches == [1]
            chip.loadable.set()
            await host.until(_is(host, "degraded"))
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_hang_in_this_process(tmp_path: Path) -> None:
    """A run that does not end is given up at the time limit; its device is lost until it returns, and then serves."""

    async def scenario() -> None:
        chip, spare = Bench(), Bench("spare")
        devices = {"chip": HASTY, "spare": HASTY}
        async with hosting(tmp_path, clock, ROOMY, chip, spare, devices=devices) as host:
            chip.gate.clear()
            stuck, behind = host.ask(seconds=10), host.ask(seconds=10)
            await entered(chip)
            clock.advance(NANO // 2 + NANO // 10)
            answers = await asyncio.gather(stuck, behind)
            assert [answer.point.device for answer in answers] == ["spare", "spare"]
            assert [answer.energy.dynamic_nanojoules for answer in answers] == [300, 100]
            assert str(host.fleet.lanes["chip"].health.failure) == "chip: hung (a run does not end)"
            assert host.at_rest()
            chip.gate.set()
            await host.until(_is(host, "degraded"))
            assert (await host.ask()).point.device == "chip"
            assert host.at_rest()
            assert host.dispatcher.budget.spent_nanojoules(clock()) == 500

    clock = ManualClock()
    drive(clock, scenario())


def test_close_while_a_device_hangs(tmp_path: Path) -> None:
    """A device that hangs keeps nobody from closing the others."""

    async def scenario() -> None:
        chip, spare = Bench(), Bench("spare")
        async with hosting(tmp_path, clock, ROOMY, chip, spare, devices={"chip": HASTY, "spare": HASTY}) as host:
            chip.gate.clear()
            asked = host.ask()
            await entered(chip)
            clock.advance(NANO * 6 // 10)
            assert (await asked).point.device == "spare"
            await host.fleet.close()
            assert (chip.closed, spare.closed) == (0, 1)

    clock = ManualClock()
    drive(clock, scenario())


def test_fallback(tmp_path: Path) -> None:
    """A declared fallback serves only while its device is lost, under a pin on that device as well, and says so."""

    async def scenario() -> None:
        chip, twin = Bench(), Bench("twin")
        async with hosting(tmp_path, clock, policies, twin, chip, devices=devices) as host:
            assert {point.device: point.fallback_of for point in host.points} == {"twin": "chip", "chip": ""}
            for _ in range(3):
                answer = await host.ask()
                assert (answer.point.device, answer.point.fallback_of) == ("chip", "")
            chip.failures = [DeviceUnavailable("chip", Reason.LOST)]
            chip.loadable.clear()
            for _ in range(3):
                answer = await host.ask()
                assert (answer.point.device, answer.point.fallback_of) == ("twin", "chip")
            chip.loadable.set()
            await host.until(_is(host, "degraded"))
            assert (await host.ask()).point.device == "chip"

    clock = ManualClock()
    devices = {"twin": PATIENT, "chip": _with_fallback("twin")}
    policies = {"pinned": PolicyConfig("pin", 1.0, pin="chip")}
    drive(clock, scenario())


def test_chain_of_fallbacks(tmp_path: Path) -> None:
    """The fallback of a fallback serves only while both are lost."""

    async def scenario() -> None:
        benches = [Bench(name) for name in ("third", "second", "first")]
        async with hosting(tmp_path, clock, ROOMY, *benches, devices=devices) as host:
            served = []
            for lost in ([], ["second"], ["first"], ["second"]):
                for name in lost:
                    lane = host.fleet.lanes[name]
                    benches[2 - ("first", "second", "third").index(name)].loadable.clear()
                    lane.fail(DeviceUnavailable(name, Reason.LOST), clock())
                served.append((await host.ask()).point.device)
                if lost == ["second"] and len(served) == 2:
                    benches[1].loadable.set()
                    await host.until(_is(host, "degraded", "second"))
            assert served == ["first", "first", "second", "third"]

    clock = ManualClock()
    devices = {
        "third": PATIENT,
        "second": _with_fallback("third"),
        "first": _with_fallback("second"),
    }
    drive(clock, scenario())


def test_no_device_left(tmp_path: Path) -> None:
    """With its device lost a model is not served and says so; it is again when the device is back."""

    async def scenario() -> None:
        chip = Bench()
        async with hosting(tmp_path, clock, ROOMY, chip) as host:
            model = host.fleet.find("toy", "")
            assert host.fleet.serves(model)
            chip.failures = [DeviceUnavailable("chip", Reason.HUNG)]
            chip.loadable.clear()
            with pytest.raises(Unavailable):
                await host.ask()
            assert not host.fleet.serves(model)
            chip.loadable.set()
            await host.until(_is(host, "degraded"))
            assert host.fleet.serves(model)
            assert (await host.ask()).point.device == "chip"

    clock = ManualClock()
    drive(clock, scenario())


def test_artifact_that_no_longer_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device that came back refuses to load is no candidate any more; the model says why."""

    async def scenario() -> None:
        chip = Bench()
        async with hosting(tmp_path, clock, ROOMY, chip) as host:
            monkeypatch.setattr(chip, "load", refuse)
            host.fleet.lanes["chip"].fail(DeviceUnavailable("chip", Reason.LOST), clock())
            await host.until(_is(host, "degraded"))
            assert host.points == []
            assert host.fleet.find("toy", "").problems == ["chip: toy/snn: too strange"]

    def refuse(artifact: Artifact) -> Bench:
        raise ArtifactError(artifact.name, "too strange")

    clock = ManualClock()
    drive(clock, scenario())


async def _tell(host: Host, condition: Callable[[], bool]) -> None:
    """Let time pass until the devices have told something."""
    while not condition():
        host.clock.advance(round(PROBE_SECONDS * NANO))
        await asyncio.sleep(0)


def test_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device at rest is asked for its telemetry: one that throttles is degraded, one that does not answer lost."""

    async def scenario() -> None:
        chip = Bench()
        async with hosting(tmp_path, clock, ROOMY, chip) as host:
            lane = host.fleet.lanes["chip"]
            monkeypatch.setattr(chip, "telemetry", lambda: {"temperature_celsius": 41.5})
            await _tell(host, lambda: bool(lane.telemetry))
            assert lane.telemetry == {"temperature_celsius": 41.5}
            assert lane.state.value == "up"
            monkeypatch.setattr(chip, "telemetry", lambda: {"throttling": 1.0})
            await _tell(host, lambda: lane.state.value == "degraded")
            monkeypatch.setattr(chip, "telemetry", lambda: {"throttling": 0.0})
            await _tell(host, lambda: lane.state.value == "up")
            chip.loadable.clear()
            monkeypatch.setattr(chip, "telemetry", lambda: 1 / 0)
            await _tell(host, lambda: not lane.health.usable)
            assert "ZeroDivisionError" in str(lane.health.failure)
            chip.loadable.set()
            await host.until(_is(host, "degraded"))

    clock = ManualClock()
    drive(clock, scenario())


def test_slow_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes too long to open does not hold the start up; it serves when it is ready."""

    async def scenario() -> None:
        fleet = Fleet({"chip": PATIENT, "slow": PATIENT}, clock)
        starting = asyncio.create_task(fleet.start([make_artifact()]))
        while not starting.done():
            clock.advance(NANO if fleet.lanes["chip"].health.usable else 0)
            await asyncio.sleep(0)
        assert {name: lane.health.state.value for name, lane in fleet.lanes.items()} == {
            "chip": "up", "slow": "starting",
        }  # fmt: skip
        assert fleet.load_seconds("slow") is None
        slow.loadable.set()
        while not fleet.lanes["slow"].health.usable:
            fleet.changed.clear()
            await fleet.changed.wait()
        assert [point.device for point in fleet.find("toy", "").points] == ["chip", "slow"]
        await fleet.close()

    clock, slow = ManualClock(), Bench("slow")
    slow.loadable.clear()
    _plug(monkeypatch, chip=Socket(Bench()), slow=Socket(slow))
    drive(clock, scenario())
