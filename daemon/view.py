"""What the page and `jouled top` are told: the past once, then each second how the daemon stands, as JSON."""

from __future__ import annotations

from itertools import dropwhile

import msgspec
import structlog

from daemon.dispatcher import Dispatcher
from daemon.exposition import Exposition
from daemon.pulse import Event, Pulse, Sample
from daemon.tally import Ended, Tally
from daemon.version import VERSION

log = structlog.get_logger()


class PolicyView(msgspec.Struct, frozen=True):
    """A policy that may be put in force."""

    name: str
    strategy: str
    budget_watts: float
    window_seconds: float
    min_accuracy: float


class RequestView(msgspec.Struct, frozen=True):
    """A request that is done with; the joules are final, and 0 without a provenance where nothing ran."""

    request_id: int
    unix_seconds: float
    status: str
    model: str
    variant: str
    device: str
    steps: int
    seconds: float
    dynamic_nanojoules: int
    static_nanojoules: int
    provenance: str


class Moment(msgspec.Struct, frozen=True):
    """A sample of the past, as far as charts need it: what each operating point answered so far, where it did."""

    unix_seconds: float
    limit_watts: float
    used_watts: float
    watts: dict[str, float]
    answered: dict[str, int]
    finals: int
    joules: float


class Past(msgspec.Struct, frozen=True):
    """What is told first."""

    version: str
    moments: list[Moment]


class Present(msgspec.Struct, frozen=True):
    """What is told each second. `events` are those since the last time, oldest first, `latest` the last requests."""

    sample: Sample
    policies: list[PolicyView]
    events: list[Event]
    latest: list[RequestView]


class View:
    """What the daemon shows of itself, and the one thing that may be done there."""

    def __init__(self, pulse: Pulse, tally: Tally, dispatcher: Dispatcher, exposition: Exposition) -> None:
        self.pulse = pulse
        self.exposition = exposition
        self._tally = tally
        self._dispatcher = dispatcher

    def past(self) -> bytes:
        """Tell the samples that are remembered, but for the last one, and for those before any meter counted."""
        counted = dropwhile(lambda sample: not any(sample.watts.values()), list(self.pulse.past)[:-1])
        return msgspec.json.encode(Past(VERSION, [_moment(sample) for sample in counted]))

    def present(self, since_seconds: float) -> bytes:
        """Tell the last sample, with the events after `since_seconds`, in seconds since 1970."""
        policies = [
            PolicyView(name, each.strategy, each.budget_watts, each.window_seconds, each.min_accuracy)
            for name, each in self._dispatcher.policies.items()
        ]
        events = [event for event in self.pulse.events if event.unix_seconds > since_seconds]
        latest = [_request(ended) for ended in reversed(self._tally.latest)]
        return msgspec.json.encode(Present(self.pulse.latest, policies, events, latest))

    def switch(self, policy: str) -> None:
        """Put a policy in force. Raises `NotFound` or `PolicyRefused`."""
        previous = self._dispatcher.set_policy(policy)
        log.info("policy switched", policy=policy, previous=previous, reason="on the page")
        self.pulse.take()


def _moment(sample: Sample) -> Moment:
    window = sample.window_seconds
    return Moment(
        unix_seconds=sample.unix_seconds,
        limit_watts=sample.limit_joules / window,
        used_watts=sample.used_joules / window,
        watts=sample.watts,
        answered={point.name: point.answered for point in sample.points if point.answered},
        finals=sum(point.finals for point in sample.points),
        joules=sum(point.joules for point in sample.points),
    )


def _request(ended: Ended) -> RequestView:
    served, final = ended.served, ended.final
    return RequestView(
        request_id=ended.request_id,
        unix_seconds=ended.unix_seconds,
        status=ended.status,
        model=served.model,
        variant=served.variant,
        device=served.device,
        steps=served.steps,
        seconds=ended.seconds,
        dynamic_nanojoules=final.dynamic_nanojoules if final else 0,
        static_nanojoules=final.static_nanojoules if final else 0,
        provenance=final.provenance.value if final else "",
    )
