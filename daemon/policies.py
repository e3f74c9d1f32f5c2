"""A policy against the host that is to keep it: what contradicts itself, or the devices, is refused with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daemon.config import PolicyConfig
from daemon.errors import PolicyRefused
from daemon.points import Point
from daemon.power import Supply


def check(name: str, policy: PolicyConfig, supplies: Iterable[Supply], points: Sequence[Point]) -> None:
    """Raise `PolicyRefused` where the host cannot keep a policy.

    1. What may be powered down must be able to.
    2. A limit must hold the static power of what stays on; one of zero means to serve nothing.
    3. An operating point must reach the accuracy. `points` is empty where it is not known what all devices can do.
    """
    power_down = set(policy.power_down)
    fixed = [supply.device for supply in supplies if supply.device in power_down and supply.reopening is None]
    if fixed:
        raise PolicyRefused(f"policy.{name}.power_down: {fixed[0]!r} has no power state but on")
    static = sum(supply.watts for supply in supplies if supply.device not in power_down)
    for key, watts in (("budget_watts", policy.budget_watts), ("burst_watts", policy.burst_watts)):
        if 0 < watts < static:
            raise PolicyRefused(
                f"policy.{name}.{key}: {watts} is below the static power of {static:.3f} W that must stay on"
            )
    pinned = [
        point
        for point in points
        if policy.strategy != "pin" or policy.pin in {point.device, point.kind.value, point.fallback_of}
    ]
    best = max((point.accuracy for point in pinned), default=1.0)
    if best < policy.min_accuracy:
        raise PolicyRefused(
            f"policy.{name}.min_accuracy: {policy.min_accuracy:g} is reached by no operating point; "
            f"the most accurate one has {best:g}"
        )
