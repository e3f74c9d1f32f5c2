"""Read Lava's network exchange files, `.net`: HDF5 as lava-dl 0.4 writes it. The one file that imports h5py.

Semantics: lava-dl, `lava/lib/dl/netx/hdf5.py`. Nothing is allocated before its declared size has been checked.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from hal.errors import ArtifactError
from hal.snn import parts
from hal.snn.network import (
    BIAS_LIMIT,
    DECAY_UNITY,
    DELAY_LIMIT,
    GRADED_BIAS_LIMIT,
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
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.network import Synapse

    Shape = tuple[int, int, int]

# As many weights as the synaptic memory of one Loihi chip has bytes: 128 cores of 128 KiB.
ELEMENTS_LIMIT = 1 << 24
BYTES_PER_NUMBER = 8
TEXT_BYTES_LIMIT = 256
HEAP_HEADER_BYTES = HEAP_OBJECT_BYTES = 16
# What all arrays of a file may hold together, so that a compressed file cannot grow without bound.
FILE_ELEMENTS_LIMIT = 1 << 26
STEPS_LIMIT = 1 << 16
KNOWN_TYPES = "input, flatten, dense, conv"
# lava-dl's input transform where the file has none (hdf5.py, create_input).
DEFAULT_INPUT_WEIGHT = 64


@dataclass(frozen=True)
class NetFile:
    """What a file holds: the network, and for how many steps it was trained (None where the file does not say)."""

    network: Network
    steps: int | None


def read(path: Path) -> Network:
    """Read the network in `path`. Its layers are named `00-input`, `01-conv` and so on, flatten layers left out.

    Raises `ArtifactError` that names file, layer, figure and limit when the file is malformed or has a layer or
    neuron of a kind that lava-dl's reader does not run.
    """
    return read_file(path).network


def read_file(path: Path) -> NetFile:
    """Read all that is of use in `path`. Raises as `read` does."""
    try:
        file = h5py.File(path, "r")
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(path.name, f"cannot be read as HDF5: {error}") from None
    with file:
        root = _Group(file, path.name, _Budget())
        return NetFile(_network(root), _steps(root))


def _steps(root: _Group) -> int | None:
    if not root.has("simulation"):
        return None
    simulation = root.child("simulation")
    return simulation.whole("tSample", 1, STEPS_LIMIT) if simulation.has("tSample") else None


def _network(root: _Group) -> Network:
    group = root.child("layer")
    count = group.count()
    if not 1 < count <= parts.LAYERS_LIMIT:
        raise root.error(f"{count} layers, between 2 and {parts.LAYERS_LIMIT} are allowed")
    entries = [group.child(str(index)) for index in range(count)]
    if entries[0].kind() != "input":
        raise entries[0].error(f"type {entries[0].kind()!r}, the first layer must be of type 'input'")
    layers = [_input(entries[0])]
    flat = False
    for entry in entries[1:]:
        kind = entry.kind()
        if kind == "flatten":
            flat = True
        elif kind == "dense":
            layers.append(_dense(entry, len(layers), layers[-1].shape))
        elif kind == "conv" and not flat:
            layers.append(_conv(entry, len(layers), layers[-1].shape))
        elif kind == "conv":
            raise entry.error("a layer of type 'conv' cannot follow one of type 'flatten'")
        else:
            raise entry.error(f"type {kind!r} has no meaning here, known types are {KNOWN_TYPES}")
    weight = entries[0].whole("weight", -BIAS_LIMIT, BIAS_LIMIT, default=DEFAULT_INPUT_WEIGHT)
    offset = entries[0].whole("bias", -BIAS_LIMIT, BIAS_LIMIT, default=0)
    network = Network(Encoder(float(weight), float(offset)), tuple(layers))
    # What remains to check, such as which neuron may be where, is the same for every source of a network.
    return parts.put_together(*parts.take_apart(network), root.subject)


def _input(entry: _Group) -> Layer:
    shape = entry.shape()
    if not entry.has("neuron"):
        raise entry.error("an input layer without neurons takes spikes, only pictures are supported")
    return Layer("00-input", shape, _neuron(entry.child("neuron"), first=True))


def _dense(entry: _Group, index: int, before: Shape) -> Layer:
    neurons = math.prod(entry.shape())
    weight = entry.integers("weight", WEIGHT_MIN, WEIGHT_MAX)
    if weight.ndim == 1 and weight.size % neurons == 0:
        weight = weight.reshape(neurons, -1)
    if weight.ndim != 2 or weight.shape[0] != neurons:
        raise entry.error(f"weight of shape {weight.shape}, ({neurons}, {math.prod(before)}) is needed")
    synapse = Dense(as_on_chip(weight))
    shape = parts.output_shape(synapse, before, entry.subject)
    if entry.has("neuron"):
        neuron = _neuron(entry.child("neuron"))
        return Layer(f"{index:02d}-dense", shape, neuron, synapse, _bias(entry, shape, neuron), _delay(entry))
    if entry.has("bias") and entry.integers("bias", -BIAS_LIMIT, BIAS_LIMIT).any():
        raise entry.error("bias without neuron: Lava leaves the bias out of what it integrates")
    return Layer(f"{index:02d}-dense", shape, Accumulator(), synapse, None, _delay(entry))


def _conv(entry: _Group, index: int, before: Shape) -> Layer:
    declared = entry.shape()
    weight = entry.integers("weight", WEIGHT_MIN, WEIGHT_MAX)
    if weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    if weight.ndim != 4 or weight.size == 0:
        raise entry.error(f"weight of shape {weight.shape}, (out, in / groups, height, width) is needed")
    groups = entry.whole("groups", 1, parts.EXTENT_LIMIT, default=1)
    if weight.shape[0] % groups:
        raise entry.error(f"{weight.shape[0]} output channels do not divide into {groups} groups")
    stride, padding, dilation = entry.pair("stride", 1, 1), entry.pair("padding", 0, 0), entry.pair("dilation", 1, 1)
    synapse: Synapse = Conv(weight.astype(np.int16), stride, padding, dilation, groups)
    shape = parts.output_shape(synapse, before, entry.subject)
    if shape != declared:
        raise entry.error(f"shape {declared}, weight and stride give {shape}")
    neuron = _neuron(entry.child("neuron"))
    return Layer(f"{index:02d}-conv", shape, neuron, synapse, _bias(entry, shape, neuron), _delay(entry))


def as_on_chip(weight: NDArray[np.int64]) -> NDArray[np.int16]:
    """Give dense weights as Lava stores them: 8 bits, and one of them for the sign where signs are mixed.

    Source: lava-nc 0.10, `lava/utils/weightutils.py`.
    """
    if weight.size and weight.min() < 0 < weight.max():
        weight = (weight >> 1) << 1
    return np.maximum(weight, WEIGHT_MIN + int(not (weight > 0).any())).astype(np.int16)


def _bias(entry: _Group, shape: Shape, neuron: Neuron) -> NDArray[np.int32] | None:
    """Read a bias of one number, one per channel, or one per neuron (in Lava's order W, H, C, or in C, H, W)."""
    if not entry.has("bias"):
        return None
    limit = GRADED_BIAS_LIMIT if isinstance(neuron, SigmaDelta) else BIAS_LIMIT
    bias = entry.integers("bias", -limit, limit - 1)
    if bias.size == 1:
        bias = bias.reshape(1, 1, 1)
    elif bias.shape == shape[:1]:
        bias = bias.reshape(-1, 1, 1)
    elif bias.shape == shape[::-1]:
        bias = bias.transpose(2, 1, 0)
    elif bias.shape != shape:
        raise entry.error(f"bias of shape {bias.shape} for neurons of shape {shape}")
    return np.ascontiguousarray(np.broadcast_to(bias, shape), np.int32)


def _delay(entry: _Group) -> int:
    if not entry.has("delay"):
        return 0
    delays = np.unique(entry.integers("delay", 0, DELAY_LIMIT))
    if delays.size != 1:
        raise entry.error(f"{delays.size} different delays, one for all synapses of a layer is supported")
    return int(delays[0])


def _neuron(entry: _Group, *, first: bool = False) -> Neuron:
    kind = entry.kind()
    if kind in ("LOIHI", "CUBA"):
        threshold = entry.whole("vThMant", 0, THRESHOLD_LIMIT)
        return Lif(threshold, entry.whole("iDecay", 0, DECAY_UNITY), entry.whole("vDecay", 0, DECAY_UNITY))
    if kind != "SDNN":
        raise entry.error(f"type {kind!r} has no meaning here, known types are LOIHI, CUBA, SDNN")
    if not first and entry.has("sigma_output"):
        return Sigma()
    if first:
        return Delta(entry.whole("vThMant", 0, THRESHOLD_LIMIT))
    activation = entry.text("activation") if entry.has("activation") else "relu"
    if activation.lower() != "relu":
        raise entry.error(f"activation {activation!r}, only relu is supported")
    return SigmaDelta(entry.whole("vThMant", 0, THRESHOLD_LIMIT))


def _variable_text(dataset: Any) -> bytes:
    """Read one text of variable length from the file's heap; libhdf5 2.0 can loop for ever where a heap is damaged.

    Source: HDF5 File Format Specification 3.0, sections III.E (global heap) and IV.B (variable-length data).
    """
    offset = dataset.id.get_offset()
    if offset is None or dataset.size != 1:
        raise ValueError("a text of variable length is stored in an unknown way")
    with Path(dataset.file.filename).open("rb") as file:

        def unpack(layout: str, at: int) -> tuple[Any, ...]:
            file.seek(at)
            return struct.unpack(layout, file.read(struct.calcsize(layout)))

        length, heap, index = unpack("<IQI", offset)
        signature, end = unpack("<4s4xQ", heap)
        at, end = heap + HEAP_HEADER_BYTES, heap + end
        if signature != b"GCOL" or length > TEXT_BYTES_LIMIT:
            raise ValueError("a text of variable length is not where it should be")
        while at < end:
            number, size = unpack("<H6xQ", at)
            if number == index:
                return bytes(unpack(f"<{min(length, size)}s", at + HEAP_OBJECT_BYTES)[0])
            if number == 0:
                break
            at += HEAP_OBJECT_BYTES + -(-size // 8) * 8
    raise ValueError("a text of variable length is missing")


class _Budget:
    """The elements that may still be read from a file."""

    def __init__(self) -> None:
        self.elements = FILE_ELEMENTS_LIMIT


class _Group:
    """A group of the file, with the name that its errors carry. Links that leave the file are not followed."""

    def __init__(self, group: Any, subject: str, budget: _Budget) -> None:
        self._group = group
        self._budget = budget
        self.subject = subject

    def error(self, reason: str) -> ArtifactError:
        return ArtifactError(self.subject, reason)

    def _get(self, name: str) -> Any:
        try:
            if not isinstance(self._group.get(name, getlink=True), h5py.HardLink):
                raise self.error(f"{name} is missing")
            return self._group[name]
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self.error(f"{name} cannot be read: {error}") from None

    def has(self, name: str) -> bool:
        try:
            return name in self._group
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self.error(f"{name} cannot be read: {error}") from None

    def count(self) -> int:
        try:
            return len(self._group)
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise self.error(f"cannot be read: {error}") from None

    def child(self, name: str) -> _Group:
        child = self._get(name)
        if not isinstance(child, h5py.Group):
            raise self.error(f"{name} is not a group")
        return _Group(child, f"{self.subject}, {name}", self._budget)

    def _array(self, name: str, limit: int, element_bytes: int = BYTES_PER_NUMBER) -> NDArray[Any]:
        """Read a dataset once its declared size is within `limit` elements of `element_bytes`."""
        dataset = self._get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise self.error(f"{name} is not an array")
        try:
            if dataset.shape is None or dataset.is_virtual or dataset.external:
                raise self.error(f"{name} has no content in this file")
            elements = math.prod(dataset.shape)
            limit = min(limit, self._budget.elements)
            # A chunk is read as a whole, and may be larger than the array.
            declared = max(elements, math.prod(dataset.chunks or ()))
            if declared > limit:
                raise self.error(f"{name} declares {declared} elements, the limit is {limit}")
            if dataset.dtype.itemsize > element_bytes:
                raise self.error(f"{name} has elements of {dataset.dtype.itemsize} bytes, the limit is {element_bytes}")
            self._budget.elements -= elements
            if h5py.check_string_dtype(dataset.dtype) and dataset.dtype.kind == "O":
                return np.array(_variable_text(dataset))
            return np.asarray(dataset[()])
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, struct.error) as error:
            raise self.error(f"{name} cannot be read: {error}") from None

    def text(self, name: str) -> str:
        array = self._array(name, 1, TEXT_BYTES_LIMIT)
        value = array.ravel()[0] if array.size == 1 else None
        if isinstance(value, bytes):
            value = value.decode("ascii", "backslashreplace")
        if not isinstance(value, str):
            raise self.error(f"{name} is not a text")
        return value[:64]

    def kind(self) -> str:
        return self.text("type")

    def integers(self, name: str, lowest: int, highest: int, limit: int = ELEMENTS_LIMIT) -> NDArray[np.int64]:
        array = self._array(name, limit)
        if array.dtype.kind not in "iuf":
            raise self.error(f"{name} is of type {array.dtype}, numbers are needed")
        if array.size == 0:
            raise self.error(f"{name} is empty")
        # The comparison is false for NaN, too.
        if not (array.min() >= lowest and array.max() <= highest):
            figure = f"from {array.min()} to {array.max()}"
            raise self.error(f"{name} reaches {figure}, the limit is {lowest} to {highest}")
        integers = array.astype(np.int64)
        if (integers != array).any():
            raise self.error(f"{name} holds {array[integers != array].flat[0]}, whole numbers are needed")
        return integers

    def whole(self, name: str, lowest: int, highest: int, default: int | None = None) -> int:
        if default is not None and not self.has(name):
            return default
        values = self.integers(name, lowest, highest, limit=1)
        return int(values.flat[0])

    def pair(self, name: str, lowest: int, default: int) -> tuple[int, int]:
        if not self.has(name):
            return (default, default)
        values = self.integers(name, lowest, parts.EXTENT_LIMIT, limit=2).ravel()
        return (int(values[0]), int(values[-1]))

    def shape(self) -> Shape:
        extents = [int(extent) for extent in self.integers("shape", 1, parts.EXTENT_LIMIT, limit=3).ravel()]
        if math.prod(extents) > parts.NEURONS_LIMIT:
            raise self.error(f"{math.prod(extents)} neurons exceed the limit of {parts.NEURONS_LIMIT}")
        if len(extents) == 2:
            return (1, extents[0], extents[1])
        return (extents[0], 1, 1) if len(extents) == 1 else (extents[0], extents[1], extents[2])
