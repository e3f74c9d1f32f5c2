"""A daemon whose simulators fail every so often, as hardware does: `python -m tests.daemon.faulty serve ...`."""

from __future__ import annotations

from itertools import count
from typing import Any

from daemon.cli.main import run
from hal.errors import DeviceUnavailable, Reason
from hal.loihi_sim import LoihiSimProgram
from hal.ncs2_sim import Ncs2SimProgram

# One run in so many fails, after it has begun.
FAILS_EVERY = 100


def _fail_now_and_then(program: Any, device: str) -> None:
    infer, runs = program.__call__, count(1)

    def infer_or_fail(self: Any, images: Any, steps: int, margin: int = 0) -> Any:
        inference = infer(self, images, steps, margin)
        if next(runs) % FAILS_EVERY == 0:
            raise DeviceUnavailable(device, Reason.FAILED, "a fault of the tests")
        return inference

    program.__call__ = infer_or_fail


if __name__ == "__main__":
    _fail_now_and_then(LoihiSimProgram, "loihi-sim")
    _fail_now_and_then(Ncs2SimProgram, "ncs2-sim")
    run()
