"""Who gets the joules: the energy of a request, in whole nanojoules."""

from __future__ import annotations

from dataclasses import dataclass

from daemon.clock import NANO
from daemon.points import Point
from hal.device import Inference


@dataclass(frozen=True)
class Energy:
    """What a request cost, with every label that a figure must carry.

    `dynamic_nanojoules` is what the request added, `static_nanojoules` its share of what the device draws anyway, by
    occupancy. `uncertainty_nanojoules` is the standard uncertainty of the dynamic part.
    """

    dynamic_nanojoules: int
    static_nanojoules: int
    uncertainty_nanojoules: int
    provenance: str
    boundary: str
    sharing: str = "exclusive"
    state: str = "provisional"

    @property
    def total_nanojoules(self) -> int:
        """Give the dynamic and the static part together."""
        return self.dynamic_nanojoules + self.static_nanojoules


def provisional(point: Point, inference: Inference, static_watts: float) -> Energy:
    """Give the figure that leaves with the reply: a device runs one batch at a time, so all of it is the request's."""
    return Energy(
        dynamic_nanojoules=round(inference.dynamic_joules * NANO),
        static_nanojoules=round(static_watts * inference.seconds * NANO),
        uncertainty_nanojoules=round(inference.uncertainty_joules * NANO),
        provenance=point.provenance,
        boundary=point.boundary,
    )


NOTHING = Energy(0, 0, 0, "simulated", "accelerator")
