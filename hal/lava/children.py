"""What Lava starts and shares must not outlive this process, however it ends.

Lava's processes wait for each other for ever, and their shared memory has names that stay. The standard library starts
a tracker that removes such memory once its owner is gone, but in the owner's process group, which is killed as a whole.
"""

from __future__ import annotations

import ctypes
import os
import signal
from multiprocessing import resource_tracker
from typing import Any

# prctl(2): the signal that the kernel sends when the parent has died.
PR_SET_PDEATHSIG = 1

_parents: list[int] = []


def keep_together() -> None:
    """Let every process that is forked from now on end with its parent, and what they share be removed then."""
    if _parents:
        return
    _start_tracker()
    _parents.append(os.getpid())
    library = ctypes.CDLL(None)

    def before() -> None:
        _parents[0] = os.getpid()

    def after() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != _parents[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    os.register_at_fork(before=before, after_in_child=after)


def _start_tracker() -> None:
    """Run the standard library's tracker in a session of its own; it ends when nobody holds its pipe any more."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.closerange(3, reading)
            os.closerange(reading + 1, os.sysconf("SC_OPEN_MAX"))
            resource_tracker.main(reading)
        finally:
            os._exit(0)
    os.close(reading)
    # It takes no other pipe than the one that it holds.
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001
    tracker._fd, tracker._pid = writing, child  # noqa: SLF001
