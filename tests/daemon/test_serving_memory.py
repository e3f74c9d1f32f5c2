"""At four fifths of what its device can do, a daemon answers every request and its memory does not grow."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import psutil

from tests.daemon.load import loading
from tests.daemon.serving import configuration, running

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A third of the time warms up: windows, queues and caches fill. Half an hour under `make soak`.
LOAD_SECONDS = float(os.environ.get("JOULED_SOAK_SECONDS", "24"))
STICK = """
[policy.stick]
strategy = "pin"
pin = "ncs2-sim"
budget_watts = 50.0
"""
# What an allocator keeps or gives back from one moment to the next. A leak of 2 kB a request shows in the short run,
# one of a few bytes in the long one.
NOISE_BYTES = 8 << 20


def test_memory_stays_flat(image: NDArray[np.uint8]) -> None:
    """Requests at a steady pace are all answered, and after warm-up they leave nothing behind."""
    with running(configuration(STICK, start="stick")) as daemon:
        process = psutil.Process(daemon.process.pid)
        begin, never = time.monotonic(), threading.Event()
        with loading(daemon, image) as load:
            never.wait(LOAD_SECONDS / 3)
            warm = process.memory_info().rss
            never.wait(begin + LOAD_SECONDS - time.monotonic())
            grown = process.memory_info().rss - warm
    assert (load.statuses, load.requests) == ([], load.sent)
    assert load.sent > LOAD_SECONDS * 20
    assert grown < NOISE_BYTES
