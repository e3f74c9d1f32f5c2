"""One engine of `tests.bench.snn`, in a process of its own and possibly under another interpreter.

    python snn_engines.py ENGINE NETWORK.json ARRAYS.npz STEPS

It reads orders from its standard input, one JSON object per line, and answers each with one line:
`{"batch": N, "seconds": S}` runs batches until S have passed and answers with the seconds of each;
`{"state": true}` answers with the last layer's voltages, or 64 times its sums, after the first picture has passed it.
"""

# mypy: ignore-errors
# Lava, snnTorch and SpikingJelly are not in the environment that checks types.
from __future__ import annotations

import dataclasses
import functools
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np

UNITY = 4096


def prepare_project(engine, structure, arrays, steps):
    """Give a function that runs pictures in the project's fast or reference engine, and the last layer's state."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from hal.snn import fast, parts, reference
    from hal.snn.network import Accumulator

    network = parts.put_together(structure, {name: arrays[name] for name in arrays.files if name != "bias"}, "net")
    first, depth = arrays["bias"][:1], len(network.layers) - 1
    # In Lava a synapse takes a step, during which the biases of later layers are already at work.
    late = [dataclasses.replace(layer, delay=layer.delay + 1) for layer in network.layers[1:]]
    lava = dataclasses.replace(network, layers=(network.layers[0], *late))
    if engine == "reference":
        run = functools.partial(reference.run, network, steps=steps)
        traced = reference.run(lava, first, steps + depth, trace=True)
    else:
        run = functools.partial(fast.compile_network(network).run, steps=steps)
        traced = fast.compile_network(lava).run(first, steps + depth, trace=True)
    last = traced.traces[network.layers[-1].name]
    summing = isinstance(network.layers[-1].neuron, Accumulator)
    return run, last.u[-1, 0] * 64 if summing else last.v[-1, 0]


def prepare_lava(_, structure, arrays, steps):
    """Give a function that runs the first picture in Lava's own simulation of the chip, whatever it is asked for.

    The runs that are timed go on from where the last one ended, as clearing the state would take longer than the run;
    how long a step takes does not depend on it.
    """
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.conv.process import Conv
    from lava.proc.dense.process import Dense
    from lava.proc.lif.process import LIF

    logging.disable(logging.CRITICAL)
    neurons = []
    for index, layer in enumerate(structure["layers"]):
        flat = layer.get("synapse", {"kind": ""})["kind"] == "dense" or layer["shape"][1:] == [1, 1]
        shape = (int(np.prod(layer["shape"])),) if flat else tuple(layer["shape"][::-1])
        bias = arrays[f"{index}.bias"].astype(int) if f"{index}.bias" in arrays.files else np.zeros(layer["shape"], int)
        if index == 0:
            bias = bias + arrays["bias"][0]
        neuron = layer["neuron"]
        if neuron["kind"] == "accumulator":
            neuron = {"threshold": (1 << 17) - 1, "current_decay": UNITY, "voltage_decay": 0, "bias_exponent": 6}
        neurons.append(
            LIF(
                shape=shape, vth=neuron["threshold"], du=neuron["current_decay"] - 1, dv=neuron["voltage_decay"],
                bias_mant=bias.transpose(2, 1, 0).reshape(shape), bias_exp=neuron["bias_exponent"],
            )
        )  # fmt: skip
        if index == 0:
            continue
        synapse, weight = layer["synapse"], arrays[f"{index}.weight"].astype(int)
        source = neurons[-2].s_out
        if synapse["kind"] == "dense":
            process = Dense(weights=weight, num_message_bits=0)
            ready = source if len(source.shape) == 1 else source.transpose([2, 1, 0]).flatten()
        else:
            # Lava convolves where the network correlates, and its kernels are (out, x, y, in).
            process = Conv(
                input_shape=source.shape, weight=weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1), num_message_bits=0,
                stride=synapse["stride"][::-1], padding=synapse["padding"][::-1],
                dilation=synapse["dilation"][::-1], groups=synapse["groups"],
            )  # fmt: skip
            ready = source
        ready.connect(process.s_in)
        process.a_out.connect(neurons[-1].a_in)
    last, configuration = neurons[-1], Loihi2SimCfg(select_tag="fixed_pt")
    # Each layer follows the one before by a step.
    last.run(condition=RunSteps(num_steps=steps + len(neurons) - 1), run_cfg=configuration)
    state = last.v.get().copy()

    def run(_):
        last.run(condition=RunSteps(num_steps=steps), run_cfg=configuration)

    run.stop = last.stop
    return run, state


def prepare_snntorch(_, structure, arrays, steps):
    """Give a function that runs pictures in snnTorch, layer after layer at each step; no state is compared."""
    import snntorch
    import torch

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    layers = []
    for forward, bias, neuron in _torch_layers(torch, structure, arrays):
        fires = neuron["kind"] == "lif"
        beta = 1 - neuron["voltage_decay"] / UNITY if fires else 1.0
        threshold = 64.0 * neuron["threshold"] if fires else 1e30
        layers.append((forward, bias, snntorch.Leaky(beta=beta, threshold=threshold, reset_mechanism="zero"), fires))

    def run(bias):
        picture = torch.from_numpy(bias.astype(np.float32)) * 64
        states = [neuron.init_leaky() for _, _, neuron, _ in layers]
        for _ in range(steps):
            spikes = picture
            for index, (forward, own, neuron, fires) in enumerate(layers):
                current = forward(spikes) if index else spikes
                if own is not None:
                    current = current + own
                spikes, states[index] = neuron(current, states[index])
        return states[-1]

    return run, None


def prepare_spikingjelly(_, structure, arrays, steps):
    """Give a function that runs pictures in SpikingJelly, all steps of a layer at once; no state is compared."""
    import torch
    from spikingjelly.activation_based import functional
    from spikingjelly.activation_based import neuron as nodes

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    layers = []
    for forward, bias, neuron in _torch_layers(torch, structure, arrays):
        node = None
        if neuron["kind"] == "lif" and neuron["voltage_decay"]:
            node = nodes.LIFNode(
                tau=UNITY / neuron["voltage_decay"], decay_input=False, v_threshold=64.0 * neuron["threshold"],
                v_reset=0.0, step_mode="m",
            )  # fmt: skip
        elif neuron["kind"] == "lif":
            node = nodes.IFNode(v_threshold=64.0 * neuron["threshold"], v_reset=0.0, step_mode="m")
        layers.append((forward, bias, None if node is None else node.eval()))

    def run(bias):
        spikes = (torch.from_numpy(bias.astype(np.float32)) * 64).expand(steps, *bias.shape)
        for index, (forward, own, node) in enumerate(layers):
            if index:
                spikes = forward(spikes.flatten(0, 1)).unflatten(0, (steps, len(bias)))
            if own is not None:
                spikes = spikes + own
            if node is not None:
                functional.reset_net(node)
                spikes = node(spikes)
        return spikes.sum(0)

    return run, None


def _torch_layers(torch, structure, arrays):
    """Give (function from spikes to currents, bias or None, neuron) of each layer; everything in units of the state."""
    layers = []
    for index, layer in enumerate(structure["layers"]):
        bias = None
        if f"{index}.bias" in arrays.files:
            bias = torch.from_numpy(arrays[f"{index}.bias"].astype(np.float32)) * 64
        if index == 0:
            layers.append((None, bias, layer["neuron"]))
            continue
        synapse = layer["synapse"]
        weight = torch.from_numpy(arrays[f"{index}.weight"].astype(np.float32)) * 64
        if synapse["kind"] == "dense":
            bias = None if bias is None else bias.flatten()

            def forward(spikes, weight=weight):
                return torch.nn.functional.linear(spikes.flatten(1), weight)
        else:

            def forward(spikes, weight=weight, synapse=synapse):
                return torch.nn.functional.conv2d(
                    spikes, weight, None, synapse["stride"], synapse["padding"], synapse["dilation"], synapse["groups"]
                )

        layers.append((forward, bias, layer["neuron"]))
    return layers


PREPARE = {
    "fast": prepare_project,
    "reference": prepare_project,
    "lava": prepare_lava,
    "snntorch": prepare_snntorch,
    "spikingjelly": prepare_spikingjelly,
}


def measure(run, pictures, batch, seconds):
    """Give the seconds of each batch until `seconds` have passed, of at least two."""
    times, position = [], 0
    until = time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < until:
        some = np.take(pictures, range(position, position + batch), axis=0, mode="wrap")
        started = time.perf_counter()
        run(some)
        times.append(time.perf_counter() - started)
        position += batch
    return times


def main(engine: str, structure: str, arrays: str, steps: str) -> None:
    """Serve orders until the input ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    arrays = np.load(arrays)
    run, state = PREPARE[engine](engine, json.loads(Path(structure).read_text()), arrays, int(steps))
    try:
        serve(run, state, arrays["bias"], answers)
    finally:
        getattr(run, "stop", int)()


def serve(run, state, pictures, answers):
    """Answer orders until there are no more."""
    run(pictures[:1])
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = np.ravel(state).tolist() if "state" in order else measure(run, pictures, **order)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
