"""Record what Lava 0.10 itself computes for random networks, for `test_lava.py` to compare with.

Runs in an environment of its own, with Python 3.10, `lava-nc==0.10.0` and `numpy<2`:

    python tests/snn/record_lava.py tests/vectors/lava.npz

A recording starts at Lava's first step and so contains the one step that each synapse takes.
"""

# mypy: ignore-errors
# Lava is not in the environment that checks types.
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

import random_networks  # noqa: E402
from lava.magma.core.run_conditions import RunSteps  # noqa: E402
from lava.magma.core.run_configs import Loihi2SimCfg  # noqa: E402
from lava.proc import io  # noqa: E402
from lava.proc.conv.process import Conv as LavaConv  # noqa: E402
from lava.proc.dense.process import DelayDense  # noqa: E402
from lava.proc.dense.process import Dense as LavaDense  # noqa: E402
from lava.proc.lif.process import LIF  # noqa: E402
from lava.proc.monitor.process import Monitor  # noqa: E402
from lava.proc.sdn.process import Delta as LavaDelta  # noqa: E402
from lava.proc.sdn.process import Sigma as LavaSigma  # noqa: E402
from lava.proc.sdn.process import SigmaDelta as LavaSigmaDelta  # noqa: E402

from hal.snn.network import Conv, Delta, Dense, Layer, Lif, Sigma, SigmaDelta, SumPool  # noqa: E402

SPIKING_SEEDS = range(1000, 1030)
SIGMA_DELTA_SEEDS = range(2000, 2010)
GRADED_MESSAGE_BITS = 16
# The variables of a process that hold what a trace calls u and v; a Sigma has no v.
VARIABLES = {Lif: ("u", "v"), SigmaDelta: ("sigma", "residue"), Delta: ("act", "residue"), Sigma: ("sigma",)}


def neurons(layer: Layer, bias: np.ndarray | None) -> Any:
    """Build the process of a layer's neurons; its tensors are in Lava's order W, H, C."""
    neuron = layer.neuron
    shape = layer.shape[::-1] if isinstance(layer.synapse, (Conv, SumPool)) else (layer.size,)
    if layer.synapse is None and layer.shape[1:] != (1, 1):
        shape = layer.shape[::-1]
    if bias is not None:
        bias = bias.transpose(2, 1, 0).reshape(shape)
    if isinstance(neuron, Lif):
        return LIF(
            shape=shape, vth=neuron.threshold, du=neuron.current_decay - 1, dv=neuron.voltage_decay,
            bias_mant=0 if bias is None else bias, bias_exp=neuron.bias_exponent,
            v=np.full(shape, neuron.initial_voltage),
        )  # fmt: skip
    if isinstance(neuron, Sigma):
        return LavaSigma(shape=shape)
    assert isinstance(neuron, (Delta, SigmaDelta))
    settings = {"spike_exp": neuron.spike_exponent, "state_exp": neuron.state_exponent, "vth": neuron.threshold}
    if isinstance(neuron, Delta):
        return LavaDelta(shape=shape, **settings)
    return LavaSigmaDelta(shape=shape, bias=np.zeros(shape, int) if bias is None else bias, **settings)


def synapses(layer: Layer, source: Any, message_bits: int) -> Any:
    """Build the process of a layer's synapses."""
    synapse = layer.synapse
    if isinstance(synapse, Dense) and layer.delay:
        delays = np.full(synapse.weight.shape, layer.delay)
        return DelayDense(weights=synapse.weight.astype(int), delays=delays, num_message_bits=message_bits)
    if isinstance(synapse, Dense):
        return LavaDense(weights=synapse.weight.astype(int), num_message_bits=message_bits)
    if isinstance(synapse, SumPool):
        channels = layer.shape[0]
        weight = np.full((channels, 1, *synapse.kernel), synapse.weight, np.int16)
        synapse = Conv(weight, synapse.stride, groups=channels)
    assert isinstance(synapse, Conv)
    # Lava convolves where the network correlates, and its kernels are (out, x, y, in).
    weight = synapse.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1).astype(int)
    return LavaConv(
        input_shape=source, weight=weight, stride=synapse.stride[::-1], padding=synapse.padding[::-1],
        dilation=synapse.dilation[::-1], groups=synapse.groups, num_message_bits=message_bits,
    )  # fmt: skip


def run(case: random_networks.Case, steps: int) -> dict[str, np.ndarray]:
    """Run a network in Lava and give spikes, u and v of each layer as (steps, C, H, W)."""
    layers = case.network.layers
    graded = case.bias.ndim == 5
    first = layers[0].neuron
    processes = [neurons(layers[0], None if graded else case.bias[0])]
    if graded:
        frames = case.bias[:, 0].transpose(3, 2, 1, 0).reshape(*processes[0].a_in.shape, -1)
        source = io.source.RingBuffer(data=frames.astype(np.int32))
        source.s_out.connect(processes[0].a_in)
    for layer in layers[1:]:
        before, after = processes[-1], neurons(layer, layer.bias)
        synapse = synapses(layer, before.s_out.shape, GRADED_MESSAGE_BITS if isinstance(first, Delta) else 0)
        if isinstance(layer.synapse, Dense) and len(before.s_out.shape) == 3:
            before.s_out.transpose([2, 1, 0]).flatten().connect(synapse.s_in)
        else:
            before.s_out.connect(synapse.s_in)
        synapse.a_out.connect(after.a_in)
        processes.append(after)
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


def main(path: Path) -> None:
    """Record all networks into one file."""
    arrays: dict[str, np.ndarray] = {}
    for family, seeds in (("spiking", SPIKING_SEEDS), ("sigma_delta", SIGMA_DELTA_SEEDS)):
        for seed in seeds:
            case = getattr(random_networks, family)(seed, lava=True)
            for name, array in run(case, case.steps).items():
                arrays[f"{family}/{seed}/{name}"] = array
            sys.stdout.write(f"{family} {seed}\n")
            sys.stdout.flush()
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
