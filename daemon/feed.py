"""The stream of final figures: whoever reads it gets every figure from then on, or is told that it was too slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from daemon.attribution import Final

# About a minute and a half of readings of the meters at their usual interval.
UNREAD_LIMIT = 1000


class Reader:
    """One who reads the feed; `overrun` when it left more than `UNREAD_LIMIT` lists of figures unread."""

    def __init__(self) -> None:
        self.overrun = False
        self._unread: deque[list[Final]] = deque()
        self._ended = False
        self._news = asyncio.Event()

    def tell(self, finals: list[Final]) -> None:
        """Hand figures over."""
        self._unread.append(finals)
        if len(self._unread) > UNREAD_LIMIT:
            self.overrun = True
            self._unread.clear()
            self._ended = True
        self._news.set()

    def end(self) -> None:
        """Let the reader stop after what it has not read yet."""
        self._ended = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Final]:
        """Give the figures one by one until the feed ends."""
        while self._unread or not self._ended:
            while self._unread:
                for final in self._unread.popleft():
                    yield final
            if not self._ended:
                self._news.clear()
                await self._news.wait()


class Feed:
    """All readers of final figures. `heard` is called at once with each list of them."""

    def __init__(self) -> None:
        self.heard: Callable[[list[Final]], None] = _ignore
        self._readers: set[Reader] = set()

    def tell(self, finals: list[Final]) -> None:
        """Hand figures over to all."""
        self.heard(finals)
        for reader in self._readers:
            reader.tell(finals)

    def end(self) -> None:
        """Let all readers stop after what they have not read yet."""
        for reader in self._readers:
            reader.end()

    @contextmanager
    def reading(self) -> Iterator[Reader]:
        """Read from now on."""
        reader = Reader()
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)


def _ignore(finals: list[Final]) -> None:
    """Nobody counts the figures."""
