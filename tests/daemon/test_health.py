"""The health of a device: when it may be used, when it is tried again, and what is news."""

from __future__ import annotations

from daemon.clock import NANO
from daemon.health import (
    FIRST_PAUSE_NANOSECONDS,
    LONGEST_PAUSE_NANOSECONDS,
    PROBATION_NANOSECONDS,
    Health,
    unavailable,
)
from hal.errors import DeviceUnavailable, Reason

GONE = DeviceUnavailable("stick", Reason.NOT_FOUND, "no such port")
HUNG = DeviceUnavailable("stick", Reason.HUNG, "no answer")


def _pauses(health: Health, count: int) -> list[int]:
    """Let it fail again and again, each time when it is tried; give the pauses."""
    pauses = []
    for _ in range(count):
        now = health.retry_at
        health.failed(GONE, now)
        pauses.append(health.retry_at - now)
    return pauses


def test_missing_at_the_start() -> None:
    """A device that never was there is tried after pauses that double, up to a longest one."""
    health = Health(0)
    assert (health.state.value, health.usable) == ("starting", False)
    pauses = _pauses(health, 8)
    assert health.state.value == "lost"
    assert pauses[:4] == [FIRST_PAUSE_NANOSECONDS << doubling for doubling in range(4)]
    assert pauses[-1] == LONGEST_PAUSE_NANOSECONDS


def test_back_at_once() -> None:
    """A device that had been well is tried at once; it is degraded for a while after it came back, then up."""
    health = Health(0)
    health.opened(5)
    assert (health.state.value, health.since, health.usable) == ("up", 5, True)
    assert health.failed(HUNG, 100)
    assert (health.state.value, health.retry_at, health.usable) == ("lost", 100, False)
    health.opened(200)
    assert (health.state.value, health.failure, health.usable) == ("degraded", HUNG, True)
    assert not health.answered(200 + PROBATION_NANOSECONDS - 1)
    assert health.answered(200 + PROBATION_NANOSECONDS)
    assert (health.state.value, health.failure) == ("up", None)


def test_dies_at_every_load() -> None:
    """A device that fails before it has answered anything is tried less and less often; one answer resets that."""
    health = Health(0)
    health.opened(0)
    pauses = []
    for _ in range(4):
        health.failed(HUNG, health.retry_at)
        pauses.append(health.retry_at - health.since)
        health.opened(health.retry_at)
    assert pauses == [0, *(FIRST_PAUSE_NANOSECONDS << doubling for doubling in (1, 2, 3))]
    health.answered(health.since)
    health.failed(HUNG, NANO * 1000)
    assert health.retry_at == NANO * 1000


def test_lost_once() -> None:
    """While a stick comes back it is lost once, however often it is tried; only another reason is news."""
    health = Health(0)
    health.opened(0)
    assert health.failed(HUNG, 10)
    assert health.failed(GONE, 20)
    assert not health.failed(GONE, 30)
    assert not health.failed(GONE, 40)
    assert (health.state.value, health.since) == ("lost", 10)


def test_whatever_a_driver_raises() -> None:
    """A device's own failure stays as it is, anything else becomes one."""
    assert unavailable("stick", HUNG) is HUNG
    other = unavailable("stick", ZeroDivisionError("driver's own"))
    assert (other.device, other.reason, other.detail) == ("stick", Reason.FAILED, "ZeroDivisionError: driver's own")
