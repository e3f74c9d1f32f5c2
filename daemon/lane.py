"""One device's lane: its queue and the one thread that runs its batches one after the other."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import numpy as np
import structlog

from daemon.clock import NANO, Clock
from daemon.config import DeviceConfig
from daemon.health import Health, HealthState, unavailable
from daemon.occupancy import Occupancy
from daemon.opening import open_configured
from daemon.tasks import CLOSE, Job, TaskQueue
from daemon.waiting import LAST_PRIORITY
from hal.device import Cost, Device, Inference, limit_seconds
from hal.errors import DeviceUnavailable, Reason
from hal.remote import RemoteDevice

# A device that has not closed by then is left to the end of the process.
CLOSE_SECONDS = 20.0
# The seconds of work queued, by priority.
NO_BACKLOGS = [0.0] * (LAST_PRIORITY + 1)

log = structlog.get_logger()
Outcome = Inference | DeviceUnavailable | None
T = TypeVar("T")


class Lane:
    """One device with its queue, its thread and its health. All methods are called on the event loop.

    `landed` is called there with the jobs of a batch that ended, and their common outcome, `gave_up` when the device is
    lost and what waits for it has to be taken back, `changed` when its health is another one, `maintained` with what
    else the device did: from when to when, and the model's nanojoules. `shed`: its joules are too uncertain to use it.
    """

    def __init__(self, name: str, config: DeviceConfig, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.config = config
        self.landed: Callable[[list[Job], Outcome], None]
        self.gave_up: Callable[[], None] = _nothing
        self.changed: Callable[[], None] = _nothing
        self.maintained: Callable[[int, int, int], None] = _ignore
        self.occupancy = Occupancy(clock)
        self.relative_uncertainty = 0.0
        self.shed = False
        self.device: Device | None = None
        self.health = Health(clock())
        # Set while the device is lost and nobody opens it anew.
        self.down = asyncio.Event()
        self.telemetry: dict[str, float] = {}
        self.powered = True
        self.static_watts = 0.0
        self.reopening: Cost | None = None
        self.queued = 0
        self.backlog_seconds = 0.0
        self._backlogs = NO_BACKLOGS.copy()
        self._clock = clock
        self._loop = loop
        # The device's thread notes here what it runs, and whether the device failed since it was opened.
        self._running: list[Job] | None = None
        self._broken = False
        # A batch that was given up while it ran; when it returns nobody waits for it.
        self._abandoned: list[Job] | None = None
        self._tasks = TaskQueue(clock)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        """Take from the queue until it is closed. What waits behind a failure is taken back by the event loop."""
        _yield_to_the_loop()
        while (task := self._tasks.take()) is not CLOSE:
            if not isinstance(task, Job):
                task()
            elif not self._broken:
                self._run(self._tasks.gather(task, self.device.batch_limit if self.device else 1))

    def _post(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the event loop call a function, from the device's thread; one that hung may outlive the loop."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def call(self, function: Callable[[], T], nanojoules: int = 0) -> asyncio.Future[T]:
        """Run a function on the device's thread, behind what is queued and before what is queued later.

        It is maintenance of the device, and costs `nanojoules` above static power as far as a model knows.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        def task() -> None:
            began = self.occupancy.begin()
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 (whatever it is, the caller gets it)
                tell = partial(future.set_exception, error)
            else:
                tell = partial(future.set_result, result)
            ended = self.occupancy.end(began, nanojoules)
            self._post(self._maintain, began, ended, nanojoules)
            self._post(_settle, future, tell)

        self._tasks.put(task)
        return future

    def _maintain(self, began: int, ended: int, nanojoules: int) -> None:
        self.occupancy.land()
        self.maintained(began, ended, nanojoules)

    async def open(self) -> Device:
        """Open the device, anew where it was open. Raises whatever its driver raises."""
        self.down.clear()
        return await self.call(self._open)

    def _open(self) -> Device:
        """Open the device on its thread."""
        old, self.device = self.device, None
        if old is not None:
            _close(old)
        device = self.device = open_configured(self.name, self.config, self._say)
        self._broken = False
        return device

    def switch(self, on: bool) -> asyncio.Future[None]:
        """Power the device down, or up again."""
        self.powered = False
        joules = self.reopening.dynamic_joules if on and self.reopening else 0.0
        done = self.call(partial(self._switch, on), round(joules * NANO))
        done.add_done_callback(partial(self._switched, on))
        return done

    def _switch(self, on: bool) -> None:
        """Power the device on its thread."""
        try:
            if self.device is None:
                raise DeviceUnavailable(self.name, Reason.LOST, "it is not open")
            self.device.power(on)
        except Exception:
            self._broken = True
            raise

    def _switched(self, on: bool, done: asyncio.Future[None]) -> None:
        self.powered = on and done.exception() is None
        self.changed()

    def _say(self, line: str) -> None:
        log.info("worker says", device=self.name, line=line)

    def opened(self) -> None:
        """Note that the device is open and loaded."""
        self.powered = True
        self.health.opened(self._clock())
        log.info("device up", device=self.name, health=self.health.state.value)
        self.changed()

    def fail(self, failure: DeviceUnavailable, at: int) -> None:
        """Note that the device failed: it is lost until it was opened anew, and what waits for it is taken back."""
        was_usable = self.health.usable
        if self.health.failed(failure, at):
            note = log.error if was_usable else log.warning
            event = "device lost" if was_usable else "device unavailable"
            note(event, device=self.name, reason=failure.reason.value, detail=failure.detail)
        self.telemetry = {}
        self.down.set()
        self.gave_up()
        self.changed()

    def watch(self) -> None:
        """Notice a run that takes too long, and a worker that died at rest."""
        running, device, now = self._running, self.device, self._clock()
        if device is None or not self.health.usable:
            return
        if isinstance(device, RemoteDevice):
            # It keeps the time limit itself.
            if self.queued == 0 and not device.alive():
                self.fail(DeviceUnavailable(self.name, Reason.LOST, "its worker died at rest"), now)
        elif running is not None and now - running[0].started > self._limit_nanoseconds(device, running):
            self._abandoned = running
            self.occupancy.give_up(running[0].started, _bound_nanojoules(running))
            self._land(running, DeviceUnavailable(self.name, Reason.HUNG, "a run does not end"), now)

    def _limit_nanoseconds(self, device: Device, jobs: list[Job]) -> float:
        images = sum(len(job.images) for job in jobs)
        each = jobs[0].point.service_seconds
        return limit_seconds(self.config.time_limit_seconds, device.batch_limit, images, each) * NANO

    async def probe(self) -> None:
        """Ask a device that has nothing to do for its telemetry: one that does not answer is lost."""
        device = self.device
        if device is None or self.queued or not (self.health.usable and self.powered):
            return
        try:
            self._note(await self.call(device.telemetry))
        except Exception as error:  # noqa: BLE001 (a driver may raise anything)
            if self.device is device and self.health.usable:
                self.fail(unavailable(self.name, error), self._clock())

    def _note(self, telemetry: dict[str, float]) -> None:
        """Keep what the device tells of itself; that it throttles, or no longer does, is an event."""
        throttled, self.telemetry = self._throttles, telemetry
        if self._throttles != throttled:
            log.warning("device throttles" if self._throttles else "device no longer throttles", device=self.name)
            self.changed()

    @property
    def _throttles(self) -> bool:
        return bool(self.telemetry.get("throttling"))

    def wait_for_batches(self, seconds: float) -> None:
        """Let the device wait so long for a fuller batch, while requests come several at a time."""
        self._tasks.batch_delay_seconds = seconds

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self.queued += 1
        self.backlog_seconds += job.expected_seconds
        self._backlogs[job.priority] += job.expected_seconds
        self._tasks.put(job)

    def _run(self, waiting: list[Job]) -> None:
        """Run those jobs of a batch that nobody called off, on the device's thread."""
        now = self._clock()
        jobs = [job for job in waiting if job.claim()]
        timely = [job for job in jobs if now < job.deadline]
        late = [job for job in jobs if now >= job.deadline]
        if late:
            self._post(self._finish, late, None, now)
        if not timely:
            return
        images, started = 0, self.occupancy.begin()
        batch = timely[0].images if len(timely) == 1 else np.concatenate([job.images for job in timely])
        for job in timely:
            job.started, job.first, job.batch = started, images, len(batch)
            images += len(job.images)
        point = timely[0].point
        self._running = timely
        try:
            inference = point.program(batch, point.steps, point.margin)
        except Exception as error:  # noqa: BLE001 (a driver may raise anything, the thread must live)
            outcome: Outcome = unavailable(self.name, error)
            self._broken, nanojoules = True, _bound_nanojoules(timely)
        else:
            outcome, nanojoules = inference, round(inference.dynamic_joules * NANO)
        self._running = None
        ended = self.occupancy.end(started, nanojoules)
        self._post(self._finish, timely, outcome, ended)

    def _finish(self, jobs: list[Job], outcome: Outcome, ended: int) -> None:
        if jobs is self._abandoned:
            self._abandoned = None
            return
        if outcome is not None:
            self.occupancy.land()
        if isinstance(outcome, Inference):
            self.relative_uncertainty = outcome.uncertainty_joules / max(outcome.dynamic_joules, 1 / NANO)
            if self.health.failure is not None and self.health.answered(ended):
                self.changed()
            jobs[0].point.observe((ended - jobs[0].started) / NANO / len(outcome.scores))
        self._land(jobs, outcome, ended)

    def _land(self, jobs: list[Job], outcome: Outcome, ended: int) -> None:
        if isinstance(outcome, DeviceUnavailable):
            self.fail(outcome, ended)
        for job in jobs:
            job.ended = ended
            self._leave(job)
        self.landed(jobs, outcome)

    def call_off(self, job: Job) -> bool:
        """Take a job out of the queue, or tell that it already runs."""
        if not job.claim():
            return False
        self._leave(job)
        return True

    def _leave(self, job: Job) -> None:
        self.queued -= 1
        self.backlog_seconds -= job.expected_seconds
        self._backlogs[job.priority] -= job.expected_seconds
        if not self.queued:
            self.backlog_seconds, self._backlogs = 0.0, NO_BACKLOGS.copy()

    def load_seconds(self, priority: int) -> float:
        """Tell how long the device will be busy with what it runs, and with what is queued but of a lower priority."""
        later = sum(self._backlogs[priority + 1 :])
        if not later:
            return self.backlog_seconds
        running = sum(job.expected_seconds for job in self._running or () if job.priority > priority)
        return max(self.backlog_seconds - later + running, 0.0)

    @property
    def state(self) -> HealthState:
        """Tell the device's health, that it is powered down, or that it throttles."""
        if not self.health.usable:
            return self.health.state
        if not self.powered:
            return HealthState.OFF
        return HealthState.DEGRADED if self._throttles else self.health.state

    @property
    def lost(self) -> bool:
        """Tell whether the device cannot serve now."""
        return not self.health.usable

    async def close(self) -> None:
        """Finish what is queued and let go of the device."""
        if self.device is not None:
            self._tasks.put(partial(_close, self.device))
        self._tasks.put(CLOSE)
        await asyncio.to_thread(self._thread.join, 0.0 if self._abandoned else CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning("device does not close", device=self.name)


def _yield_to_the_loop() -> None:
    """Let this thread, when it is woken, wait for a processor that is free rather than interrupt the event loop.

    So the loop submits all that arrived together before the thread looks, and it runs as one batch. The thread's share
    of the processors stays the same. See sched(7); a sandbox may forbid it.
    """
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _settle(future: asyncio.Future[T], end: Callable[[], None]) -> None:
    """End a future, unless nobody waits for it any more."""
    if not future.done():
        end()


def _close(device: Device) -> None:
    """Let go of a device, whatever it says to that."""
    with suppress(Exception):
        device.close()


def _nothing() -> None:
    """Nobody listens yet."""


def _bound_nanojoules(jobs: list[Job]) -> int:
    """Give what a batch that failed may have cost, of which nothing more is known."""
    return sum(job.reservation.nanojoules for job in jobs)


def _ignore(began: int, ended: int, nanojoules: int) -> None:
    """Nobody keeps books yet."""
