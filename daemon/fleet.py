"""The devices of the host, each in its lane, and the models that they serve."""

from __future__ import annotations

import asyncio

import structlog

from daemon.calibration import NONE, Calibration
from daemon.clock import Clock
from daemon.config import DeviceConfig
from daemon.errors import NotFound
from daemon.lane import Lane
from daemon.points import Model, Point, points_of
from hal.artifact import Artifact
from hal.errors import HalError

log = structlog.get_logger()


class Fleet:
    """All devices of the host, and the models that they serve by name and version."""

    def __init__(self, devices: dict[str, DeviceConfig], clock: Clock, calibration: Calibration = NONE) -> None:
        loop = asyncio.get_running_loop()
        self.lanes = {name: Lane(name, config, clock, loop) for name, config in devices.items()}
        self.models: dict[str, dict[str, Model]] = {}
        self._calibration = calibration
        # Whether every artifact is on every device that it is meant for.
        self.complete = True

    @property
    def static_watts(self) -> float:
        """Give what all devices draw together without a request."""
        return sum(lane.static_watts for lane in self.lanes.values())

    def load_seconds(self, device: str) -> float | None:
        """Tell the seconds of work queued at a device, or None while it is lost."""
        lane = self.lanes[device]
        return None if lane.lost else lane.backlog_seconds

    def find(self, name: str, version: str) -> Model:
        """Find a model, its latest version where none is named. Raises `NotFound`."""
        versions = self.models.get(name)
        if not versions:
            raise NotFound(f"no model {name[:64]!r}")
        version = version or max(versions, key=int)
        if version not in versions:
            raise NotFound(f"model {name!r} has no version {version[:16]!r}; known are {', '.join(versions)}")
        return versions[version]

    def points(self) -> list[Point]:
        """List the operating points of all models."""
        return [point for versions in self.models.values() for model in versions.values() for point in model.points]

    async def start(self, artifacts: list[Artifact]) -> None:
        """Open every device and load every artifact on every device of its kind."""
        for artifact in artifacts:
            versions = self.models.setdefault(artifact.model, {})
            model = versions.setdefault(artifact.version, Model(artifact.model, artifact.version, artifact.manifest))
            if (artifact.manifest.input, artifact.manifest.labels) != (model.manifest.input, model.manifest.labels):
                model.problems.append(f"{artifact.name}: its input or labels are not those of the other variants")
        await asyncio.gather(*(lane.open() for lane in self.lanes.values()))
        for lane in self.lanes.values():
            for artifact in artifacts:
                await self._load(lane, artifact)
            if lane.device is not None:
                lane.static_watts = self._calibration.static_watts(lane.name, lane.device.static_watts())
                lane.reopening = lane.device.reopening()
        problems = any(model.problems for versions in self.models.values() for model in versions.values())
        self.complete = not problems and all(lane.device for lane in self.lanes.values())

    async def _load(self, lane: Lane, artifact: Artifact) -> None:
        device, model = lane.device, self.models[artifact.model][artifact.version]
        if device is None or artifact.manifest.kind is not device.kind:
            return
        if artifact.manifest.drivers and device.driver not in artifact.manifest.drivers:
            return
        if (artifact.manifest.input, artifact.manifest.labels) != (model.manifest.input, model.manifest.labels):
            return
        try:
            program = await lane.call(lambda: device.load(artifact))
        except HalError as error:
            model.problems.append(f"{lane.name}: {error}")
            log.warning("artifact not loaded", artifact=artifact.name, device=lane.name, error=str(error))
            return
        points = points_of(artifact, device, program)
        self._calibration.apply(points, lane.config)
        model.points.extend(points)

    async def close(self) -> None:
        """Close every device."""
        await asyncio.gather(*(lane.close() for lane in self.lanes.values()))
