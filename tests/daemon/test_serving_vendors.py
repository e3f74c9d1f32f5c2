"""A running daemon with devices of vendors' libraries: one that serves, two whose hardware is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from protos import jouled_pb2 as pb
from tests.daemon.serving import CALL_SECONDS, configuration, running
from tests.hal.ways import interpreter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEVICES = """
[device.lava]
driver = "loihi-lava"
time_limit_seconds = 30.0
[device.loihi-sim]
driver = "loihi-sim"
[device.stick]
driver = "ncs2"
fallback = "ncs2-sim"
[device.ncs2-sim]
driver = "ncs2-sim"
[device.board]
driver = "loihi"
partition = "nahuku08"
"""
POLICIES = """
[policy.lava]
strategy = "pin"
pin = "lava"
budget_watts = 100.0
[policy.sim]
strategy = "pin"
pin = "loihi-sim"
budget_watts = 100.0
[policy.dense]
strategy = "pin"
pin = "dnn"
budget_watts = 100.0
"""


def test_vendors(image: NDArray[np.uint8]) -> None:
    """Lava answers and is charged as the simulator, a missing stick is stood in for, and what is missing is said."""
    for runtime in ("loihi", "ncs2"):
        interpreter(runtime)
    said = ("device unavailable", "worker says")
    with running(configuration(POLICIES, start="lava", devices=DEVICES), may_log=said) as daemon:
        states = {
            state.name: state for state in daemon.control.Devices(pb.DevicesRequest(), timeout=CALL_SECONDS).devices
        }
        assert (states["lava"].health, states["lava"].simulated) == ("up", True)
        assert list(states["lava"].programs) == ["digits/1/snn"]
        assert states["stick"].health == states["board"].health == "lost"
        assert "not_found" in states["stick"].detail
        assert "no_runtime" in states["board"].detail
        assert states["ncs2-sim"].fallback_of == "stick"
        lava = daemon.classify(image)
        daemon.set_policy("sim")
        simulated = daemon.classify(image)
        daemon.set_policy("dense")
        dense = daemon.classify(image)
    assert (lava.device, simulated.device, dense.device) == ("lava", "loihi-sim", "ncs2-sim")
    assert [(label.name, label.score) for label in lava.labels] == [
        (label.name, label.score) for label in simulated.labels
    ]
    assert lava.steps == simulated.steps
    assert lava.simulated
    assert lava.energy.provenance == "simulated"
    assert lava.energy.dynamic_nanojoules == pytest.approx(simulated.energy.dynamic_nanojoules, abs=1)
