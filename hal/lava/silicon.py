"""Reach a Loihi 2 board through Intel's extension of Lava, which members of its research community get from Intel.

Written after Lava's public part (`lava/utils/loihi.py`, `slurm.py`, `profiler.py`) and Intel's published benchmarks of
lava-dl; no board was at hand to run it on.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import os
from typing import Any, Optional

import numpy as np
from lava.utils import loihi

from hal.errors import DeviceUnavailable, Reason

EXTENSION = "lava.utils.loihi2_profiler"
# How many steps the vendor's probe of the power keeps.
PROBED_STEPS = 100_000


def reach(device: str, partition: str, board: str) -> None:
    """Choose the board of a SLURM partition, or the one that NXSDKHOST names. Raises `DeviceUnavailable`."""
    if not loihi.is_installed(EXTENSION):
        raise DeviceUnavailable(
            device, Reason.NO_RUNTIME, f"Intel's extension of Lava for Loihi is not installed: no module {EXTENSION}"
        )
    if not (partition or board):
        if "NXSDKHOST" not in os.environ:
            raise DeviceUnavailable(
                device, Reason.NOT_FOUND, "neither a partition nor a board is configured, and NXSDKHOST names no host"
            )
        return
    try:
        loihi.use_slurm_host(partition=partition or None, board=board or None)
    except (ValueError, OSError) as error:
        # Lava starts `sinfo`, which may not be installed.
        raise DeviceUnavailable(device, Reason.NOT_FOUND, str(error)) from None


def power_probe() -> Optional[Any]:
    """Give the vendor's probe of the power, to be called back around each run, or None where this board has none."""
    try:
        from lava.utils import loihi2_profiler

        return loihi2_profiler.Loihi2Power(num_steps=PROBED_STEPS)
    except (ImportError, AttributeError, NotImplementedError):
        return None


def watts(probe: Any) -> tuple[float, float]:
    """Give the static power that the probe measured, and the power above it, as means over what it keeps."""
    static = float(np.mean(probe.static_total_power))
    return static, max(float(np.mean(probe.total_power)) - static, 0.0)
