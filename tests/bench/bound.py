"""What no policy can exceed, even with foresight: a fractional multiple-choice knapsack over slots of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daemon.points import Point

SLOT_SECONDS = 0.5


def upper_bound(
    arrivals: NDArray[np.int64],
    points: Sequence[Point],
    nanojoules: float,
    window_seconds: float,
    deadline_seconds: float,
) -> tuple[float, float]:
    """Give the largest sum of accuracies, and how many requests are answered for it.

    Requests of a slot are answered in shares, by any point, in the same slot or, where their deadline allows it, in the
    next. In every window of whole slots the mean energies of what is answered stay within `nanojoules`; in every slot a
    device works no longer than the slot, and the longest of its requests that may have begun before. A policy that does
    not know the energy of a request beforehand cannot exceed this on average: windows that begin within a slot are
    left out, and requests come in halves. Solved by HiGHS.
    """
    seconds = arrivals / 1e9
    slots = int(seconds[-1] / SLOT_SECONDS) + 2
    window = round(window_seconds / SLOT_SECONDS)
    slot = (seconds / SLOT_SECONDS).astype(int)
    late = seconds > (slot + 1) * SLOT_SECONDS - deadline_seconds
    arrived, may_spill = np.bincount(slot, minlength=slots), np.bincount(slot[late], minlength=slots)
    # Variables: shares[slot, point, spilled], then the energy spent up to each slot.
    shares = sparse.eye(slots, format="csr")
    ones = np.ones((1, len(points)))
    none = np.zeros((1, len(points)))
    next_slot = sparse.eye(slots, k=-1, format="csr")

    def rows(own: NDArray[np.float64], spilled: NDArray[np.float64]) -> sparse.csr_array:
        """Weigh what is answered in each slot: that of its own requests and that of the slot before."""
        return sparse.hstack([sparse.kron(shares, own), sparse.kron(next_slot, spilled)], format="csr")

    energies = np.array([[point.dynamic_nanojoules for point in points]]) / nanojoules
    spent = rows(energies, energies)
    demand = sparse.hstack([sparse.kron(shares, ones), sparse.kron(shares, ones)])
    spill = sparse.hstack([sparse.kron(shares, none), sparse.kron(shares, ones)])
    parts, limits = [demand, spill], [arrived, may_spill]
    for device in sorted({point.device for point in points}):
        work = np.array([[point.seconds if point.device == device else 0.0 for point in points]])
        parts.append(rows(work, work))
        limits.append(np.full(slots, SLOT_SECONDS + work.max()))
    blank = sparse.csr_array((sum(part.shape[0] for part in parts), slots))
    windows = shares - sparse.eye(slots, k=-window, format="csr")
    upper = sparse.vstack(
        [
            sparse.hstack([sparse.vstack(parts), blank]),
            sparse.hstack([sparse.csr_array((slots, spent.shape[1])), windows]),
        ],
        format="csr",
    )
    cumulative = sparse.hstack([spent, next_slot - shares], format="csr")
    accuracies = np.tile([point.accuracy for point in points], 2 * slots)
    solution = linprog(
        np.concatenate([-accuracies, np.zeros(slots)]),
        A_ub=upper,
        b_ub=np.concatenate([*limits, np.ones(slots)]),
        A_eq=cumulative,
        b_eq=np.zeros(slots),
        method="highs",
    )
    if solution.status != 0:
        raise RuntimeError(f"HiGHS: {solution.message}")
    return -float(solution.fun), float(solution.x[: 2 * slots * len(points)].sum())
