"""Record what Lava 0.10 itself computes for random networks, for `test_lava.py` to compare with.

Runs in the environment that `jouled runtime install loihi` makes:

    $(jouled runtime install loihi --json | jq -r .loihi) tests/snn/record_lava.py tests/vectors/lava.npz

Behind the file, names such as `spiking/1003/` limit it to these networks; files that `save_case` wrote are run instead.
A recording starts at Lava's first step and so contains the one step that each synapse takes.
"""

# mypy: ignore-errors
# Lava is not in the environment that checks types.
from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

import random_networks  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc.monitor.process import Monitor  # noqa: E402

from hal.lava.network import Graph  # noqa: E402
from hal.snn.network import Accumulator, Delta, Lif, Sigma, SigmaDelta  # noqa: E402

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
        if isinstance(layer.neuron, Accumulator):
            continue  # Lava has none; the driver reads its sum otherwise.
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


def cases(names: list[str]) -> Iterator[tuple[str, random_networks.Case]]:
    """Give the networks by their prefix: those named, or all."""
    for name in names:
        if name.endswith(".npz"):
            yield f"{Path(name).stem}/", random_networks.load_case(Path(name))
    if any(name.endswith(".npz") for name in names):
        return
    for family, seeds in (("spiking", SPIKING_SEEDS), ("sigma_delta", SIGMA_DELTA_SEEDS)):
        for seed in seeds:
            prefix = f"{family}/{seed}/"
            if not names or prefix in names:
                yield prefix, getattr(random_networks, family)(seed, lava=True)


def main(path: Path, names: list[str]) -> None:
    """Record the networks into one file."""
    arrays: dict[str, np.ndarray] = {}
    for prefix, case in cases(names):
        for name, array in run(case, case.steps).items():
            arrays[prefix + name] = array
        sys.stdout.write(f"{prefix}\n")
        sys.stdout.flush()
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
