"""What a cut of the budget at full load must look like, in a history of any origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.audit import EXACT
from daemon.windows import Reign, worst_windows

if TYPE_CHECKING:
    from daemon.history import History


def check_cut(history: History, cut: int) -> None:
    """Check the one cut of a history, from one reign to a smaller one at the moment `cut`.

    The window before it was too full for the new limit. The next dispatch comes within a window, and every window that
    ends after it fits the new limit: those before the new reign's included, to which the larger limit still applies.
    """
    before, after = history.reigns
    window, spending = after.window_nanoseconds, history.spending
    recent = (spending.ended > cut - window) & (spending.ended <= cut)
    assert spending.nanojoules[recent].sum() + before.static_watts * window > after.limit_nanojoules
    first = int(spending.started[spending.started > cut].min())
    assert first < cut + window
    held = Reign("held", after.limit_nanojoules, window, after.static_watts, first, int(spending.ended.max()))
    assert 0.9 < worst_windows([held], spending)["held"] <= 1 + EXACT
