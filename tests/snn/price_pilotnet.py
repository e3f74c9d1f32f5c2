"""Print what the model says pilotnet_lif costs, beside what Intel measured on Loihi 2.

JOULED_VECTORS=... python -m tests.snn.price_pilotnet
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from hal.energy import loihi
from hal.snn import reference
from hal.snn.placement import place
from models import netx

STEPS = 16
# Published for pilotnet_lif at 16 steps on Loihi 2: dynamic and total energy, and time, of one inference.
MEASURED_DYNAMIC_JOULES, MEASURED_TOTAL_JOULES, MEASURED_SECONDS = 1.0935e-3, 1.661e-3, 2.446e-3


def main() -> None:
    """Print events, cores and time layer by layer, and the comparison."""
    folder = Path(os.environ["JOULED_VECTORS"]) / "netx" / "pilotnet_lif"
    network = netx.read(folder / "network.net")
    bias = np.load(folder / "image.npy").astype(np.int64).transpose(2, 1, 0)[np.newaxis]
    run = reference.run(network, bias, STEPS)
    placement = place(network, chips=2)
    lines = [f"{'layer':10}{'synaptic operations':>22}{'spikes':>10}{'updates':>10}{'cores':>7}{'busy [ms]':>11}"]
    for layer, events in zip(placement.layers, run.layers, strict=True):
        updates = events.active_updates + events.inactive_updates
        busy = loihi.work_seconds(events) / layer.cores * 1e3
        counts = f"{events.synaptic_operations:22,}{events.active_updates:10,}{updates:10,}"
        lines.append(f"{layer.name:10}{counts}{layer.cores:7}{busy:11.3f}")
    joules = loihi.dynamic_joules(run.events)
    seconds = loihi.seconds(run.layers, [layer.cores for layer in placement.layers], STEPS)
    total = joules + loihi.static_watts(placement.chips, placement.cores) * seconds
    lines.append(f"\n{placement.cores} cores on {placement.chips} chips of Loihi 1\n")
    lines.append(f"{'':16}{'model':>10}{'measured':>10}{'model / measured':>18}")
    for name, model, measured in (
        ("dynamic [mJ]", joules, MEASURED_DYNAMIC_JOULES),
        ("total [mJ]", total, MEASURED_TOTAL_JOULES),
        ("time [ms]", seconds, MEASURED_SECONDS),
    ):
        lines.append(f"{name:16}{model * 1e3:10.4f}{measured * 1e3:10.4f}{model / measured:18.2f}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
