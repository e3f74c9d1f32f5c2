"""Every error of the daemon has its gRPC status and says in rich details what a client can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from daemon import errors
from daemon.errors import (
    DeadlinePassed,
    Draining,
    InvalidRequest,
    ModelRefused,
    NoCandidate,
    NotAllowed,
    NotFound,
    OverBudget,
    Overloaded,
    PolicyRefused,
    RequestError,
    Unavailable,
)
from daemon.status import CODES, DETAILS_KEY, refused

if TYPE_CHECKING:
    from google.protobuf import any_pb2

Code = grpc.StatusCode


def _end(error: RequestError) -> tuple[grpc.StatusCode, list[any_pb2.Any]]:
    """End a call with an error and give its code and details, which agree with its message."""
    end = refused(error)
    status = status_pb2.Status.FromString(dict(end.metadata)[DETAILS_KEY])
    assert (status.code, status.message, end.details) == (end.code.value[0], str(error), str(error))
    return end.code, list(status.details)


@pytest.mark.parametrize(
    ("error", "code", "kinds"),
    [
        (InvalidRequest("image", "is empty"), Code.INVALID_ARGUMENT, ["BadRequest"]),
        (NotFound("no model 'x'"), Code.NOT_FOUND, []),
        (NoCandidate("none"), Code.FAILED_PRECONDITION, []),
        (PolicyRefused("no"), Code.FAILED_PRECONDITION, []),
        (ModelRefused("no"), Code.FAILED_PRECONDITION, []),
        (NotAllowed("no"), Code.PERMISSION_DENIED, []),
        (Draining(), Code.UNAVAILABLE, []),
        (Unavailable("lost"), Code.UNAVAILABLE, ["ErrorInfo"]),
        (OverBudget("tight", 0.2, 1.5, 0.5, 1.5), Code.RESOURCE_EXHAUSTED, ["QuotaFailure", "RetryInfo"]),
        (Overloaded(0.75, 0.5, 0.25), Code.RESOURCE_EXHAUSTED, ["RetryInfo"]),
        (DeadlinePassed(), Code.DEADLINE_EXCEEDED, []),
    ],
)
def test_statuses(error: RequestError, code: grpc.StatusCode, kinds: list[str]) -> None:
    """Each error has its code and its details."""
    ended, details = _end(error)
    assert ended is code
    assert [detail.TypeName().rpartition(".")[2] for detail in details] == kinds


def test_every_error_has_a_status() -> None:
    """No error of the daemon is missing from the table."""
    known = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RequestError)}
    assert known - {RequestError} == set(CODES)


def test_field() -> None:
    """A bad request names the field and the reason."""
    _, (detail,) = _end(InvalidRequest("tensor.shape", "is [3]"))
    bad = error_details_pb2.BadRequest()
    assert detail.Unpack(bad)
    assert [(each.field, each.description) for each in bad.field_violations] == [("tensor.shape", "is [3]")]


def test_quota() -> None:
    """Over budget names the policy and when to retry."""
    _, (first, second) = _end(OverBudget("tight", 0.2, 1.5, 0.5, 1.5))
    quota, retry = error_details_pb2.QuotaFailure(), error_details_pb2.RetryInfo()
    assert first.Unpack(quota)
    assert second.Unpack(retry)
    assert [each.subject for each in quota.violations] == ["power:tight"]
    assert retry.retry_delay.ToNanoseconds() == 1_500_000_000


def test_lost_device() -> None:
    """A lost device is told by a reason, not by its name."""
    _, (detail,) = _end(Unavailable("every device that could serve the request is lost"))
    info = error_details_pb2.ErrorInfo()
    assert detail.Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == ("DEVICE_LOST", "jouled", {})
