"""One device's lane: its queue and the one thread that runs its batches one after the other."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import structlog

from daemon.budget import Reservation
from daemon.clock import NANO, Clock
from daemon.config import DeviceConfig
from daemon.points import Point
from hal.device import Cost, Device, Inference
from hal.errors import DeviceUnavailable, HalError, Reason
from hal.open import open_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How long a device that failed is left alone before it is tried again.
REST_NANOSECONDS = 5 * NANO

log = structlog.get_logger()
# What ends a device's thread.
CLOSE = None
Outcome = Inference | DeviceUnavailable | None
T = TypeVar("T")


@dataclass(eq=False)
class Job:
    """A batch of images on its way through a device's queue.

    Its outcome is an inference, the device's failure, or None when the deadline passed in the queue. The inference may
    be of a larger batch, of which this job's images begin at `first`. Times are the clock's nanoseconds. Whoever claims
    a job first decides its fate: the device's thread or who calls it off.
    """

    point: Point
    images: NDArray[np.generic]
    deadline: int
    reservation: Reservation
    expected_seconds: float
    first: int = 0
    started: int = 0
    ended: int = 0
    _claim: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """Take the job; only the first who asks gets it."""
        return self._claim.acquire(blocking=False)


Task = Job | Callable[[], None] | None


class Lane:
    """One device with its queue, its thread and its health. All methods are called on the event loop.

    `landed` is called there with the jobs of a batch that ended, and their common outcome.
    """

    def __init__(self, name: str, config: DeviceConfig, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.config = config
        self.landed: Callable[[list[Job], Outcome], None]
        self.device: Device | None = None
        self.failure: HalError | None = None
        self.static_watts = 0.0
        self.reopening: Cost | None = None
        self.queued = 0
        self.backlog_seconds = 0.0
        self._clock = clock
        self._loop = loop
        self._rests_until = 0
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._held: list[Task] = []
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        """Take from the queue until it is closed."""
        _yield_to_the_loop()
        while (task := self._held.pop() if self._held else self._tasks.get()) is not CLOSE:
            if isinstance(task, Job):
                self._run(self._gather(task))
            else:
                task()

    def _gather(self, job: Job) -> list[Job]:
        """Add to a job those of the same point that wait behind it, as many as the device takes at once."""
        batch, images = [job], len(job.images)
        limit = self.device.batch_limit if self.device else 1
        while images < limit and not self._tasks.empty():
            task = self._tasks.get()
            if not isinstance(task, Job) or task.point is not job.point or images + len(task.images) > limit:
                self._held.append(task)
                break
            batch.append(task)
            images += len(task.images)
        return batch

    def call(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Run a function on the device's thread, behind what is queued and before what is queued later."""
        future: asyncio.Future[T] = self._loop.create_future()

        def task() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 (whatever it is, the caller gets it)
                self._loop.call_soon_threadsafe(future.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(future.set_result, result)

        self._tasks.put(task)
        return future

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
        self._tasks.put(job)

    def _run(self, waiting: list[Job]) -> None:
        """Run those jobs of a batch that nobody called off, on the device's thread."""
        now = self._clock()
        jobs = [job for job in waiting if job.claim()]
        timely = [job for job in jobs if now < job.deadline]
        late = [job for job in jobs if now >= job.deadline]
        if late:
            self._loop.call_soon_threadsafe(self._finish, late, None, now)
        if not timely:
            return
        images = 0
        for job in timely:
            job.started, job.first = now, images
            images += len(job.images)
        point = timely[0].point
        batch = timely[0].images if len(timely) == 1 else np.concatenate([job.images for job in timely])
        try:
            outcome: Outcome = point.program(batch, point.steps, point.margin)
        except Exception as error:  # noqa: BLE001 (a driver may raise anything, the thread must live)
            outcome = unavailable(self.name, error)
        self._loop.call_soon_threadsafe(self._finish, timely, outcome, self._clock())

    def _finish(self, jobs: list[Job], outcome: Outcome, ended: int) -> None:
        if isinstance(outcome, Inference):
            self.failure = None
            jobs[0].point.observe((ended - jobs[0].started) / NANO / len(outcome.scores))
        elif outcome is not None:
            self.fail(outcome, ended)
        for job in jobs:
            job.ended = ended
            self._leave(job)
        self.landed(jobs, outcome)

    def fail(self, failure: DeviceUnavailable, at: int) -> None:
        """Leave the device alone for a while, since it failed."""
        self.failure = failure
        self._rests_until = at + REST_NANOSECONDS
        log.error("device failed", device=self.name, reason=failure.reason.value, detail=failure.detail)

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
        self._tasks.put(CLOSE)
        await asyncio.to_thread(self._thread.join)


def _yield_to_the_loop() -> None:
    """Let this thread, when it is woken, wait for a processor that is free rather than interrupt the event loop.

    So the loop submits all that arrived together before the thread looks, and it runs as one batch. The thread's share
    of the processors stays the same. See sched(7); a sandbox may forbid it.
    """
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def unavailable(device: str, error: BaseException) -> DeviceUnavailable:
    """Turn whatever a driver raised into the device's failure."""
    if isinstance(error, DeviceUnavailable):
        return error
    return DeviceUnavailable(device, Reason.FAILED, f"{type(error).__name__}: {error}")
