"""Take a network apart into plain JSON and named arrays, and put it together again with every number checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from hal.errors import ArtifactError
from hal.snn.network import (
    BIAS_EXPONENT_LIMIT,
    BIAS_LIMIT,
    DECAY_UNITY,
    DELAY_LIMIT,
    EXPONENT_LIMIT,
    GRADED_BIAS_LIMIT,
    STATE_LIMIT,
    THRESHOLD_LIMIT,
    WEIGHT_MAX,
    WEIGHT_MIN,
    Accumulator,
    Conv,
    Delta,
    Dense,
    Encoder,
    Layer,
    Lif,
    Network,
    Neuron,
    Sigma,
    SigmaDelta,
    SumPool,
    Synapse,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LAYERS_LIMIT = 256
NEURONS_LIMIT = 1 << 22
EXTENT_LIMIT = 1 << 16
RESETS = ("zero", "subtract")
# Weights of eight bits with their sign are even in the chip's scale; halved they fit a byte.
WEIGHT_EXPONENT_LIMIT = 1
WEIGHT_TYPES = (np.dtype(np.int8), np.dtype(np.int16))
BIAS_TYPES = (*WEIGHT_TYPES, np.dtype(np.int32))
"""The arrays of layer i are named `i.weight` and `i.bias`, each in the narrowest type that holds it.

A weight is the stored number times 2 to the power of the synapse's `weight_exponent`, which is 0 where left out.
"""
Arrays = dict[str, "NDArray[Any]"]


def take_apart(network: Network) -> tuple[dict[str, Any], Arrays]:
    """Give the structure of a network, ready for JSON, and its arrays."""
    arrays: Arrays = {}
    layers = []
    for index, layer in enumerate(network.layers):
        entry: dict[str, Any] = {"name": layer.name, "shape": list(layer.shape), "neuron": _plain(layer.neuron)}
        if layer.synapse is not None:
            entry["synapse"] = _plain(layer.synapse)
        if isinstance(layer.synapse, (Dense, Conv)):
            exponent = _exponent(layer.synapse.weight)
            arrays[f"{index}.weight"] = _narrowest(layer.synapse.weight >> exponent, WEIGHT_TYPES)
            if exponent:
                entry["synapse"]["weight_exponent"] = exponent
        if layer.bias is not None:
            arrays[f"{index}.bias"] = _narrowest(layer.bias, BIAS_TYPES)
        if layer.delay:
            entry["delay"] = layer.delay
        layers.append(entry)
    return {"encoder": _plain(network.encoder), "layers": layers}, arrays


def _plain(part: object) -> dict[str, Any]:
    fields = {name: value for name, value in vars(part).items() if not isinstance(value, np.ndarray)}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    return {"kind": type(part).__name__.lower(), **plain}


def _exponent(weight: NDArray[np.int16]) -> int:
    """Give 1 where weights have room in a byte only if they are halved, and lose nothing by it."""
    return int(not _fits(weight, np.dtype(np.int8)) and not (weight & 1).any())


def _narrowest(array: NDArray[Any], types: Sequence[np.dtype[Any]]) -> NDArray[Any]:
    """Give the array in the first of the integer types that holds all of it."""
    return array.astype(next(each for each in types if _fits(array, each)))


def _fits(array: NDArray[Any], integers: np.dtype[Any]) -> bool:
    limits = np.iinfo(integers)
    return limits.min <= int(array.min(initial=0)) and int(array.max(initial=0)) <= limits.max


def put_together(structure: Any, arrays: Arrays, subject: str) -> Network:
    """Build the network that `take_apart` gave. Raises `ArtifactError` that names layer, figure and limit."""
    root = _Entry(structure, subject)
    encoder = root.child("encoder")
    layers = root.value("layers", list)
    if not 1 < len(layers) <= LAYERS_LIMIT:
        raise ArtifactError(subject, f"{len(layers)} layers, between 2 and {LAYERS_LIMIT} are allowed")
    built: list[Layer] = []
    for index, content in enumerate(layers):
        entry = _Entry(content, f"{subject}, layer {index}")
        before = built[-1].shape if built else None
        built.append(_layer(entry, index, arrays, before))
        _check_place(entry, built[-1].neuron, first=index == 0, last=index == len(layers) - 1)
    names = [layer.name for layer in built]
    if len(set(names)) != len(names):
        raise ArtifactError(subject, "two layers have the same name")
    return Network(Encoder(encoder.number("scale"), encoder.number("offset")), tuple(built))


def _check_place(entry: _Entry, neuron: Neuron, *, first: bool, last: bool) -> None:
    kind = type(neuron).__name__.lower()
    if isinstance(neuron, (Accumulator, Sigma)) and not last:
        raise entry.error(f"a neuron of kind {kind} sends nothing, only the last layer may have it")
    if isinstance(neuron, Delta) != first and not isinstance(neuron, Lif):
        raise entry.error(f"a neuron of kind {kind} cannot be in {'the first' if first else 'a later'} layer")


def _layer(entry: _Entry, index: int, arrays: Arrays, before: Optional[tuple[int, int, int]]) -> Layer:
    shape = entry.extents("shape")
    if shape[0] * shape[1] * shape[2] > NEURONS_LIMIT:
        raise entry.error(f"{shape[0] * shape[1] * shape[2]} neurons exceed the limit of {NEURONS_LIMIT}")
    synapse = None
    if before is not None:
        synapse = _synapse(entry.child("synapse"), arrays.get(f"{index}.weight"))
        expected = output_shape(synapse, before, entry.subject)
        if expected != shape:
            raise entry.error(f"synapses from {before} give {expected}, the layer says {shape}")
    neuron = _neuron(entry.child("neuron"))
    bias = arrays.get(f"{index}.bias")
    if bias is not None:
        limit = GRADED_BIAS_LIMIT if isinstance(neuron, SigmaDelta) else BIAS_LIMIT
        entry.check_array("bias", bias, BIAS_TYPES, -limit, limit - 1)
        if isinstance(neuron, (Delta, Sigma)):
            raise entry.error(f"a neuron of kind {type(neuron).__name__.lower()} has no bias")
        if bias.shape != shape:
            raise entry.error(f"bias of shape {bias.shape} for neurons of shape {shape}")
    return Layer(
        entry.value("name", str), shape, neuron, synapse, None if bias is None else bias.astype(np.int32, copy=False),
        entry.whole("delay", 0, DELAY_LIMIT, default=0),
    )  # fmt: skip


def _neuron(entry: _Entry) -> Neuron:
    kind = entry.value("kind", str)
    if kind == "accumulator":
        return Accumulator()
    if kind == "sigma":
        return Sigma()
    if kind in ("delta", "sigmadelta"):
        return (Delta if kind == "delta" else SigmaDelta)(
            entry.whole("threshold", 0, THRESHOLD_LIMIT),
            entry.whole("spike_exponent", 0, EXPONENT_LIMIT),
            entry.whole("state_exponent", 0, EXPONENT_LIMIT),
        )
    if kind == "lif":
        reset = entry.value("reset", str)
        if reset not in RESETS:
            raise entry.error(f"reset {reset!r} is not one of {', '.join(RESETS)}")
        return Lif(
            entry.whole("threshold", 0, THRESHOLD_LIMIT),
            entry.whole("current_decay", 0, DECAY_UNITY),
            entry.whole("voltage_decay", 0, DECAY_UNITY),
            entry.whole("bias_exponent", 0, BIAS_EXPONENT_LIMIT),
            reset,
            entry.whole("initial_voltage", -STATE_LIMIT, STATE_LIMIT),
        )
    raise entry.error(f"unknown neuron kind {kind!r}")


def _synapse(entry: _Entry, weight: Optional[NDArray[Any]]) -> Synapse:
    kind = entry.value("kind", str)
    if kind == "sumpool":
        return SumPool(entry.pair("kernel"), entry.pair("stride"), entry.whole("weight", WEIGHT_MIN, WEIGHT_MAX))
    if kind not in ("dense", "conv"):
        raise entry.error(f"unknown synapse kind {kind!r}")
    if weight is None:
        raise entry.error("the weights are missing")
    exponent = entry.whole("weight_exponent", 0, WEIGHT_EXPONENT_LIMIT, default=0)
    entry.check_array("weight", weight, WEIGHT_TYPES, WEIGHT_MIN >> exponent, WEIGHT_MAX >> exponent)
    dimensions = 2 if kind == "dense" else 4
    if weight.ndim != dimensions or weight.size == 0:
        raise entry.error(f"weights of shape {weight.shape}, {dimensions} dimensions are needed")
    weight = weight.astype(np.int16, copy=False) << exponent
    if kind == "dense":
        return Dense(weight)
    groups = entry.whole("groups", 1, EXTENT_LIMIT)
    if weight.shape[0] % groups:
        raise entry.error(f"{weight.shape[0]} output channels do not divide into {groups} groups")
    return Conv(weight, entry.pair("stride"), entry.pair("padding", lowest=0), entry.pair("dilation"), groups)


def output_shape(synapse: Synapse, source: tuple[int, int, int], subject: str) -> tuple[int, int, int]:
    """Give (C, H, W) of the neurons that `synapse` leads to from a layer of shape `source`."""
    channels, height, width = source
    if isinstance(synapse, Dense):
        if synapse.weight.shape[1] != channels * height * width:
            figure = f"weights for {synapse.weight.shape[1]} inputs"
            raise ArtifactError(subject, f"{figure}, the layer before has {channels * height * width} neurons")
        return (synapse.weight.shape[0], 1, 1)
    if isinstance(synapse, SumPool):
        outputs, kernel, padding, dilation = channels, synapse.kernel, (0, 0), (1, 1)
    else:
        outputs, kernel = synapse.weight.shape[0], (synapse.weight.shape[2], synapse.weight.shape[3])
        padding, dilation = synapse.padding, synapse.dilation
        padded = channels * (height + 2 * padding[0]) * (width + 2 * padding[1])
        if padded > NEURONS_LIMIT:
            raise ArtifactError(subject, f"{padded} inputs with their padding exceed the limit of {NEURONS_LIMIT}")
        if synapse.weight.shape[1] * synapse.groups != channels:
            figure = f"weights for {synapse.weight.shape[1]} x {synapse.groups} channels"
            raise ArtifactError(subject, f"{figure}, the layer before has {channels}")
    extents = [
        (size + 2 * pad - gap * (width_of_kernel - 1) - 1) // step + 1
        for size, pad, gap, width_of_kernel, step in zip((height, width), padding, dilation, kernel, synapse.stride)
    ]
    if min(extents) < 1:
        raise ArtifactError(subject, f"a kernel of {kernel} does not fit into {height} x {width}")
    return (outputs, extents[0], extents[1])


class _Entry:
    """A JSON object being read, with the name that its errors carry."""

    def __init__(self, content: Any, subject: str) -> None:
        if not isinstance(content, dict):
            raise ArtifactError(subject, "an object is needed")
        self.content = content
        self.subject = subject

    def error(self, reason: str) -> ArtifactError:
        return ArtifactError(self.subject, reason)

    def child(self, key: str) -> _Entry:
        return _Entry(self.content.get(key), f"{self.subject}, {key}")

    def value(self, key: str, kind: type) -> Any:
        value = self.content.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(f"{key} is {_shown(value)}, {kind.__name__} is needed")
        return value

    def number(self, key: str) -> float:
        value = self.content.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) <= BIAS_LIMIT:
            raise self.error(f"{key} is {_shown(value)}, a number within +-{BIAS_LIMIT} is needed")
        return float(value)

    def whole(self, key: str, lowest: int, highest: int, default: Optional[int] = None) -> int:
        if default is not None and key not in self.content:
            return default
        value: int = self.value(key, int)
        if not lowest <= value <= highest:
            raise self.error(f"{key} {_shown(value)} is outside {lowest} to {highest}")
        return value

    def _wholes(self, key: str, count: int, lowest: int) -> list[int]:
        values = self.value(key, list)
        if len(values) != count:
            raise self.error(f"{key} has {len(values)} numbers, {count} are needed")
        return [_Entry({key: value}, self.subject).whole(key, lowest, EXTENT_LIMIT) for value in values]

    def extents(self, key: str) -> tuple[int, int, int]:
        first, second, third = self._wholes(key, 3, 1)
        return (first, second, third)

    def pair(self, key: str, lowest: int = 1) -> tuple[int, int]:
        first, second = self._wholes(key, 2, lowest)
        return (first, second)

    def check_array(
        self, key: str, array: NDArray[Any], types: Sequence[np.dtype[Any]], lowest: int, highest: int
    ) -> None:
        if array.dtype not in types:
            raise self.error(f"{key} is {array.dtype}, {' or '.join(str(each) for each in types)} is needed")
        if array.size and not (int(array.min()) >= lowest and int(array.max()) <= highest):
            raise self.error(f"{key} reaches from {array.min()} to {array.max()}, the limit is {lowest} to {highest}")


def _shown(value: object) -> str:
    """Give a value for an error message; an integer of many thousand digits has no text."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)[:64]
    except ValueError:
        # Python writes no number of more than 4,300 digits.
        return "a number of thousands of digits"
