"""Hold one thread of a process by ptrace(2), as a call that never returns would."""

from __future__ import annotations

import ctypes
import os
import time

SEIZE = 0x4206
INTERRUPT = 0x4207
# The kernel's __WALL: wait for whatever is traced, a child or not.
WAIT_FOR_ALL = 0x4000_0000


def hold_until_killed(thread: int, seconds: float) -> None:
    """Hold a thread, not those beside it, until its process is killed, which is expected within so many seconds.

    The first thread of a process has the process's number.
    """
    _trace(SEIZE, thread)
    _trace(INTERRUPT, thread)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(thread, os.WNOHANG | WAIT_FOR_ALL)
        if ended and os.WIFSIGNALED(status):
            return
        time.sleep(0.005)
    raise AssertionError(f"nobody killed process {thread} within {seconds} s, though it hangs")


def _trace(request: int, thread: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    if libc.ptrace(request, thread, None, None):
        raise OSError(ctypes.get_errno(), f"ptrace of {thread}: {os.strerror(ctypes.get_errno())}")
