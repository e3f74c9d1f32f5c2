"""Record what Lava 0.10 itself computes for random networks, for `test_lava.py` to compare with.

Runs in the environment that `jouled runtime install loihi` makes:

    $(jouled runtime install loihi --json | jq -r .loihi) tests/snn/record_lava.py tests/vectors/lava.npz

Names such as `spiking/1003/` behind the file limit it to these networks.
A recording starts at Lava's first step and so contains the one step that each synapse takes.
"""

# mypy: ignore-errors
# Lava is not in the environment that checks types.
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

import random_networks  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc.monitor.process import Monitor  # noqa: E402

from hal.lava.network import Graph  # noqa: E402
from hal.snn.network import Delta, Lif, Sigma, SigmaDelta  # noqa: E402

SPIKING_SEEDS = range(1000, 1030)
SIGMA_DELTA_SEEDS = range(2000, 2010)
# The variables of a process that hold what a trace calls u and v; a Sigma has no v.
VARIABLES = {Lif: ("u", "v"), SigmaDelta: ("sigma", "residue"), Delta: ("act", "residue"), Sigma: ("sigma",)}


def run(case: random_networks.Case, steps: int) -> dict[str, np.ndarray]:
    """Run a network in Lava and give spikes, u and v of each layer as (steps, C, H, W)."""
    layers = case.network.layers
    processes = Graph(case.network, case.bias[:, 0] if case.bias.ndim == 5 else case.bias[0]).neurons
    probes = []
    for layer, process in zip(layers, processes, strict=True):
        variables = [getattr(process, name) for name in VARIABLES[type(layer.neuron)]]
        for name, target in zip(("spikes", "u", "v"), [process.s_out, *variables], strict=False):
            monitor = Monitor()
            monitor.probe(target, steps)
            probes.append((f"{name}/{layer.name}", monitor, process, target, layer.shape))
    last = processes[-1]
    last.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    arrays = {}
    for name, monitor, process, target, shape in probes:
        recorded = monitor.get_data()[process.name][target.name].reshape(steps, *process.s_out.shape)
        ordered = recorded.transpose(0, 3, 2, 1) if recorded.ndim == 4 else recorded
        arrays[name] = ordered.reshape(steps, *shape).astype(np.int32)
    last.stop()
    return arrays


def main(path: Path, only: list[str]) -> None:
    """Record all networks into one file, or only those named."""
    arrays: dict[str, np.ndarray] = {}
    for family, seeds in (("spiking", SPIKING_SEEDS), ("sigma_delta", SIGMA_DELTA_SEEDS)):
        for seed in seeds:
            if only and f"{family}/{seed}/" not in only:
                continue
            case = getattr(random_networks, family)(seed, lava=True)
            for name, array in run(case, case.steps).items():
                arrays[f"{family}/{seed}/{name}"] = array
            sys.stdout.write(f"{family} {seed}\n")
            sys.stdout.flush()
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
