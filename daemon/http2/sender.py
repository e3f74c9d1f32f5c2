"""What goes out to a client, in as few writes as may be, and no more of it than the client reads."""

from __future__ import annotations

import asyncio

# What is gathered in one turn of the loop goes out at once when it is more.
GATHERED_BYTES_LIMIT = 1 << 16
# Answers to a client that reads nothing are kept up to here.
UNREAD_BYTES_LIMIT = 1 << 20


class Sender:
    """Gathers what is sent in a turn of the loop. `paused` tells that the client reads too slowly."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.paused = False
        self._transport = transport
        self._loop = loop
        self._out: list[bytes | bytearray] = []
        self._gathered = 0

    def send(self, data: bytes | bytearray) -> None:
        """Send something in this turn of the loop."""
        if not self._out:
            self._loop.call_soon(self.flush)
        self._out.append(data)
        self._gathered += len(data)
        if self._gathered > GATHERED_BYTES_LIMIT:
            # So that whoever writes on and on is told when the client does not keep up.
            self.flush()

    def flush(self) -> None:
        """Send what was gathered. A client for which too much is kept unread is cut off."""
        gathered = b"".join(self._out)
        self._out.clear()
        self._gathered = 0
        if not gathered or self._transport.is_closing():
            return
        if self.paused and self._transport.get_write_buffer_size() > UNREAD_BYTES_LIMIT:
            self._transport.abort()
        else:
            self._transport.write(gathered)
