"""The errors that leave `hal`. A vendor's own exceptions end in the file that drives the vendor's library."""

from __future__ import annotations

from enum import Enum


class HalError(Exception):
    """Anything that a device, an artifact or a network can do wrong."""


class ArtifactError(HalError):
    """An artifact is missing, altered or malformed. `subject` names it, `reason` says what is wrong with it."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"{subject}: {reason}")
        self.subject = subject
        self.reason = reason


class InputError(HalError):
    """A request's input does not fit the model. `field` names the part of the request that is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class CapacityError(HalError):
    """Something does not fit: `subject` needs `figure` of `unit`, the limit is `limit`."""

    def __init__(self, subject: str, figure: int, limit: int, unit: str) -> None:
        super().__init__(f"{subject}: {figure} {unit} exceed the limit of {limit}")
        self.subject = subject
        self.figure = figure
        self.limit = limit
        self.unit = unit


class Reason(Enum):
    """Why a device cannot serve."""

    NOT_FOUND = "not_found"
    NO_RUNTIME = "no_runtime"
    LOST = "lost"
    HUNG = "hung"
    FAILED = "failed"


class DeviceUnavailable(HalError):
    """A device cannot serve now. `detail` carries the vendor's own words, for the log and not for clients."""

    def __init__(self, device: str, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{device}: {reason.value}" + (f" ({detail})" if detail else ""))
        self.device = device
        self.reason = reason
        self.detail = detail
