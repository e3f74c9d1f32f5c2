"""What can go wrong with a request, in the daemon's own words. `daemon/status.py` gives each its gRPC status."""

from __future__ import annotations


class RequestError(Exception):
    """A request that ends without an answer. The message is fit for the client's eyes."""


class InvalidRequest(RequestError):
    """The request is malformed. `field` names the part that is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NotFound(RequestError):
    """The request names something that does not exist."""


class NoCandidate(RequestError):
    """No operating point of the model meets the request's or the policy's constraints."""


class Unavailable(RequestError):
    """Every device that could serve the request is lost."""


class Draining(RequestError):
    """The daemon is about to end."""

    def __init__(self) -> None:
        super().__init__("the daemon is about to end, and takes no more requests")


class OverBudget(RequestError):
    """The power budget has no room for `joules` in time. `retry_seconds` tells when it will."""

    def __init__(
        self, policy: str, joules: float, needed_seconds: float, left_seconds: float, retry_seconds: float
    ) -> None:
        when = (
            f"in time: the answer would take {needed_seconds:.3g} s, the deadline leaves {left_seconds:.3g} s"
            if needed_seconds
            else "beside what is always on"
        )
        super().__init__(
            f"policy {policy!r}: the power budget has no room for {joules:.3g} J {when}; retry in {retry_seconds:.3g} s"
        )
        self.policy = policy
        self.retry_seconds = retry_seconds


class Overloaded(RequestError):
    """The queues are too long for the deadline. `retry_seconds` tells when they will have shortened."""

    def __init__(self, needed_seconds: float, left_seconds: float, retry_seconds: float) -> None:
        super().__init__(
            f"the devices are busy: the answer would take {needed_seconds:.3g} s, the deadline leaves "
            f"{left_seconds:.3g} s; retry in {retry_seconds:.3g} s"
        )
        self.retry_seconds = retry_seconds


class DeadlinePassed(RequestError):
    """The deadline passed before an answer was there, or will: the quickest answer needs `needed_seconds`."""

    def __init__(self, needed_seconds: float = 0.0) -> None:
        super().__init__(
            f"no operating point answers within the deadline: the quickest needs {needed_seconds:.3g} s"
            if needed_seconds
            else "the deadline passed before an answer was there"
        )


class ModelRefused(RequestError):
    """Nothing of a model can be served on this host. The message says why."""


class NotAllowed(RequestError):
    """What is asked for is the operator's to do."""


class PolicyRefused(RequestError):
    """A policy cannot be put in force on this host."""


class ConfigError(Exception):
    """The configuration cannot be used: the message names the file, the key and the reason."""


# How the journal calls the end of a request that was accepted and not answered.
STATUS = {
    DeadlinePassed: "deadline",
    NoCandidate: "no_candidate",
    OverBudget: "over_budget",
    Overloaded: "overloaded",
    Unavailable: "unavailable",
}
