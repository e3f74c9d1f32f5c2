"""What the tests of the daemon's core build on: a clock that they turn by hand, and operating points made up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from daemon.clock import NANO
from daemon.points import Point
from hal.device import Cost, Inference, Kind

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from numpy.typing import NDArray

T = TypeVar("T")


class ManualClock:
    """Nanoseconds that pass only when a test says so."""

    def __init__(self, now: int = 1000 * NANO) -> None:
        self.now = now

    def __call__(self) -> int:
        """Tell the time."""
        return self.now

    def advance(self, nanoseconds: int) -> None:
        """Let time pass."""
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


class Still:
    """A program that answers at once and costs what it says."""

    def cost(self, steps: int) -> Cost:
        """Give a cost that no test looks at."""
        return Cost(1e-6, 2e-6, 1e-3)

    def __call__(self, images: NDArray[np.generic], steps: int) -> Inference:
        """Answer two classes."""
        return Inference(np.zeros((len(images), 2), np.float32), steps, 1e-3, 1e-6 * len(images), 1e-7, 0.0)


def make_point(**changes: Any) -> Point:
    """Make an operating point, `changes` apart always the same."""
    given: dict[str, Any] = {
        "model": "toy", "version": "1", "variant": "snn", "kind": Kind.SNN, "digest": "d" * 64, "device": "chip",
        "simulated": True, "provenance": "simulated", "boundary": "accelerator", "steps": 4, "accuracy": 0.9,
        "dynamic_nanojoules": 100, "upper_nanojoules": 200, "seconds": 0.001, "program": Still(),
        "service_seconds": 0.001,
    }  # fmt: skip
    return Point(**{**given, **changes})
