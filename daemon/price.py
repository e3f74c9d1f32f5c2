"""The price of a joule: what the last joule buys if the power at hand meets the demand of late."""

from __future__ import annotations

import math
import os
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence

from daemon.points import Point

SLOTS_PER_WINDOW = float(os.environ.get("SPW", 5))
SLOTS = int(os.environ.get("SLOTS", 30))
MIX = os.environ.get("MIX", "max")
TAU = float(os.environ.get("TAU", 0.2))
GOLDEN = (math.sqrt(5) - 1) / 2


def _hull(points: Sequence[Point]) -> list[tuple[float, int]]:
    """Give the steps of the concave hull over no answer at no energy."""
    steps: list[tuple[float, int]] = []
    energy, accuracy = 0, 0.0
    left = sorted(points, key=lambda point: point.dynamic_nanojoules)
    while left := [p for p in left if p.dynamic_nanojoules > energy and p.accuracy > accuracy]:
        best = max(left, key=lambda p: (p.accuracy - accuracy) / (p.dynamic_nanojoules - energy))
        extra = best.dynamic_nanojoules - energy
        steps.append(((best.accuracy - accuracy) / extra, extra))
        energy, accuracy = best.dynamic_nanojoules, best.accuracy
    return steps


class Market:
    def __init__(self) -> None:
        self.steps = None
        self.sorted: list[float] = []
        self.slots: deque[float] = deque()
        self.current = 0.0
        self.slot_began = None
        self.ema = 0.0
        self.at = 0
        self.u = 0.5

    def count(self, points: Sequence[Point], images: int, now: int, window: int) -> None:
        if self.steps is None:
            self.steps = _hull(points)
            self.full = sum(e for _, e in self.steps)
            self.slot_began = self.first = self.at = now
        slot = window / SLOTS_PER_WINDOW
        while now >= self.slot_began + slot:
            rate = self.current / slot
            self.slots.append(rate)
            insort(self.sorted, rate)
            self.current = 0.0
            self.slot_began += slot
            if len(self.slots) > SLOTS:
                old = self.slots.popleft()
                del self.sorted[bisect_right(self.sorted, old) - 1]
        self.current += images
        tau = TAU * window
        self.ema = self.ema * math.exp((self.at - now) / tau) + images / tau
        self.at = now

    def price(self, points: Sequence[Point], watts: float, now: int, window: int) -> float:
        if self.steps is None:
            return 0.0
        self.u = (self.u + GOLDEN) % 1.0
        tau = TAU * window
        warm = 1 - math.exp((self.first - now - tau/2) / tau)
        nowrate = self.ema * math.exp((self.at - now) / tau) / warm
        slots = self.sorted
        count = len(slots)
        total, last, last_now, energy = 0.0, 0.0, 0.0, 0.0
        # highest price first
        for j, (steep, extra) in enumerate(self.steps):
            b = energy + self.u * extra
            energy += extra
            limit = watts / b if b > 0 else math.inf
            nxt = self.steps[j + 1][0] if j + 1 < len(self.steps) else 0.0
            if count:
                total += (steep - nxt) * (count - bisect_right(slots, limit)) / count
            if nowrate > limit:
                last_now += steep - nxt
        if not count:
            return last_now
        if MIX == "max":
            return max(last_now, total)
        w = float(MIX)
        return w * last_now + (1 - w) * total
