"""Time as the core of the daemon sees it: whole nanoseconds, handed in, so that it can be simulated."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

NANO = 1_000_000_000

# Nanoseconds that never go back and go on during suspend.
Clock = Callable[[], int]


def boot_nanoseconds() -> int:
    """Read the time since boot, suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Name this boot of the host: times since boot compare only within it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
