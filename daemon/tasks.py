"""What waits for a device: jobs, and in between what else it has to do; and which jobs of them make a batch."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from daemon.budget import Reservation
from daemon.clock import NANO, Clock
from daemon.points import Point
from daemon.waiting import DEFAULT_PRIORITY, LAST_PRIORITY

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A batch passes no more tasks than these, however long the queue is.
PASSED_LIMIT = 64
# What ends a device's thread.
CLOSE = None


@dataclass(eq=False)
class Job:
    """A batch of images on its way through a device's queue.

    Its outcome is an inference, the device's failure, or None when the deadline passed in the queue. The inference may
    be of a larger batch of `batch` images, of which this job's begin at `first`. Times are the clock's nanoseconds.
    Whoever claims a job first decides its fate: the device's thread or who calls it off.
    """

    point: Point
    images: NDArray[np.generic]
    deadline: int
    reservation: Reservation
    expected_seconds: float
    priority: int = DEFAULT_PRIORITY
    first: int = 0
    batch: int = 0
    started: int = 0
    ended: int = 0
    _claim: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """Take the job; only the first who asks gets it."""
        return self._claim.acquire(blocking=False)


Task = Job | Callable[[], None] | None


class TaskQueue:
    """Jobs by priority, then as they came, and what else is to be done between those before it and those behind it.

    Anyone puts tasks in; the device's thread takes them out. `batch_delay_seconds` is how long the policy in force lets
    the device wait for a fuller batch.
    """

    def __init__(self, clock: Clock) -> None:
        self.batch_delay_seconds = 0.0
        self._clock = clock
        self._arrived: queue.SimpleQueue[Task] = queue.SimpleQueue()
        # What the device's thread has seen arrive.
        self._line: deque[Task] = deque()
        self._gathered = 1

    def put(self, task: Task) -> None:
        """Let a task wait behind all others, a job before those of a lower priority."""
        self._arrived.put(task)

    def take(self) -> Task:
        """Take the first task, as soon as there is one."""
        if not self._line:
            self._enter(self._arrived.get())
        for _ in range(self._arrived.qsize()):
            self._enter(self._arrived.get_nowait())
        return self._line.popleft()

    def _enter(self, task: Task) -> None:
        """Let what has arrived go to its place in line."""
        line, place = self._line, len(self._line)
        if isinstance(task, Job):
            while place and isinstance(before := line[place - 1], Job) and before.priority > task.priority:
                place -= 1
        line.insert(place, task)

    def gather(self, job: Job, limit: int) -> list[Job]:
        """Add to a job those of its point that wait, up to `limit` images.

        They pass jobs of other points that have no higher priority, but nothing that is not a job, and none joins that
        would make another late. Where the last batch was of several jobs, more are likely to come: the device waits for
        them as long as the policy and the deadlines allow.
        """
        batch, images, deadline, now = [job], len(job.images), job.deadline, self._clock()
        each = round(job.expected_seconds / images * NANO)
        patience = self.batch_delay_seconds if self._gathered > 1 else 0.0
        until = min(now + round(patience * NANO), deadline - each * limit)
        line, passed, lowest = self._line, 0, LAST_PRIORITY
        while images < limit and passed < PASSED_LIMIT:
            if passed == len(line):
                try:
                    self._enter(self._next(until))
                except queue.Empty:
                    break
            task = line[passed]
            if not isinstance(task, Job) or task.priority > lowest:
                break
            more, earliest = images + len(task.images), min(deadline, task.deadline)
            if task.point is job.point and more <= limit and now + more * each <= earliest:
                del line[passed]
                batch.append(task)
                images, deadline = more, earliest
            else:
                passed, lowest = passed + 1, min(lowest, task.priority)
        self._gathered = len(batch)
        return batch

    def _next(self, until: int) -> Task:
        """Take what arrives by then. Raises `queue.Empty`."""
        seconds = (until - self._clock()) / NANO
        return self._arrived.get(timeout=seconds) if seconds > 0 else self._arrived.get_nowait()
