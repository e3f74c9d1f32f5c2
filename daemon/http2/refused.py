"""How a call ends that is not answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.http2.headers import Metadata

if TYPE_CHECKING:
    import grpc


class Refused(Exception):
    """The call ends with a status, and with metadata about it."""

    def __init__(self, code: grpc.StatusCode, details: str, metadata: Metadata = ()) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.metadata = metadata
