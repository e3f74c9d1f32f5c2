"""What every simulator does: keep its device occupied for as long as the real one would be."""

from __future__ import annotations

import time
from collections.abc import Callable

Pause = Callable[[float], None]


def occupy(started: float, modelled_seconds: float, pause: Pause) -> float:
    """Wait until `modelled_seconds` have passed since `started`, a `time.perf_counter()`; give the seconds computed."""
    computed = time.perf_counter() - started
    if modelled_seconds > computed:
        pause(modelled_seconds - computed)
    return computed
