"""How a device fares: whether it can be used, and when one that failed is tried again.

It decides and never acts, and time is an argument. A device begins `starting`. One that failed is `lost` and is opened
anew: at once if it had answered before, else after a pause that doubles with each failure, so that neither a stick that
is pulled nor one that dies with every load costs much. One that came back is `degraded` until it has done well for a
while; it is used like one that is `up`. A stick that uploads its firmware leaves the bus and returns: however often it
is tried meanwhile, it is lost once and comes back once.
"""

from __future__ import annotations

from enum import Enum

from daemon.clock import NANO
from hal.errors import DeviceUnavailable, HalError, Reason

FIRST_PAUSE_NANOSECONDS = NANO // 4
LONGEST_PAUSE_NANOSECONDS = 5 * NANO
PROBATION_NANOSECONDS = 10 * NANO


class HealthState(Enum):
    """The health of a device; `off` is one that is powered down."""

    STARTING = "starting"
    UP = "up"
    DEGRADED = "degraded"
    LOST = "lost"
    OFF = "off"


class Health:
    """The health of one device."""

    def __init__(self, now: int) -> None:
        self.state = HealthState.STARTING
        self.since = now
        self.failure: HalError | None = None
        self.retry_at = now
        self._failures = 0

    @property
    def usable(self) -> bool:
        """Tell whether requests may go to the device."""
        # On the way of every request, where the hash of an enumeration's member is a call of its own.
        return self.state is HealthState.UP or self.state is HealthState.DEGRADED

    def failed(self, failure: HalError, now: int) -> bool:
        """Note a failure; tell whether it is news."""
        pause = min(FIRST_PAUSE_NANOSECONDS << min(self._failures, 8), LONGEST_PAUSE_NANOSECONDS)
        self.retry_at = now + (pause if self._failures or self.state is HealthState.STARTING else 0)
        self._failures += 1
        news = self.state is not HealthState.LOST or str(failure) != str(self.failure)
        self.failure = failure
        self._enter(HealthState.LOST, now)
        return news

    def opened(self, now: int) -> None:
        """Note that the device is open and loaded."""
        self._enter(HealthState.UP if self.failure is None else HealthState.DEGRADED, now)

    def answered(self, now: int) -> bool:
        """Note that the device did well; tell whether it is up for it."""
        self._failures = 0
        if self.state is HealthState.DEGRADED and now - self.since >= PROBATION_NANOSECONDS:
            self.failure = None
            self._enter(HealthState.UP, now)
            return True
        return False

    def _enter(self, state: HealthState, now: int) -> None:
        if state is not self.state:
            self.state, self.since = state, now


def unavailable(device: str, error: BaseException) -> DeviceUnavailable:
    """Turn whatever a driver raised into the device's failure."""
    if isinstance(error, DeviceUnavailable):
        return error
    return DeviceUnavailable(device, Reason.FAILED, f"{type(error).__name__}: {error}")
