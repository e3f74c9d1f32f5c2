"""What the tests of the daemon's core build on: a clock that they turn by hand, and operating points made up."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest

from daemon import lane as lane_module
from daemon.clock import NANO
from daemon.config import DeviceConfig, MetersConfig, PolicyConfig
from daemon.dispatcher import Dispatcher
from daemon.fleet import Fleet
from daemon.flight import Answer
from daemon.journal import Journal, Record
from daemon.journal_schema import MAINTENANCE
from daemon.metering import Metering, open_metering
from daemon.points import Model, Point
from daemon.router import Constraints
from hal.artifact import Artifact, Manifest, OperatingPoint, Origin, TensorSpec
from hal.device import Boundary, Cost, Inference, Kind, Provenance
from hal.errors import DeviceUnavailable, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from numpy.typing import NDArray

T = TypeVar("T")
# A bench is let run when the test likes it.
PATIENT = DeviceConfig("loihi-sim", time_limit_seconds=600.0)
# A host without a meter: each device is modelled.
NO_METERS = MetersConfig(sysfs="/nonexistent")


class ManualClock:
    """Nanoseconds that pass only when a test says so."""

    def __init__(self, now: int = 1000 * NANO) -> None:
        self.now = now
        self._turning = threading.Lock()

    def __call__(self) -> int:
        """Tell the time."""
        return self.now

    def advance(self, nanoseconds: int) -> None:
        """Let time pass; from any thread."""
        with self._turning:
            self.now += nanoseconds


class ManualLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers follow a manual clock. Threads reach it as they reach any other."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._manual = clock

    def time(self) -> float:
        """Tell the clock's seconds."""
        return self._manual() / NANO


def drive(clock: ManualClock, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a loop that follows the clock."""
    with asyncio.Runner(loop_factory=lambda: ManualLoop(clock)) as runner:
        return runner.run(coroutine)


def make_point(**changes: Any) -> Point:
    """Make an operating point, `changes` apart always the same."""
    given: dict[str, Any] = {
        "model": "toy", "version": "1", "variant": "snn", "kind": Kind.SNN, "digest": "d" * 64, "device": "chip",
        "simulated": True, "provenance": "simulated", "boundary": "accelerator", "steps": 4, "margin": 0,
        "accuracy": 0.9, "dynamic_nanojoules": 100, "upper_nanojoules": 200, "seconds": 0.001, "program": Bench(),
        "service_seconds": 0.001,
    }  # fmt: skip
    return Point(**{**given, **changes})


class Bench:
    """A device for tests: it runs when it is let, takes as long as it is told, and fails on demand.

    Each image costs 100 nanojoules, 200 at most.
    """

    driver = "bench"
    simulated = True
    provenance = Provenance.SIMULATED
    boundary = Boundary.ACCELERATOR
    kind = Kind.SNN

    def __init__(
        self, name: str = "chip", *, batch_limit: int = 1, static_watts: float = 0.0, reopening: Cost | None = None
    ) -> None:
        self.name = name
        self.batch_limit = batch_limit
        self.gate = threading.Event()
        self.gate.set()
        self.loadable = threading.Event()
        self.loadable.set()
        self.entered = threading.Event()
        self.failures: list[Exception] = []
        self.during: Callable[[], None] = _nothing
        self.batches: list[int] = []
        self.closed = 0
        self.on = True
        self._static_watts = static_watts
        self._reopening = reopening

    def load(self, artifact: Artifact) -> Bench:
        """Give itself, once it may: it is its own program."""
        assert self.loadable.wait(30)
        return self

    def unload(self, artifact: Artifact) -> None:
        """Nothing to give back."""

    def static_watts(self) -> float:
        """Tell what it was told, while it is on."""
        return self._static_watts if self.on else 0.0

    def reopening(self) -> Cost | None:
        """Tell what it was told."""
        return self._reopening

    def power(self, on: bool) -> None:
        """Wait for the gate, then follow, or fail as a run does."""
        assert self.gate.wait(30)
        if self.failures:
            raise self.failures.pop(0)
        self.on = on

    def telemetry(self) -> dict[str, float]:
        """Nothing to tell."""
        return {}

    def close(self) -> None:
        """Count how often it was closed."""
        self.closed += 1

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Give the cost of one image."""
        return Cost(100e-9, 200e-9, 1e-3)

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Wait for the gate, then answer each image with its first value in the place of both scores."""
        self.entered.set()
        assert self.gate.wait(30)
        self.batches.append(len(images))
        self.during()
        if not self.on:
            raise DeviceUnavailable(self.name, Reason.LOST, "it is powered down")
        if self.failures:
            raise self.failures.pop(0)
        scores = np.repeat(images.reshape(len(images), -1)[:, :1], 2, axis=1).astype(np.float32)
        return Inference(scores, steps, 1e-3 * len(images), 100e-9 * len(images), 10e-9 * len(images), 0.0)


def _nothing() -> None:
    pass


def make_artifact(version: str = "1", **changes: Any) -> Artifact:
    """Make an artifact in memory, of a spiking network of 1 x 2 pixels that nothing can run but a bench."""
    given: dict[str, Any] = {
        "format": 1, "kind": Kind.SNN, "input": TensorSpec("image", "uint8", (1, 2)), "output": "scores",
        "labels": ("no", "yes"), "operating_points": (OperatingPoint(0.9, steps=4),),
        "origin": Origin("none", "none", "invented", "none"), "tool": "test", "files": {},
    }  # fmt: skip
    manifest = Manifest(**{**given, **changes})
    digest = hashlib.sha256(repr(manifest).encode()).hexdigest()
    return Artifact("toy", version, manifest.kind.value, digest, manifest, {})


@dataclass
class Host:
    """A dispatcher on benches, with a journal, all by the same clock."""

    clock: ManualClock
    journal: Journal
    fleet: Fleet
    metering: Metering
    dispatcher: Dispatcher
    # The records of the requests that have ended, as the dispatcher's listeners are told.
    ended: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dispatcher.listeners.append(self.ended.append)

    @property
    def model(self) -> Model:
        """Give the one model."""
        return self.fleet.models["toy"]["1"]

    @property
    def points(self) -> list[Point]:
        """Give the operating points of the one model."""
        return self.model.points

    def ask(self, images: int = 1, *, seconds: float = 1.0, value: int = 0, **wanted: Any) -> asyncio.Task[Answer]:
        """Send a request."""
        constraints = Constraints(self.clock() + round(seconds * NANO), images, **wanted)
        pixels = np.full((images, 1, 2), value, np.uint8)
        return asyncio.ensure_future(self.dispatcher.classify(self.model, pixels, constraints))

    def rows(self) -> list[tuple[str, int]]:
        """Give status and dynamic nanojoules of every request so far, as the store has them."""
        self.journal.move()
        found = self.journal.store._database.execute("SELECT status, dynamic_nanojoules FROM requests ORDER BY id")
        return found.fetchall()

    def attempts(self) -> list[tuple[int, int, int]]:
        """Give request, number and dynamic nanojoules of every attempt that failed, as the store has them."""
        self.journal.move()
        found = self.journal.store._database.execute("SELECT request, number, dynamic_nanojoules FROM attempts")
        return found.fetchall()

    def until_done(self, device: str = "chip") -> None:
        """Hold the event loop until the device has done all that it was given."""
        done = threading.Event()
        self.fleet.lanes[device]._tasks.put(done.set)
        assert done.wait(30)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a change of a device's health makes something true."""
        while not condition():
            self.fleet.changed.clear()
            await self.fleet.changed.wait()

    def at_rest(self) -> bool:
        """Tell whether nothing is queued, reserved or waiting, and each end was told once, as the journal has it."""
        dispatcher, lanes = self.dispatcher, self.fleet.lanes.values()
        held = dispatcher.budget.reserved_nanojoules or dispatcher._flying or dispatcher._waiting
        told = [record.status for record in sorted(self.ended)]
        recorded = [status for status, _ in self.rows() if status != MAINTENANCE]
        idle = all(lane.queued == 0 and lane.backlog_seconds == 0.0 for lane in lanes)
        return not held and idle and told == recorded


@asynccontextmanager
async def hosting(
    folder: Path,
    clock: ManualClock,
    policies: dict[str, PolicyConfig],
    *benches: Bench,
    devices: dict[str, DeviceConfig] | None = None,
    meters: MetersConfig | None = None,
    artifact: Artifact | None = None,
    readings: int = 0,
) -> AsyncIterator[Host]:
    """Start a host with these devices; its first policy is in force. A bench is opened again by whoever opens it.

    Its meters are read when a test says so, or so many times, a tenth of a second apart, while devices are opened.
    """
    by_name = {bench.name: bench for bench in benches}
    journal = Journal(folder, "boot", clock, clock)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lane_module, "open_configured", lambda name, _config, _say: by_name[name])
            fleet = Fleet(devices or dict.fromkeys(by_name, PATIENT), clock)
            fleet.register = journal.register
            metering = await open_metering(meters or NO_METERS, fleet.lanes, journal, clock)
            await fleet.start([artifact or make_artifact()])
            for _ in range(readings):
                clock.advance(NANO // 10)
                await metering.sample()
            try:
                dispatcher = Dispatcher(fleet, journal, metering, policies, next(iter(policies)), clock, clock)
                yield Host(clock, journal, fleet, metering, dispatcher)
            finally:
                for bench in benches:
                    bench.gate.set()
                    bench.loadable.set()
                await fleet.close()
                await metering.close()
    finally:
        journal.close()


async def turns(count: int = 10) -> None:
    """Let the event loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def entered(bench: Bench) -> None:
    """Wait until a device has begun to run something."""
    assert await asyncio.to_thread(bench.entered.wait, 30)
    bench.entered.clear()
