"""What the daemon does beside answering requests: the same step again and again, for as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

import structlog

# A step that fails each time must not fill the log.
PAUSE_AFTER_FAILURE_SECONDS = 1.0

log = structlog.get_logger()


async def repeat(name: str, step: Callable[[], Awaitable[None] | None], seconds: float = 0.0) -> NoReturn:
    """Take a step, pause for `seconds`, and so on until cancelled.

    What a step raises is a defect: it is logged as an error, and after a pause the next step is taken.
    """
    while True:
        pause_seconds = seconds
        try:
            awaited = step()
            if awaited is not None:
                await awaited
        except Exception:
            log.exception("background step failed", task=name)
            pause_seconds = max(seconds, PAUSE_AFTER_FAILURE_SECONDS)
        await asyncio.sleep(pause_seconds)
