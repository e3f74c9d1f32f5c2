"""Who gets the joules: the energy of a request, in whole nanojoules."""

from __future__ import annotations

from typing import NamedTuple

from daemon.clock import NANO
from daemon.points import Point
from hal.device import Inference

# A request's attempts: those that failed are numbered from 1 on, 0 is the one that was answered or ran last.
ATTEMPT_BITS = 8


def row_id(request_id: int, attempt: int = 0) -> int:
    """Give the number of an attempt in the books."""
    return request_id << ATTEMPT_BITS | attempt


def split_row_id(row: int) -> tuple[int, int]:
    """Give the request and the attempt of a number in the books."""
    return row >> ATTEMPT_BITS, row & (1 << ATTEMPT_BITS) - 1


class Energy(NamedTuple):
    """What a request cost, with every label that a figure must carry.

    `dynamic_nanojoules` is what the request added, `static_nanojoules` its share of what the device draws anyway, by
    occupancy. `uncertainty_nanojoules` is the standard uncertainty of the dynamic part.
    """

    dynamic_nanojoules: int
    static_nanojoules: int
    uncertainty_nanojoules: int
    provenance: str
    boundary: str
    sharing: str
    state: str = "provisional"

    @property
    def total_nanojoules(self) -> int:
        """Give the dynamic and the static part together."""
        return self.dynamic_nanojoules + self.static_nanojoules


def provisional(point: Point, inference: Inference, static_watts: float, first: int, images: int) -> Energy:
    """Give the figure that leaves with the reply of the images `first` to `first + images` of a batch.

    A device runs one batch at a time, so all of it belongs to the batch; its images share it equally, in whole
    nanojoules that add up to the batch's.
    """
    batch = len(inference.scores)
    return Energy(
        _share(inference.dynamic_joules, first, images, batch),
        _share(static_watts * inference.seconds, first, images, batch),
        _share(inference.uncertainty_joules, first, images, batch),
        point.provenance,
        point.boundary,
        "exclusive" if images == batch else "shared",
    )


def _share(joules: float, first: int, images: int, batch: int) -> int:
    """Give the nanojoules of the images `first` to `first + images` of a batch."""
    total = round(joules * NANO)
    return total * (first + images) // batch - total * first // batch


def with_failures(energy: Energy, failed_nanojoules: int) -> Energy:
    """Add what failed attempts may have spent, of which nothing more is known than the bound."""
    if not failed_nanojoules:
        return energy
    return energy._replace(
        dynamic_nanojoules=energy.dynamic_nanojoules + failed_nanojoules,
        uncertainty_nanojoules=energy.uncertainty_nanojoules + failed_nanojoules,
    )
