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
from daemon.waiting import DEFAULT_PRIORITY
from hal.artifact import Artifact
from hal.device import Device
from hal.errors import ArtifactError, CapacityError
from hal.names import near

# The start waits so long for devices; one that takes longer serves when it is ready.
START_SECONDS = 120.0
# One that takes longer than this is named meanwhile.
LATE_SECONDS = 2.0
WATCH_SECONDS = 0.05
PROBE_SECONDS = 5.0

log = structlog.get_logger()


class Fleet:
    """All devices of the host, and the models that they serve by name and version.

    `came_up` is called when a device has come up, for the first time or again, or when other models are loaded on it,
    with the static power that it draws. `register` is called with each operating point before it is offered, `waits`
    with what the start waits for, in words.
    """

    def __init__(self, devices: dict[str, DeviceConfig], clock: Clock, calibration: Calibration = NONE) -> None:
        loop = asyncio.get_running_loop()
        self.lanes = {name: Lane(name, config, clock, loop) for name, config in devices.items()}
        self.models: dict[str, dict[str, Model]] = {}
        self.came_up: Callable[[Lane, float], None] = _take
        self.register: Callable[[Point], None] = _nothing
        self.waits: Callable[[str], None] = _silent
        # Set when the health of a device has changed.
        self.changed = asyncio.Event()
        for lane in self.lanes.values():
            lane.changed = self.changed.set
        # Which device a fallback stands in for.
        self.principals = {config.fallback: name for name, config in devices.items() if config.fallback}
        self._artifacts: list[Artifact] = []
        # What each device has loaded, by identity; one who opens, loads or unloads at a time.
        self._resident: dict[str, dict[int, Artifact]] = {name: {} for name in devices}
        self._changing = {name: asyncio.Lock() for name in devices}
        self._clock = clock
        self._calibration = calibration
        # Whether every artifact is on every device that it is meant for.
        self.complete = True
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def static_watts(self) -> float:
        """Give what all devices draw together without a request."""
        return sum(lane.static_watts for lane in self.lanes.values())

    def load_seconds(self, device: str, priority: int = DEFAULT_PRIORITY) -> float | None:
        """Tell the seconds of work at a device before a request of a priority, or None while it cannot be used.

        A fallback is used only while the device that names it cannot be.
        """
        lane = self.lanes[device]
        usable = lane.health.usable and not lane.shed
        return lane.load_seconds(priority) if usable and self._called_for(device) else None

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
        self._enter(artifacts)
        tried = [asyncio.Event() for _ in self.lanes]
        self._tasks = [
            asyncio.create_task(repeat(f"device {lane.name}", partial(self._keep_up, lane, event)))
            for lane, event in zip(self.lanes.values(), tried, strict=True)
        ]
        late = asyncio.get_running_loop().call_later(LATE_SECONDS, self._tell_late, tried)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                for event in tried:
                    await event.wait()
        late.cancel()
        self._tasks += [
            asyncio.create_task(repeat("device watch", self._watch, WATCH_SECONDS)),
            asyncio.create_task(repeat("device probe", self._probe, PROBE_SECONDS)),
        ]
        problems = any(model.problems for model in self.versions())
        self.complete = not problems and all(lane.health.usable for lane in self.lanes.values())

    def _tell_late(self, tried: list[asyncio.Event]) -> None:
        """Say which devices the start waits for, and for how long at most."""
        devices = [name for name, event in zip(self.lanes, tried, strict=True) if not event.is_set()]
        seconds = START_SECONDS - LATE_SECONDS
        log.info("the start waits for devices", devices=devices, at_most_seconds=seconds)
        self.waits(f"waiting for {', '.join(devices)}, at most {seconds:g} s more")

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
        async with self._changing[lane.name]:
            device = await lane.open()
            self._resident[lane.name] = {}
            await self._load_and_unload(lane, device)
            lane.opened()
            self._draw(lane, device)

    def _draw(self, lane: Lane, device: Device) -> None:
        """Take over what a device draws with what is loaded now."""
        lane.reopening = device.reopening()
        self.came_up(lane, self._calibration.static_watts(lane.name, device.static_watts()))

    async def put(self, name: str, artifacts: list[Artifact]) -> list[Artifact]:
        """Serve these artifacts as the model `name`, in place of those that it had; none takes it off the devices.

        Gives those that it had.

        What is queued on a device is still answered. What is there already stays loaded. A device that is not up loads
        and unloads when it comes up.
        """
        had = {(each.version, each.name, each.digest): each for each in self._artifacts if each.model == name}
        artifacts = [had.get((each.version, each.name, each.digest), each) for each in artifacts]
        before = self.models.pop(name, {})
        self._artifacts = [each for each in self._artifacts if each.model != name]
        self._enter(artifacts)
        for old in before.values():
            new = self.models.get(name, {}).get(old.version)
            kept = {each.digest for each in artifacts if new and each.version == new.version and _fits(each, new)}
            old.points[:] = [point for point in old.points if point.digest in kept]
            if new:
                new.points.extend(old.points)
        await asyncio.gather(*(self._change(lane) for lane in self.lanes.values() if lane.health.usable))
        self.complete = self.complete and not any(model.problems for model in self.versions())
        self.changed.set()
        return list(had.values())

    def _enter(self, artifacts: list[Artifact]) -> None:
        """Take artifacts among those that are to be loaded."""
        self._artifacts += artifacts
        for artifact in artifacts:
            versions = self.models.setdefault(artifact.model, {})
            model = versions.setdefault(artifact.version, Model(artifact.model, artifact.version, artifact.manifest))
            if not _fits(artifact, model):
                problem = f"{artifact.name}: its input or labels are not those of the other variants"
                model.refusals[artifact.name, ""] = problem

    async def _change(self, lane: Lane) -> None:
        """Load and unload on a device that serves; it is lost where it fails in that."""
        async with self._changing[lane.name]:
            device = lane.device
            if device is None or not lane.health.usable:
                return
            try:
                await self._load_and_unload(lane, device)
            except Exception as error:  # noqa: BLE001 (a driver may raise anything)
                lane.fail(unavailable(lane.name, error), self._clock())
                return
            if lane.powered:
                self._draw(lane, device)

    async def _load_and_unload(self, lane: Lane, device: Device) -> None:
        """Let a device have all that is meant for it, as far as it takes it, and nothing else.

        What is meant for it may change meanwhile, so each step looks anew.
        """
        resident, refused = self._resident[lane.name], dict[int, Artifact]()
        while True:
            wanted = {id(each): each for each in self._artifacts if self._meant_for(each, device)}
            surplus = next((each for key, each in resident.items() if key not in wanted), None)
            missing = next((each for key, each in wanted.items() if key not in {*resident, *refused}), None)
            if surplus is not None:
                del resident[id(surplus)]
                # Versions may share what they are made of.
                if surplus.digest not in {each.digest for each in resident.values()}:
                    await lane.call(partial(device.unload, surplus))
            elif missing is not None:
                loaded = await self._load(lane, device, missing)
                (resident if loaded else refused)[id(missing)] = missing
            else:
                return

    def _meant_for(self, artifact: Artifact, device: Device) -> bool:
        """Tell whether an artifact can serve its model on a device: it is of its kind and for no other drivers only."""
        manifest = artifact.manifest
        of_kind = manifest.kind is device.kind and (not manifest.drivers or device.driver in manifest.drivers)
        return of_kind and _fits(artifact, self.models[artifact.model][artifact.version])

    async def _load(self, lane: Lane, device: Device, artifact: Artifact) -> bool:
        """Load an artifact, or note why not. The points that it had before go on with its new program."""
        refused: ArtifactError | CapacityError | None = None
        points: list[Point] = []
        try:
            program = await lane.call(lambda: device.load(artifact))
            points = self._points(lane, points_of(artifact, device, program))
        except (ArtifactError, CapacityError) as error:
            refused = error
        for point in points:
            # The disk may keep it waiting.
            await asyncio.to_thread(self.register, point)
        if not any(each is artifact for each in self._artifacts):
            # It was put away meanwhile.
            return refused is None
        model = self.models[artifact.model][artifact.version]
        known = [point for point in model.points if (point.device, point.digest) == (lane.name, artifact.digest)]
        if refused is not None:
            model.points[:] = [point for point in model.points if point not in known]
            problem = f"{lane.name}: {refused}"
            if model.refusals.get((artifact.name, lane.name)) != problem:
                model.refusals[artifact.name, lane.name] = problem
                log.warning("artifact not loaded", artifact=artifact.name, device=lane.name, error=str(refused))
            return False
        model.refusals.pop((artifact.name, lane.name), None)
        for point in known:
            point.program = program
        if not known:
            ranks = {name: rank for rank, name in enumerate(self.lanes)}
            model.points[:] = sorted([*model.points, *points], key=lambda point: ranks[point.device])
        return True

    def _points(self, lane: Lane, points: list[Point]) -> list[Point]:
        """Let operating points be what they are on this device of this host."""
        self._calibration.apply(points, lane.config)
        for point in points:
            point.fallback_of = self.principals.get(lane.name, "")
        return points

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


def _fits(artifact: Artifact, model: Model) -> bool:
    """Tell whether a variant has the input and the labels of its model."""
    return (artifact.manifest.input, artifact.manifest.labels) == (model.manifest.input, model.manifest.labels)


def _take(lane: Lane, watts: float) -> None:
    """Take over what a device draws, while nobody keeps books."""
    lane.static_watts = watts


def _silent(words: str) -> None:
    """Nobody asks what the start waits for."""


def _nothing(point: Point) -> None:
    """Nobody keeps a journal."""
