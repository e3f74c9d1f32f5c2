"""The one table from the daemon's errors to gRPC statuses, with rich details."""

from __future__ import annotations

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

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
from daemon.http2.headers import Metadata
from daemon.http2.refused import Refused

CODES: dict[type[RequestError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    NoCandidate: grpc.StatusCode.FAILED_PRECONDITION,
    PolicyRefused: grpc.StatusCode.FAILED_PRECONDITION,
    ModelRefused: grpc.StatusCode.FAILED_PRECONDITION,
    NotAllowed: grpc.StatusCode.PERMISSION_DENIED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    Draining: grpc.StatusCode.UNAVAILABLE,
    OverBudget: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
}
DETAILS_KEY = "grpc-status-details-bin"
DOMAIN = "jouled"


def refused(error: RequestError, trailer: Metadata = ()) -> Refused:
    """Give the end of a call that a domain error comes to, with `trailer` beside its details."""
    code = CODES[type(error)]
    details = [_pack(detail) for detail in _details(error)]
    status = status_pb2.Status(code=code.value[0], message=str(error), details=details)
    return Refused(code, str(error), ((DETAILS_KEY, status.SerializeToString()), *trailer))


def _details(
    error: RequestError,
) -> list[
    error_details_pb2.BadRequest
    | error_details_pb2.QuotaFailure
    | error_details_pb2.RetryInfo
    | error_details_pb2.ErrorInfo
]:
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.reason)
        return [error_details_pb2.BadRequest(field_violations=[violation])]
    if isinstance(error, OverBudget):
        quota = error_details_pb2.QuotaFailure.Violation(subject=f"power:{error.policy}", description=str(error))
        return [error_details_pb2.QuotaFailure(violations=[quota]), _retry(error.retry_seconds)]
    if isinstance(error, Overloaded):
        return [_retry(error.retry_seconds)]
    if isinstance(error, Unavailable):
        return [error_details_pb2.ErrorInfo(reason="DEVICE_LOST", domain=DOMAIN)]
    return []


def _retry(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _pack(detail: object) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    return packed
