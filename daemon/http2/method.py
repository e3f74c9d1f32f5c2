"""What a server offers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple


class Method(NamedTuple):
    """A method: what it takes and gives, and what answers it.

    `answer` gets the request, or where there may be many of them something to iterate over, and the call. It gives the
    one reply, or `None` where it has written all that there is. It and `parse` may raise `Refused`.
    """

    answer: Callable[[Any, Any], Awaitable[Any]]
    parse: Callable[[bytes], Any]
    serialise: Callable[[Any], bytes]
    many_requests: bool
