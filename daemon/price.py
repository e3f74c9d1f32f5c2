"""The price of a joule, from the fractional knapsack of recent demand.

Every request asks for its cheapest worthwhile point first, then for one step up after the other on the concave hull of
accuracy over energy. Sort the steps of all recent requests by accuracy per joule and grant them one after the other
until the power is used up that the budget can spend steadily from now on: the step where that happens sets the price.
A request takes whatever is worth more. Demand is the larger of what came just now and of what has been usual, in the
upper quartile of recent times: an answer refused for lack of joules costs far more than a step up not taken.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from daemon.points import Point

# "Just now" fades with a time constant of a tenth of the window. Recent times are the last twelve windows, in slots of
# a fifth of the window. Of the figures tried on the traces of tests/bench, these did best.
FADE_PER_WINDOW = 10
SLOTS_PER_WINDOW = 5
SLOTS = 60
QUANTILE = 0.75
FORGOTTEN_IMAGES = 1e-3
# Multiples of the golden ratio fall evenly between 0 and 1: what is granted to a part of the requests only is granted
# in turn.
GOLDEN = (math.sqrt(5) - 1) / 2
# A step at exactly the price is not granted.
DEARER = 1 + 1e-9


class _Ladder:
    """The steps up for requests with the same choice of points, and how many images such requests had."""

    __slots__ = ("images", "nanojoules", "steps")

    def __init__(self, points: Sequence[Point], images: float) -> None:
        self.images = images
        self.steps = hull(points)
        self.nanojoules = sum(nanojoules for _, nanojoules in self.steps)


def hull(points: Sequence[Point]) -> list[tuple[float, int]]:
    """Give the steps of the concave hull of accuracy over energy, from nothing for nothing to the most accurate point.

    A step is (accuracy per nanojoule, nanojoules); the steepest comes first.
    """
    steps = []
    energy, accuracy = 0, 0.0
    left = list(points)
    while left := [each for each in left if each.dynamic_nanojoules > energy and each.accuracy > accuracy]:
        slopes = [(each.accuracy - accuracy) / (each.dynamic_nanojoules - energy) for each in left]
        steepest = max(slopes)
        next_point = left[slopes.index(steepest)]
        steps.append((steepest, next_point.dynamic_nanojoules - energy))
        energy, accuracy = next_point.dynamic_nanojoules, next_point.accuracy
    return steps


class Demand:
    """What requests would like to spend, of late: in nanojoules per nanosecond, at the most accurate points."""

    def __init__(self) -> None:
        self._ladders: dict[tuple[Point, ...], _Ladder] = {}
        # The steps of all ladders, steepest first, each with its part of the demand.
        self._steps: list[tuple[float, float]] = []
        self._slots: deque[float] = deque(maxlen=SLOTS)
        self._usual_watts = 0.0
        self._slot_began = self._slot_nanojoules = 0
        self._watts = 0.0
        self._began = self._counted = 0
        self._fade = 1.0
        self._turn = 0.0

    def count(self, points: Sequence[Point], images: int, now: int, window_nanoseconds: int) -> None:
        """Count a request that any of `points` might serve."""
        self._end_slots(now, max(window_nanoseconds // SLOTS_PER_WINDOW, 1))
        key = tuple(points)
        ladder = self._ladders.get(key)
        if ladder is None:
            if not self._ladders:
                self._began = self._counted = self._slot_began = now
            ladder = self._ladders[key] = _Ladder(points, images)
            self._merge()
        wanted = images * ladder.nanojoules
        ladder.images += images
        self._slot_nanojoules += wanted
        self._fade = window_nanoseconds / FADE_PER_WINDOW
        self._watts = self._watts * math.exp((self._counted - now) / self._fade) + wanted / self._fade
        self._counted = now

    def _end_slots(self, now: int, length: int) -> None:
        """Close the slots that have ended."""
        ended = (now - self._slot_began) // length
        if ended < 1 or not self._ladders:
            return
        self._slots.append(self._slot_nanojoules / length)
        self._slots.extend([0.0] * min(ended - 1, SLOTS))
        self._slot_began += ended * length
        self._slot_nanojoules = 0
        ordered = sorted(self._slots)
        self._usual_watts = ordered[int(QUANTILE * len(ordered))]
        # Forget what has not come for long, look at the points anew, and weigh the ladders by what came of late.
        fade = (1 - 1 / SLOTS) ** ended
        self._ladders = {
            points: _Ladder(points, ladder.images * fade)
            for points, ladder in self._ladders.items()
            if ladder.images * fade > FORGOTTEN_IMAGES
        }
        self._merge()

    def _merge(self) -> None:
        wanted = sum(ladder.images * ladder.nanojoules for ladder in self._ladders.values())
        self._steps = sorted(
            (
                (steepness, ladder.images * nanojoules / wanted)
                for ladder in self._ladders.values()
                for steepness, nanojoules in ladder.steps
            ),
            reverse=True,
        )

    def price(self, watts: float, now: int) -> float:
        """Give the price in accuracy per nanojoule at which the demand takes just `watts`."""
        # A moment more than has passed: one request alone is no demand yet.
        known = -math.expm1((self._began - now) / self._fade - 0.1)
        wanted_watts = max(self._usual_watts, self._watts * math.exp((self._counted - now) / self._fade) / known)
        if wanted_watts <= max(watts, 0.0):
            return 0.0
        self._turn = (self._turn + GOLDEN) % 1.0
        share = max(watts / wanted_watts, 0.0)
        for steepness, part in self._steps:
            if self._turn * part >= share:
                return steepness * DEARER
            share -= part
        return 0.0
