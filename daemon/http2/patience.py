"""When a client is given up: it says nothing, does nothing, is gone, has been here for long, or asks too often."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from daemon.http2 import frames
from daemon.http2.limits import Limits

if TYPE_CHECKING:
    from daemon.http2.connection import Connection

ALIVE = b"are you?"
LEAST_SECONDS = 0.01


class Patience:
    """The patience with one client. Times are those of the event loop, in seconds."""

    def __init__(self, connection: Connection, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        # When the client was last heard, when its last call ended, and when it was asked whether it is there.
        self.heard = self.idle = self._opened = loop.time()
        self._asked = -math.inf
        # Pings that came too soon since it was last sent anything else.
        self.strikes = 0
        self._pinged = -math.inf
        self._connection = connection
        self._limits = limits
        self._loop = loop
        self._timer = loop.call_later(limits.handshake_seconds, self._look)

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def pinged(self) -> None:
        """Note that the client asks whether we are there. Raises `ConnectionFault` where it asks too often."""
        if self.heard - self._pinged >= self._limits.ping_interval_seconds:
            self.strikes = 0
        else:
            self.strikes += 1
            if self.strikes > self._limits.ping_strikes:
                raise frames.ConnectionFault(frames.ENHANCE_YOUR_CALM, "too_many_pings")
        self._pinged = self.heard

    def _look(self) -> None:
        now, limits, connection = self._loop.time(), self._limits, self._connection
        if not connection.preface_seen:
            connection.cut()
            return
        if connection.secure and now >= self._opened + limits.age_seconds:
            connection.leave("connection age")
            if now >= self._opened + limits.age_seconds + limits.age_grace_seconds:
                connection.cut()
                return
        if not connection.busy:
            due, reason = self.idle + limits.idle_seconds, "connection idle"
        elif self._asked > self.heard:
            due, reason = self._asked + limits.ping_timeout_seconds, "ping_timeout"
        else:
            due, reason = self.heard + limits.keepalive_seconds, ""
        if now >= due:
            if reason and connection.busy:
                connection.fail(frames.NO_ERROR, reason)
                return
            if reason:
                # Until the client knows of it, it may begin a call, and be gone without a word.
                connection.leave(reason)
                due = now + limits.keepalive_seconds
            else:
                self._asked, due = now, now + limits.ping_timeout_seconds
                connection.sender.send(frames.frame(frames.PING, 0, 0, ALIVE))
        self._timer = self._loop.call_later(max(min(due - now, limits.keepalive_seconds), LEAST_SECONDS), self._look)
