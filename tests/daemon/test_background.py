"""What the daemon repeats beside answering requests."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from daemon import background
from daemon.background import repeat


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "PAUSE_AFTER_FAILURE_SECONDS", 0.0)


def test_a_step_that_raises_is_an_error_in_the_log_and_the_next_one_is_taken() -> None:
    """The task does not die of it."""

    async def step() -> None:
        taken.append(len(taken))
        if len(taken) == 2:
            raise ValueError("a defect")
        if len(taken) == 4:
            raise asyncio.CancelledError

    taken: list[int] = []
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        asyncio.run(repeat("meters", step))
    assert taken == [0, 1, 2, 3]
    (line,) = logs
    assert (line["log_level"], line["task"], line["exc_info"]) == ("error", "meters", True)


def test_a_step_need_not_wait_for_anything() -> None:
    """A plain function is repeated like a coroutine, and the event loop turns in between."""

    async def scenario() -> None:
        third = asyncio.Event()

        def step() -> None:
            taken.append(len(taken))
            if len(taken) == 3:
                third.set()

        task = asyncio.create_task(repeat("watch", step))
        await third.wait()
        task.cancel()

    taken: list[int] = []
    asyncio.run(scenario())
    assert taken == [0, 1, 2]
