"""Virtual time: the daemon's own event loop and device threads, run one at a time and always in the same order.

A device's thread runs only while the event loop has nothing to do, and hands over where it waits for its queue or
sleeps. When nobody can go on, time jumps to the next timer or the end of the next sleep. So a run depends on nothing
but what it is given, and a second of the daemon's life takes a few milliseconds.
"""

from __future__ import annotations

import asyncio
import queue
import selectors
import threading
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from daemon import tasks
from daemon.clock import NANO
from tests.daemon.builders import ManualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

    import pytest

    from daemon.tasks import Task

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
# A thread that does not hand over by then, by the real clock, hangs.
PATIENCE_SECONDS = 60.0
# How often it is looked whether a thread has ended instead of handing over.
LOOK_SECONDS = 0.01


@dataclass(eq=False)
class _Waiter:
    """A thread that has handed over: what it waits for, and when it wakes where it sleeps."""

    thread: threading.Thread
    ready: Callable[[], bool]
    wakes: int | None = None
    go: threading.Event = field(default_factory=threading.Event)


class VirtualTime(ManualClock):
    """The clock, and the threads that keep to it."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._running = 0
        self._waiting: list[_Waiter] = []

    @property
    def sleeping(self) -> bool:
        """Tell whether a thread sleeps: whether a device is busy."""
        return any(waiter.wakes is not None for waiter in self._waiting)

    def sleep(self, nanoseconds: int) -> None:
        """Let time pass, in a thread whose queue is one of these."""
        wakes = self.now + nanoseconds
        self.hand_over(lambda: self.now >= wakes, wakes)

    def hand_over(self, ready: Callable[[], bool], wakes: int | None = None) -> None:
        """Let others run until something is true."""
        waiter = _Waiter(threading.current_thread(), ready, wakes)
        with self._changed:
            self._waiting.append(waiter)
            self._running -= 1
            self._changed.notify()
        assert waiter.go.wait(PATIENCE_SECONDS)

    def entered(self) -> None:
        """Count a thread that is about to run."""
        with self._changed:
            self._running += 1

    def run_threads(self) -> bool:
        """Let every thread that can go on do so, one after the other; tell whether any did."""
        ran: threading.Thread | None = None
        with self._changed:
            while True:
                while self._running and (ran is None or ran.is_alive()):
                    self._changed.wait(LOOK_SECONDS)
                self._running = 0
                able = [waiter for waiter in self._waiting if waiter.ready()]
                if not able:
                    return ran is not None
                first = min(able, key=lambda waiter: (waiter.wakes or 0, waiter.thread.name))
                self._waiting.remove(first)
                self._running, ran = 1, first.thread
                first.go.set()

    def jump(self, seconds: float | None) -> bool:
        """Go on to the end of the next sleep, or past so many seconds where that is sooner; False where neither is."""
        moments = [waiter.wakes for waiter in self._waiting if waiter.wakes is not None]
        if seconds is not None:
            moments.append(self.now + round(seconds * NANO) + 1)
        self.now = max(min(moments, default=self.now), self.now)
        return bool(moments)


class Arrived:
    """A device's queue, in the place of `queue.SimpleQueue`."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._tasks: deque[Task] = deque()
        time.entered()

    def put(self, task: Task) -> None:
        """Add a task."""
        self._tasks.append(task)

    def qsize(self) -> int:
        """Count the tasks."""
        return len(self._tasks)

    def get(self, timeout: float | None = None) -> Task:
        """Wait for a task and take it. Raises `queue.Empty` when so many seconds have passed."""
        wakes = None if timeout is None else self._time() + round(timeout * NANO)
        self._time.hand_over(lambda: bool(self._tasks) or (wakes is not None and self._time() >= wakes), wakes)
        return self.get_nowait()

    def get_nowait(self) -> Task:
        """Take a task. Raises `queue.Empty` where there is none."""
        if not self._tasks:
            raise queue.Empty
        return self._tasks.popleft()


class _Selector(selectors.DefaultSelector):
    """Lets threads run, then time pass, where an event loop would wait."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time
        # What runs on threads that do not keep to virtual time, such as the reading of a meter: time waits for it.
        self.beside = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Give what has happened."""
        ran = self._time.run_threads()
        events = super().select(0)
        if events or ran or (timeout is not None and timeout <= 0):
            return events
        if not self.beside and self._time.jump(timeout):
            return events
        events = super().select(PATIENCE_SECONDS)
        assert events, "nothing happens any more"
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, time: VirtualTime) -> None:
        self._virtual, self._virtual_selector = time, _Selector(time)
        super().__init__(self._virtual_selector)

    def time(self) -> float:
        return self._virtual() / NANO

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 (asyncio's name)
        """Join the threads, however long it takes: the timeout that came with Python 3.12 is over at once here."""
        await super().shutdown_default_executor()

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._virtual_selector.beside += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _future: asyncio.Future[Any]) -> None:
        self._virtual_selector.beside -= 1


def play(time: VirtualTime, coroutine: Coroutine[Any, Any, T], patch: pytest.MonkeyPatch) -> T:
    """Run a coroutine to its end in virtual time, with all devices that it opens."""
    patch.setattr(tasks, "queue", SimpleNamespace(SimpleQueue=lambda: Arrived(time), Empty=queue.Empty))
    with asyncio.Runner(loop_factory=lambda: _Loop(time)) as runner:
        return runner.run(coroutine)
