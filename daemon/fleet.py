"""The devices: each has a queue and one thread that runs its batches one after the other."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import structlog

from daemon.budget import Reservation
from daemon.clock import NANO, Clock
from daemon.config import DeviceConfig
from daemon.errors import NotFound
from daemon.points import Model, Point, points_of
from hal.artifact import Artifact
from hal.device import Device, Inference
from hal.errors import DeviceUnavailable, HalError, Reason
from hal.open import open_device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# How long a device that failed is left alone before it is tried again.
REST_NANOSECONDS = 5 * NANO

log = structlog.get_logger()
Outcome = Inference | DeviceUnavailable | None
T = TypeVar("T")


@dataclass(eq=False)
class Job:
    """A batch on its way through a device's queue. `done` is called on the event loop, exactly once.

    Its outcome is an inference, the device's failure, or None when the deadline passed in the queue. Times are the
    clock's nanoseconds. Whoever claims a job first decides its fate: the device's thread or who calls it off.
    """

    point: Point
    images: NDArray[np.generic]
    deadline: int
    reservation: Reservation
    done: Callable[[Job, Outcome], None]
    expected_seconds: float
    started: int = 0
    ended: int = 0
    _claim: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """Take the job; only the first who asks gets it."""
        return self._claim.acquire(blocking=False)


class Lane:
    """One device with its queue, its thread and its health. All methods are called on the event loop."""

    def __init__(self, name: str, config: DeviceConfig, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.config = config
        self.device: Device | None = None
        self.failure: HalError | None = None
        self.static_watts = 0.0
        self.queued = 0
        self.backlog_seconds = 0.0
        self._clock = clock
        self._loop = loop
        self._rests_until = 0
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the device's thread, behind what is queued."""
        future: asyncio.Future[T] = self._loop.create_future()

        def task() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 (whatever it is, the caller gets it)
                self._loop.call_soon_threadsafe(future.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(future.set_result, result)

        self._tasks.put(task)
        return await future

    async def open(self) -> None:
        """Open the device; a failure is kept and told, and keeps no other device from serving."""
        options = self.config
        try:
            self.device = await self.call(
                lambda: open_device(
                    options.driver, self.name, threads=options.threads, core_watts=options.core_watts,
                    time_limit_seconds=options.time_limit_seconds,
                )
            )  # fmt: skip
        except HalError as error:
            self.failure = error
            log.warning("device unavailable", device=self.name, error=str(error))

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.queued += 1
        self.backlog_seconds += job.expected_seconds
        self._tasks.put(lambda: self._run(job))

    def _run(self, job: Job) -> None:
        """Run a job on the device's thread."""
        if not job.claim():
            return
        job.started = self._clock()
        outcome: Outcome = None
        if job.started < job.deadline:
            try:
                outcome = job.point.program(job.images, job.point.steps)
            except DeviceUnavailable as error:
                outcome = error
            except Exception as error:  # noqa: BLE001 (a driver may raise anything, the thread must live)
                outcome = DeviceUnavailable(self.name, Reason.FAILED, f"{type(error).__name__}: {error}")
        job.ended = self._clock()
        self._loop.call_soon_threadsafe(self._finish, job, outcome)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        self._leave(job)
        if isinstance(outcome, Inference):
            self.failure = None
            job.point.observe((job.ended - job.started) / NANO / len(job.images))
        elif outcome is not None:
            self.failure = outcome
            self._rests_until = job.ended + REST_NANOSECONDS
            log.error("device failed", device=self.name, reason=outcome.reason.value, detail=outcome.detail)
        job.done(job, outcome)

    def call_off(self, job: Job) -> bool:
        """Take a job out of the queue, or tell that it already runs."""
        if not job.claim():
            return False
        self._leave(job)
        return True

    def _leave(self, job: Job) -> None:
        self.queued -= 1
        self.backlog_seconds = self.backlog_seconds - job.expected_seconds if self.queued else 0.0

    @property
    def lost(self) -> bool:
        """Tell whether the device cannot serve now; one that failed is tried again after a rest."""
        return self.device is None or (self.failure is not None and self._clock() < self._rests_until)

    async def close(self) -> None:
        """Finish what is queued and let go of the device."""
        if self.device is not None:
            await self.call(self.device.close)
        self._tasks.put(None)
        await asyncio.to_thread(self._thread.join)


class Fleet:
    """All devices of the host, and the models that they serve by name and version."""

    def __init__(self, devices: dict[str, DeviceConfig], clock: Clock) -> None:
        loop = asyncio.get_running_loop()
        self.lanes = {name: Lane(name, config, clock, loop) for name, config in devices.items()}
        self.models: dict[str, dict[str, Model]] = {}

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

    async def _load(self, lane: Lane, artifact: Artifact) -> None:
        device, model = lane.device, self.models[artifact.model][artifact.version]
        if device is None or artifact.manifest.kind is not device.kind:
            return
        if (artifact.manifest.input, artifact.manifest.labels) != (model.manifest.input, model.manifest.labels):
            return
        try:
            program = await lane.call(lambda: device.load(artifact))
        except HalError as error:
            model.problems.append(f"{lane.name}: {error}")
            log.warning("artifact not loaded", artifact=artifact.name, device=lane.name, error=str(error))
            return
        model.points.extend(points_of(artifact, device, program))
        lane.static_watts = device.static_watts()

    async def close(self) -> None:
        """Close every device."""
        await asyncio.gather(*(lane.close() for lane in self.lanes.values()))
