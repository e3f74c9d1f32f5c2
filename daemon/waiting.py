"""The line of requests that wait for room in the budget."""

from __future__ import annotations

import asyncio
from collections import deque


class WaitingLine:
    """Lets those who wait try again one after the other; its length is how many wait. It lives on the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._turns: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._turns)

    async def wait(self, seconds: float, *, first: bool) -> None:
        """Wait for a turn, but no longer than this. Who is not `first` in line goes to its end."""
        turn: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(seconds, _give, turn)
        if first:
            self._turns.appendleft(turn)
        else:
            self._turns.append(turn)
        try:
            await turn
        finally:
            timer.cancel()
            if turn in self._turns:
                self._turns.remove(turn)

    def wake(self) -> None:
        """Give the first in line its turn."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def wake_all(self) -> None:
        """Give everyone a turn."""
        for turn in self._turns:
            _give(turn)


def _give(turn: asyncio.Future[None]) -> None:
    if not turn.done():
        turn.set_result(None)
