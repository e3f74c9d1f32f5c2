"""What only the host CPU as a device does."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np

from hal.cpu import Cpu
from tests.hal.ways import shipped

CORE_WATTS = 7.5


def test_a_busy_host_costs_no_joules() -> None:
    """An inference takes the joules of the CPU time that it had, however long other programs keep the core from it."""
    device = Cpu("one", threads=1, core_watts=CORE_WATTS, time_limit_seconds=1.0)
    program = device.load(shipped(device))
    images = np.zeros((64, 8, 8), np.uint8)
    allowed = os.sched_getaffinity(0)
    core = {min(allowed)}
    os.sched_setaffinity(0, core)
    greedy = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE)
    try:
        os.sched_setaffinity(greedy.pid, core)
        assert greedy.stdout is not None
        greedy.stdout.readline()
        began, cpu_began = time.perf_counter(), time.thread_time()
        joules = sum(program(images, 1).dynamic_joules for _ in range(2000))
        seconds, cpu_seconds = time.perf_counter() - began, time.thread_time() - cpu_began
    finally:
        greedy.kill()
        greedy.communicate()
        os.sched_setaffinity(0, allowed)
    assert seconds > 1.3 * cpu_seconds
    assert 0.1 * cpu_seconds * CORE_WATTS < joules <= cpu_seconds * CORE_WATTS
