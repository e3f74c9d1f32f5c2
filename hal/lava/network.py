"""Build a network of Lava's processes, keep it running, and run one image after the other on it.

Lava's tensors are in the order (W, H, C), ours in (C, H, W). A synapse takes a step in Lava: layer k sees an image k
steps later than the input layer, and starts afresh then. What the layer before it sent for an earlier image arrives
until that very step and is forgotten with the state, so only synapses with a further delay have to be cleared as well.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg
from lava.proc import io
from lava.proc.conv.process import Conv as LavaConv
from lava.proc.dense.process import DelayDense
from lava.proc.dense.process import Dense as LavaDense
from lava.proc.lif.process import LIF
from lava.proc.sdn.process import Delta as LavaDelta
from lava.proc.sdn.process import Sigma as LavaSigma
from lava.proc.sdn.process import SigmaDelta as LavaSigmaDelta

from hal.energy.loihi import Events
from hal.errors import ArtifactError, CapacityError
from hal.lava.children import keep_together
from hal.lava.processes import SoftResetLif, Tally
from hal.snn import reference
from hal.snn.network import (
    DECAY_UNITY,
    STATE_LIMIT,
    SYNAPSE_SHIFT,
    THRESHOLD_LIMIT,
    Accumulator,
    Conv,
    Delta,
    Dense,
    Layer,
    Lif,
    Network,
    Sigma,
    SumPool,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

# Spikes are 0 and 1, or graded with a sign.
BINARY, GRADED_MESSAGE_BITS = 0, 16


@dataclass(frozen=True)
class Run:
    """What one image gave: `scores` (classes,), the `steps` that it took, and the events of each layer."""

    scores: Integers
    steps: int
    layers: tuple[Events, ...]


class Graph:
    """The processes of a network, connected: `neurons` and `synapses`, which has None for the first layer.

    A sigma-delta network has a `source` that sends the picture to its first layer at each step.
    """

    def __init__(self, network: Network, bias: Optional[Integers] = None) -> None:
        """Build the processes. `bias` (C, H, W) or (T, C, H, W) is what the input layer starts with."""
        first, *others = network.layers
        self.source: Any = None
        graded = isinstance(first.neuron, Delta)
        if graded:
            self.neurons = [_neurons(first, None)]
            frames = np.zeros((1, *first.shape)) if bias is None else bias.reshape(-1, *first.shape)
            data = np.ascontiguousarray(frames.transpose(3, 2, 1, 0), np.int32)
            self.source = io.source.RingBuffer(data=data.reshape(*self.neurons[0].a_in.shape, len(frames)))
            self.source.s_out.connect(self.neurons[0].a_in)
        else:
            self.neurons = [_neurons(first, np.zeros(first.shape, np.int64) if bias is None else bias)]
        self.synapses: list[Any] = [None]
        for layer in others:
            before, after = self.neurons[-1], _neurons(layer, layer.bias)
            synapse = _synapses(layer, before.s_out.shape, GRADED_MESSAGE_BITS if graded else BINARY)
            if isinstance(layer.synapse, Dense) and len(before.s_out.shape) == 3:
                # Weights are in the order C, H, W.
                before.s_out.transpose([2, 1, 0]).flatten().connect(synapse.s_in)
            else:
                before.s_out.connect(synapse.s_in)
            synapse.a_out.connect(after.a_in)
            self.synapses.append(synapse)
            self.neurons.append(after)


def _neurons(layer: Layer, bias: Optional[NDArray[np.signedinteger[Any]]]) -> Any:
    """Build the process of a layer's neurons."""
    neuron, shape = layer.neuron, lava_shape(layer)
    # Lava fills a variable in the order of its memory, so that has to be the usual one.
    mantissa = 0 if bias is None else np.ascontiguousarray(bias.transpose(2, 1, 0)).reshape(shape)
    if isinstance(neuron, Accumulator):
        # Its current is what arrives in a step, whose sum is the score; it must not fire.
        return LIF(shape=shape, vth=THRESHOLD_LIMIT, du=DECAY_UNITY - 1, dv=0)
    if isinstance(neuron, Lif):
        kind = SoftResetLif if neuron.reset == "subtract" else LIF
        return kind(
            shape=shape, vth=neuron.threshold, du=neuron.current_decay - 1, dv=neuron.voltage_decay,
            bias_mant=mantissa, bias_exp=neuron.bias_exponent, v=np.full(shape, neuron.initial_voltage),
        )  # fmt: skip
    if isinstance(neuron, Sigma):
        return LavaSigma(shape=shape)
    settings = {"spike_exp": neuron.spike_exponent, "state_exp": neuron.state_exponent, "vth": neuron.threshold}
    if isinstance(neuron, Delta):
        return LavaDelta(shape=shape, **settings)
    return LavaSigmaDelta(shape=shape, bias=np.broadcast_to(mantissa, shape), **settings)


def lava_shape(layer: Layer) -> tuple[int, ...]:
    """Give the shape of a layer's neurons in Lava: (W, H, C), or (N,) behind dense synapses."""
    spatial = isinstance(layer.synapse, (Conv, SumPool)) or (layer.synapse is None and layer.shape[1:] != (1, 1))
    return layer.shape[::-1] if spatial else (layer.size,)


def _synapses(layer: Layer, source: tuple[int, ...], message_bits: int) -> Any:
    """Build the process of a layer's synapses."""
    synapse = layer.synapse
    if isinstance(synapse, Dense):
        weight = synapse.weight.astype(int)
        if layer.delay:
            delays = np.full(weight.shape, layer.delay)
            return DelayDense(weights=weight, delays=delays, num_message_bits=message_bits)
        return LavaDense(weights=weight, num_message_bits=message_bits)
    if isinstance(synapse, SumPool):
        channels = layer.shape[0]
        kernel = np.full((channels, 1, *synapse.kernel), synapse.weight, np.int16)
        synapse = Conv(kernel, synapse.stride, groups=channels)
    if synapse is None:
        raise ValueError("an input layer has no synapses")
    # Lava convolves where the network correlates, and its kernels are (out, x, y, in).
    return LavaConv(
        input_shape=source, weight=synapse.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1).astype(int),
        stride=synapse.stride[::-1], padding=synapse.padding[::-1], dilation=synapse.dilation[::-1],
        groups=synapse.groups, num_message_bits=message_bits,
    )  # fmt: skip


def check(network: Network, subject: str, *, chip: bool) -> None:
    """Refuse what Lava, or with `chip` Intel's extension for the chip, cannot compute exactly.

    Raises `ArtifactError` or `CapacityError` that names the layer.
    """
    for layer in network.layers:
        name, neuron, synapse = f"{subject}, {layer.name}", layer.neuron, layer.synapse
        if isinstance(neuron, Lif) and neuron.current_decay == 0:
            raise ArtifactError(name, "Lava has no current that forgets nothing: its decay is 1 at least")
        if isinstance(synapse, Dense):
            _check_weights(synapse.weight, name, summed=isinstance(neuron, Accumulator))
        elif layer.delay:
            raise ArtifactError(name, "Lava delays dense synapses only")
        if chip and isinstance(neuron, Lif) and neuron.reset == "subtract":
            raise ArtifactError(name, "the chip's neurons are reset to zero, not by subtraction")
        if chip and isinstance(neuron, Delta):
            raise ArtifactError(name, "a sigma-delta input needs a process on the host that sends it")
    if chip and not isinstance(network.layers[-1].neuron, (Accumulator, Sigma)):
        raise ArtifactError(f"{subject}, {network.layers[-1].name}", "spikes cannot be read from the chip step by step")


def _check_weights(weight: NDArray[np.int16], name: str, *, summed: bool) -> None:
    mixed = bool((weight < 0).any() and (weight > 0).any())
    if mixed and (weight & 1).any():
        raise ArtifactError(name, "weights of both signs lose their low bit in Lava, and some are odd")
    most, limit = int(np.abs(weight.astype(np.int64)).sum(axis=1).max()), STATE_LIMIT >> SYNAPSE_SHIFT
    if summed and most > limit:
        # The score of a step is read from a current, which has 24 bits, 6 of them behind the point.
        raise CapacityError(name, most, limit, "units of synaptic input to one neuron in one step")


class Resident:
    """A network that keeps running: on the CPU with a `Tally` for each layer, or on the chip."""

    def __init__(
        self, network: Network, most_steps: int, *, chip: bool = False, callbacks: Optional[list[Any]] = None
    ) -> None:
        keep_together()
        self._network = network
        self._graph = Graph(network)
        self._lead = len(network.layers) - 1
        self._history = most_steps + self._lead
        self._tallies = [] if chip else self._connect_tallies()
        select = {"select_tag": "fixed_pt"}
        self._configuration = Loihi2HwCfg(callback_fxs=callbacks, **select) if chip else Loihi2SimCfg(**select)
        self._now = 0
        self._advance()

    def _connect_tallies(self) -> list[Any]:
        layers, tallies = self._network.layers, []
        for layer, after, process in zip(layers, [*layers[1:], None], self._graph.neurons):
            if isinstance(layer.neuron, (Accumulator, Sigma)):
                continue  # It never fires; only the last layer may be one.
            fan_out = np.zeros(layer.shape, np.int64)
            if after is not None:
                fan_out = reference.fan_out(after.synapse, layer.shape)
            tally = Tally(fan_out=fan_out.transpose(2, 1, 0).reshape(lava_shape(layer)), history=self._history)
            process.s_out.connect(tally.s_in)
            tallies.append(tally)
        return tallies

    def run(self, bias: Integers, steps: int, margin: int) -> Run:
        """Run one image, whose input bias is (C, H, W), as `hal.snn.fast.Engine.run` does."""
        first, last = self._now, self._network.layers[-1]
        scores = np.zeros(last.size, np.int64)
        taken = 0
        while taken < steps:
            if self._now - first <= self._lead:
                self._restart(self._now - first, bias)
            self._advance()
            if self._now - first <= self._lead:
                continue
            taken += 1
            scores = self._scores(scores)
            if margin:
                *_, second, best = [0, *sorted(scores.tolist())]
                if best - second >= margin:
                    break
        return Run(scores, taken, self._events(first, taken))

    def _restart(self, index: int, bias: Integers) -> None:
        """Let a layer forget what was; the first one gets its bias."""
        layer, process = self._network.layers[index], self._graph.neurons[index]
        for name, start in _start(layer).items():
            getattr(process, name).set(np.full(process.s_out.shape, start))
        if index < self._lead and self._network.layers[index + 1].delay:
            # What it sent is under way for longer than a step.
            leaving = self._graph.synapses[index + 1]
            leaving.a_buff.set(np.zeros(leaving.a_buff.shape))
        if index == 0:
            picture = bias.transpose(2, 1, 0).reshape(process.s_out.shape)
            if self._graph.source is None:
                process.bias_mant.set(picture)
            else:
                self._graph.source.data.set(picture[..., np.newaxis])

    def _advance(self) -> None:
        """Run a step."""
        self._graph.neurons[-1].run(condition=RunSteps(num_steps=1), run_cfg=self._configuration)
        self._now += 1

    def _scores(self, before: Integers) -> Integers:
        """Give the scores after this step."""
        layer, process = self._network.layers[-1], self._graph.neurons[-1]
        if isinstance(layer.neuron, Accumulator):
            added = _ours(process.u.get()) >> SYNAPSE_SHIFT
            bias = 0 if layer.bias is None else layer.bias.reshape(-1)
            return np.add(before + added, bias, dtype=np.int64)
        if isinstance(layer.neuron, Sigma):
            return _ours(process.sigma.get())
        return before + _ours(self._tallies[-1].spikes.get())

    def _events(self, first: int, steps: int) -> tuple[Events, ...]:
        """Give what each layer did for the image whose first step was `first`; nothing where nobody counts."""
        events, arrived = [], 0
        for index, layer in enumerate(self._network.layers):
            fired, operations = 0, 0
            if index < len(self._tallies):
                places = (first + index + np.arange(steps)) % self._history
                tally = self._tallies[index]
                fired, operations = (int(var.get()[places].sum()) for var in (tally.fired, tally.operations))
            events.append(Events(arrived, fired, layer.size * steps - fired))
            arrived = operations
        return tuple(events)

    def stop(self) -> None:
        """End Lava's processes."""
        self._graph.neurons[-1].stop()


def _start(layer: Layer) -> dict[str, int]:
    """Give what the neurons of a layer start an image with, by the name of Lava's variable."""
    neuron = layer.neuron
    if isinstance(neuron, Lif):
        voltage = {"v": neuron.initial_voltage}
        return voltage if neuron.current_decay == DECAY_UNITY else {**voltage, "u": 0}
    if isinstance(neuron, Accumulator):
        # Its current keeps nothing of the step before, and nobody looks at its voltage.
        return {}
    if isinstance(neuron, Sigma):
        return {"sigma": 0}
    changes = {"act": 0, "residue": 0}
    return changes if isinstance(neuron, Delta) else {**changes, "sigma": 0}


def _ours(values: NDArray[Any]) -> Integers:
    """Turn what Lava gives, floating-point numbers in its order, into integers in ours."""
    ordered = values.transpose(2, 1, 0) if values.ndim == 3 else values
    whole: Integers = np.rint(ordered).astype(np.int64).reshape(-1)
    return whole
