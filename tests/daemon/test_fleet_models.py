"""Models are put on devices and taken off while these serve, whatever state the devices are in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.errors import NotFound, Unavailable
from hal.artifact import Artifact, OperatingPoint
from hal.errors import CapacityError, DeviceUnavailable, Reason
from tests.daemon.builders import Bench, ManualClock, drive, entered, hosting, make_artifact, turns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon.builders import Host

ROOMY = {"roomy": PolicyConfig("accuracy", 1.0)}
TIGHT = {"tight": PolicyConfig("accuracy", 300 / NANO, 1.0)}
# Another network under the same name and version.
RETRAINED = make_artifact(operating_points=(OperatingPoint(0.95, steps=4),))


class Shelf(Bench):
    """A bench that tells what is loaded on it, and takes no more than it has room for."""

    def __init__(self, name: str = "chip", *, room: int = 9) -> None:
        super().__init__(name, static_watts=0.0)
        self.room = room
        self.loaded: list[Artifact] = []
        self.loads = 0

    def load(self, artifact: Artifact) -> Bench:
        """Take an artifact, if there is room. It is loaded when it may."""
        if len(self.loaded) == self.room:
            raise CapacityError(f"{artifact.name} on {self.name}", self.room + 1, self.room, "networks")
        program = super().load(artifact)
        self.loads += 1
        self.loaded.append(artifact)
        return program

    def unload(self, artifact: Artifact) -> None:
        """Give one back."""
        self.loaded.remove(artifact)

    def close(self) -> None:
        """Forget what is loaded."""
        super().close()
        self.loaded.clear()


def test_what_is_queued_is_answered_before_its_model_goes(tmp_path: Path) -> None:
    """The model is unloaded behind what is queued; requests from then on do not find it."""

    async def scenario() -> None:
        shelf = Shelf()
        async with hosting(tmp_path, clock, ROOMY, shelf) as host:
            shelf.gate.clear()
            asked = [host.ask(value=value) for value in (1, 2)]
            await entered(shelf)
            going = asyncio.create_task(host.fleet.put("toy", []))
            await turns()
            assert shelf.loaded == [make_artifact()]
            with pytest.raises(NotFound):
                host.fleet.find("toy", "")
            shelf.gate.set()
            assert [float((await each).scores[0, 0]) for each in asked] == [1.0, 2.0]
            await going
            assert shelf.loaded == []
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_who_waits_for_a_model_that_goes_is_told(tmp_path: Path) -> None:
    """A request that waits for the budget finds no device for its model any more."""

    async def scenario() -> None:
        shelf = Shelf()
        async with hosting(tmp_path, clock, TIGHT, shelf) as host:
            shelf.gate.clear()
            running, waiting = host.ask(seconds=9), host.ask(seconds=9)
            await entered(shelf)
            going = asyncio.create_task(host.fleet.put("toy", []))
            await turns()
            shelf.gate.set()
            await running
            with pytest.raises(Unavailable):
                await waiting
            await going
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_what_is_there_stays_loaded(tmp_path: Path) -> None:
    """The same artifacts again load nothing: the operating points go on with what they have learned."""

    async def scenario() -> None:
        shelf = Shelf()
        async with hosting(tmp_path, clock, ROOMY, shelf) as host:
            points = list(host.points)
            await host.fleet.put("toy", [make_artifact(), make_artifact("2")])
            assert shelf.loads == 2
            assert all(now is before for now, before in zip(host.points, points, strict=True))
            assert [version.version for version in host.fleet.versions()] == ["1", "2"]
            await host.fleet.put("toy", [make_artifact("2")])
            # Both versions are made of the same, so that nothing may be taken off the device.
            assert len(shelf.loaded) == 2
            assert host.fleet.find("toy", "").version == "2"

    clock = ManualClock()
    drive(clock, scenario())


def test_a_changed_artifact_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    """On a device with room for one, the old one goes first; each point is known to the journal before it serves."""

    async def scenario() -> None:
        shelf = Shelf(room=1)
        async with hosting(tmp_path, clock, ROOMY, shelf) as host:
            await host.fleet.put("toy", [RETRAINED])
            assert shelf.loaded == [RETRAINED]
            assert [point.accuracy for point in host.points] == [0.95]
            assert all(point.journal_id for point in host.points)
            await host.ask()
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_what_found_no_room_is_loaded_when_there_is_some(tmp_path: Path) -> None:
    """An artifact that a device refused is tried again when another one has gone."""

    async def scenario() -> None:
        shelf = Shelf(room=1)
        async with hosting(tmp_path, clock, ROOMY, shelf) as host:
            await host.fleet.put("toy", [make_artifact(), RETRAINED])
            assert host.model.problems == ["chip: toy/snn on chip: 2 networks exceed the limit of 1"]
            await host.fleet.put("toy", [RETRAINED])
            assert (host.model.problems, shelf.loaded) == ([], [RETRAINED])
            assert [point.digest for point in host.points] == [RETRAINED.digest]

    clock = ManualClock()
    drive(clock, scenario())


def test_a_lost_device_loads_when_it_is_back(tmp_path: Path) -> None:
    """What changed while a device was away is so when it has come up."""

    async def scenario() -> None:
        shelf, spare = Shelf(), Shelf("spare")
        async with hosting(tmp_path, clock, ROOMY, shelf, spare) as host:
            await _lose(host, shelf)
            await host.fleet.put("toy", [RETRAINED])
            assert (shelf.loaded, spare.loaded) == ([], [RETRAINED])
            shelf.loadable.set()
            await host.until(lambda: host.fleet.lanes["chip"].health.usable)
            assert shelf.loaded == [RETRAINED]
            assert [point.device for point in host.points] == ["chip", "spare"]
            await host.ask()
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


async def _lose(host: Host, shelf: Shelf) -> None:
    """Let a device fail, and be opened no sooner than it may."""
    shelf.failures = [DeviceUnavailable(shelf.name, Reason.LOST)]
    shelf.loadable.clear()
    await host.ask()
    assert not host.fleet.lanes[shelf.name].health.usable
    shelf.loaded.clear()
    host.clock.advance(NANO)


def test_a_device_that_fails_in_loading_is_lost_and_comes_back(tmp_path: Path) -> None:
    """The driver raises while it unloads: the device is opened anew, with what it is to have."""

    async def scenario() -> None:
        shelf = Shelf()
        async with hosting(tmp_path, clock, ROOMY, shelf) as host:
            shelf.loaded.clear()
            await host.fleet.put("toy", [RETRAINED])
            assert not host.fleet.lanes["chip"].health.usable
            clock.advance(NANO)
            await host.until(lambda: host.fleet.lanes["chip"].health.usable)
            assert shelf.loaded == [RETRAINED]
            assert [point.accuracy for point in host.points] == [0.95]

    clock = ManualClock()
    drive(clock, scenario())
