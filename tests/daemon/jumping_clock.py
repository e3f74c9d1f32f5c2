"""A daemon whose wall clock jumps: `python -m tests.daemon.jumping_clock serve ...`.

SIGUSR1 sets it an hour ahead, SIGUSR2 an hour back.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from daemon.cli.main import run
from daemon.clock import NANO

HOUR = 3600 * NANO


class _Wall:
    """The wall clock, and how far it was set."""

    def __init__(self) -> None:
        self.ahead = 0
        self._real = time.time_ns

    def __call__(self) -> int:
        """Tell the time."""
        return self._real() + self.ahead

    def set(self, number: int, _: Any) -> None:
        """Jump."""
        self.ahead += HOUR if number == signal.SIGUSR1 else -HOUR


if __name__ == "__main__":
    wall = _Wall()
    time.time_ns = wall
    signal.signal(signal.SIGUSR1, wall.set)
    signal.signal(signal.SIGUSR2, wall.set)
    run()
