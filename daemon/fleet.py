"""The devices of the host, each in its lane, and the models that they serve.

Each device is brought up, and up again whenever it fails, by a task of its own: a device that was not there at the
start serves as soon as it is, and none keeps another one from serving.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

import structlog

from daemon.background import repeat
from daemon.calibration import NONE, Calibration
from daemon.clock import NANO, Clock
from daemon.config import DeviceConfig
from daemon.errors import NotFound
from daemon.health import unavailable
from daemon.lane import Lane
from daemon.points import Model, Point, points_of
from hal.artifact import Artifact
from hal.device import Device
from hal.errors import ArtifactError, CapacityError
from hal.names import near

# The start waits so long for devices; one that takes longer serves when it is ready.
START_SECONDS = 120.0
WATCH_SECONDS = 0.05
PROBE_SECONDS = 5.0

log = structlog.get_logger()


class Fleet:
    """All devices of the host, and the models that they serve by name and version.

    `came_up` is called when a device has come up, for the first time or again, with the static power that it draws.
    """

    def __init__(self, devices: dict[str, DeviceConfig], clock: Clock, calibration: Calibration = NONE) -> None:
        loop = asyncio.get_running_loop()
        self.lanes = {name: Lane(name, config, clock, loop) for name, config in devices.items()}
        self.models: dict[str, dict[str, Model]] = {}
        self.came_up: Callable[[Lane, float], None] = _take
        # Set when the health of a device has changed.
        self.changed = asyncio.Event()
        for lane in self.lanes.values():
            lane.changed = self.changed.set
        # Which device a fallback stands in for.
        self.principals = {config.fallback: name for name, config in devices.items() if config.fallback}
        self._artifacts: list[Artifact] = []
        self._clock = clock
        self._calibration = calibration
        # Whether every artifact is on every device that it is meant for.
        self.complete = True
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def static_watts(self) -> float:
        """Give what all devices draw together without a request."""
        return sum(lane.static_watts for lane in self.lanes.values())

    def load_seconds(self, device: str) -> float | None:
        """Tell the seconds of work queued at a device, or None while it cannot be used.

        A fallback is used only while the device that names it cannot be.
        """
        lane = self.lanes[device]
        usable = lane.health.usable and not lane.shed
        return lane.backlog_seconds if usable and self._called_for(device) else None

    def _called_for(self, device: str) -> bool:
        principal = self.principals.get(device)
        if principal is None:
            return True
        return not self.lanes[principal].health.usable and self._called_for(principal)

    def serves(self, model: Model) -> bool:
        """Tell whether any operating point of a model can be used."""
        return any(self.load_seconds(point.device) is not None for point in model.points)

    def find(self, name: str, version: str) -> Model:
        """Find a model, its latest version where none is named. Raises `NotFound`."""
        versions = self.models.get(name)
        if not versions:
            raise NotFound(f"no model {name[:64]!r}{near(name[:64], self.models)}")
        version = version or max(versions, key=int)
        if version not in versions:
            raise NotFound(f"model {name!r} has no version {version[:16]!r}; known are {', '.join(versions)}")
        return versions[version]

    def versions(self) -> list[Model]:
        """List all models in all their versions."""
        return [model for versions in self.models.values() for model in versions.values()]

    def points(self) -> list[Point]:
        """List the operating points of all models."""
        return [point for model in self.versions() for point in model.points]

    async def start(self, artifacts: list[Artifact]) -> None:
        """Open every device and load every artifact on every device of its kind; then keep them up."""
        self._artifacts = artifacts
        for artifact in artifacts:
            versions = self.models.setdefault(artifact.model, {})
            model = versions.setdefault(artifact.version, Model(artifact.model, artifact.version, artifact.manifest))
            if not _fits(artifact, model):
                model.problems.append(f"{artifact.name}: its input or labels are not those of the other variants")
        tried = [asyncio.Event() for _ in self.lanes]
        self._tasks = [
            asyncio.create_task(repeat(f"device {lane.name}", partial(self._keep_up, lane, event)))
            for lane, event in zip(self.lanes.values(), tried, strict=True)
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                for event in tried:
                    await event.wait()
        self._tasks += [
            asyncio.create_task(repeat("device watch", self._watch, WATCH_SECONDS)),
            asyncio.create_task(repeat("device probe", self._probe, PROBE_SECONDS)),
        ]
        problems = any(model.problems for model in self.versions())
        self.complete = not problems and all(lane.health.usable for lane in self.lanes.values())

    async def _keep_up(self, lane: Lane, tried: asyncio.Event) -> None:
        """Bring a device up, note that it was tried, and wait until it is lost and may be tried again."""
        try:
            await self._bring_up(lane)
        except Exception as error:  # noqa: BLE001 (a driver may raise anything)
            lane.fail(unavailable(lane.name, error), self._clock())
        finally:
            tried.set()
        await lane.down.wait()
        await asyncio.sleep(max(lane.health.retry_at - self._clock(), 0) / NANO)

    async def _bring_up(self, lane: Lane) -> None:
        """Open a device and load every artifact of its kind."""
        before = [point for point in self.points() if point.device == lane.name]
        device = await lane.open()
        for artifact in self._artifacts:
            model = self.models[artifact.model][artifact.version]
            if _meant_for(artifact, device) and _fits(artifact, model):
                known = [point for point in before if point.digest == artifact.digest]
                await self._load(lane, device, artifact, model, known)
        lane.reopening = device.reopening()
        lane.opened()
        self.came_up(lane, self._calibration.static_watts(lane.name, device.static_watts()))

    async def _load(self, lane: Lane, device: Device, artifact: Artifact, model: Model, before: list[Point]) -> None:
        """Load an artifact. The points that it had before the device was lost go on with its new program."""
        try:
            program = await lane.call(lambda: device.load(artifact))
        except (ArtifactError, CapacityError) as error:
            model.points[:] = [point for point in model.points if point not in before]
            problem = f"{lane.name}: {error}"
            if problem not in model.problems:
                model.problems.append(problem)
                log.warning("artifact not loaded", artifact=artifact.name, device=lane.name, error=str(error))
            return
        if before:
            for point in before:
                point.program = program
            return
        points = points_of(artifact, device, program)
        self._calibration.apply(points, lane.config)
        for point in points:
            point.fallback_of = self.principals.get(lane.name, "")
        ranks = {name: rank for rank, name in enumerate(self.lanes)}
        model.points[:] = sorted([*model.points, *points], key=lambda point: ranks[point.device])

    def _watch(self) -> None:
        for lane in self.lanes.values():
            lane.watch()

    async def _probe(self) -> None:
        await asyncio.gather(*(lane.probe() for lane in self.lanes.values()))

    async def close(self) -> None:
        """Close every device."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(lane.close() for lane in self.lanes.values()))


def _meant_for(artifact: Artifact, device: Device) -> bool:
    """Tell whether an artifact is of the device's kind and does not name other drivers only."""
    drivers = artifact.manifest.drivers
    return artifact.manifest.kind is device.kind and (not drivers or device.driver in drivers)


def _fits(artifact: Artifact, model: Model) -> bool:
    """Tell whether a variant has the input and the labels of its model."""
    return (artifact.manifest.input, artifact.manifest.labels) == (model.manifest.input, model.manifest.labels)


def _take(lane: Lane, watts: float) -> None:
    """Take over what a device draws, while nobody keeps books."""
    lane.static_watts = watts
