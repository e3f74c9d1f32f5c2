"""What clients see of a refused call: the status, the sentence and the rich details."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

Detail = TypeVar("Detail", bound="Message")

# Paths, sockets, modules, classes, objects and traces: what the inside is made of is no client's business.
INSIDE = re.compile(r"/|\.py\b|unix:|\bdaemon\b|\bhal\b|[a-z]Error\b|Exception|Traceback|<|0x|\b_|::")


@dataclass(frozen=True)
class Refusal:
    """A call's end that is not OK."""

    code: grpc.StatusCode
    message: str
    details: list[Any]

    def detail(self, kind: type[Detail]) -> Detail:
        """Give the one rich detail of this type."""
        found = kind()
        (packed,) = [each for each in self.details if each.Is(kind.DESCRIPTOR)]
        packed.Unpack(found)
        return found

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Give the fields of the request that are wrong, and why."""
        violations = self.detail(error_details_pb2.BadRequest).field_violations
        return [(violation.field, violation.description) for violation in violations]

    @property
    def retry_seconds(self) -> float:
        """Give when to try again."""
        delay = self.detail(error_details_pb2.RetryInfo).retry_delay
        return float(delay.ToNanoseconds()) * 1e-9


def refusal(call: Callable[[], object]) -> Refusal:
    """Make a call that is expected to be refused, in words fit for a client."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    status = rpc_status.from_call(error)
    message = error.details()
    assert message
    assert not INSIDE.search(message), message
    return Refusal(error.code(), message, list(status.details) if status else [])
