"""A hostile client on the daemon's port: a good one is served meanwhile, and nothing stays behind.

These are a tenth of what `python -m tests.bench.faults` does, which judges the times as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.daemon.attacks import ATTACKS, MEBIBYTE, Attack, survive, wait_for_descriptors
from tests.soak.kills import stick_configuration

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon

POLICY = '[policy.roomy]\nstrategy = "accuracy"\nbudget_watts = 1000.0\n'
PART = 10
# What gRPC and the allocator keep of a burst.
KEPT_BYTES = 64 * MEBIBYTE


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack(
    start_daemon: StartDaemon, image: NDArray[np.uint8], attack: Attack, record_property: Callable[[str, Any], None]
) -> None:
    """No call of a good client fails; memory and descriptors return to what they were."""
    daemon = start_daemon(stick_configuration(POLICY, "roomy"))
    process = psutil.Process(daemon.process.pid)
    daemon.classify(image)
    before = process.num_fds()
    survived = survive(daemon, image, attack, attack.size // PART)
    for name, value in survived.figures.items():
        record_property(name, value)
    assert survived.failures == []
    assert survived.after_bytes - survived.before_bytes < KEPT_BYTES
    daemon.classify(image)
    wait_for_descriptors(process, before)
    assert process.num_fds() <= before
