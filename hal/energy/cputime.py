"""CPU time from /proc: of the daemon's processes, and of all, by which a host's joules are split."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from hal.energy.meter import NANO

if TYPE_CHECKING:
    from pathlib import Path

TICK_NANOSECONDS = NANO // os.sysconf("SC_CLK_TCK")


class CpuTime:
    """CPU time of some processes and of the whole host, in nanoseconds, neither of which decreases."""

    def __init__(self, proc: Path) -> None:
        """Read under `proc`, a /proc."""
        self._proc = proc
        self._seen: dict[tuple[int, str], int] = {}

    def children(self, process: int) -> list[int]:
        """List the processes that a process has started, which are none where the kernel does not tell."""
        lists = []
        for path in (self._proc / str(process) / "task").glob("*/children"):
            # A thread may end while it is looked at.
            with suppress(OSError):
                lists.append(path.read_text(encoding="ascii"))
        return [int(number) for text in lists for number in text.split()]

    def used_by(self, processes: Iterable[int]) -> int:
        """Give what these processes, and those asked about before, have used so far; one that is gone keeps its part.

        A process is told from a later one with its number by the time of its start.
        """
        for process in processes:
            try:
                text = (self._proc / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            # proc(5): the name in parentheses may hold anything; utime, stime and starttime are fields 14, 15 and 22.
            fields = text.rpartition(")")[2].split()
            self._seen[process, fields[19]] = (int(fields[11]) + int(fields[12])) * TICK_NANOSECONDS
        return sum(self._seen.values())

    def used_by_all(self) -> int:
        """Give what all processes and the kernel have used so far. Raises `OSError`."""
        # proc(5): user, nice, system, idle, iowait, irq, softirq, steal; the time of guests is within user's.
        first = (self._proc / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in first[1:8])
        return (user + nice + system + irq + softirq) * TICK_NANOSECONDS
