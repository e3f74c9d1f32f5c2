"""Read an ONNX graph that is a chain: convolutions, dense layers and poolings, with what comes between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.helper

from models import fold
from models.chain import Chain, Conv, Dense, Pool
from models.errors import ConversionError
from models.fold import Affine, Function, Step
from models.onnx_file import Graph, subject

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.chain import Pair, Shape
    from models.fold import Action

    Floats = NDArray[np.float64]

ARITHMETIC = ("Add", "BatchNormalization", "Div", "Mul", "Sub")
FUNCTIONS = ("Clip", "Floor", "Max", "Min", "Relu", "Round")
LINEAR = ("Conv", "Gemm", "MatMul")
POOLING = ("AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean")
RESHAPING = ("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
DROPPED = ("LogSoftmax", "Softmax")
SUPPORTED = sorted((*ARITHMETIC, *FUNCTIONS, *LINEAR, *POOLING, *RESHAPING, *DROPPED))
NAMED_LIMIT = 5


def read(model: onnx.ModelProto) -> Chain:
    """Read a model's graph. Raises `ConversionError` that names the node which is not understood.

    What scales and shifts channels, batch normalisation among it, is folded into the weights. Dropout is left out, and
    so is a final softmax: scores keep their order.
    """
    graph = Graph(model)
    unknown = [subject(node) for node in graph.nodes if node.op_type not in SUPPORTED]
    if unknown:
        names = ", ".join(unknown[:NAMED_LIMIT]) + (" and others" if len(unknown) > NAMED_LIMIT else "")
        raise ConversionError(names, f"not supported; supported operators are {', '.join(SUPPORTED)}")
    if len(graph.inputs) != 1:
        raise ConversionError(graph.name, f"{len(graph.inputs)} inputs, exactly 1 is needed")
    nodes = _without_softmax(graph)
    _check_path(graph, nodes)
    picture = _picture_shape(graph, graph.inputs[0], graph.inputs[0])
    steps: list[Step] = []
    for node in nodes:
        before = steps[-1].shape if steps else picture
        action = _Reader(graph, node, before).action()
        after = _picture_shape(graph, node.output[0], subject(node))
        if action is None and after not in (before, (math.prod(before), 1, 1)):
            if steps:
                raise ConversionError(subject(node), f"turns {list(before)} into {list(after)}")
            picture = after
        else:
            steps.append(Step(subject(node), action, after))
    return fold.assemble(graph.name, picture, steps)


def _without_softmax(graph: Graph) -> list[onnx.NodeProto]:
    """Give the nodes up to the scores."""
    nodes, outputs = list(graph.nodes), graph.outputs
    while nodes and nodes[-1].op_type in (*DROPPED, "Identity") and outputs == [nodes[-1].output[0]]:
        last = nodes.pop()
        axis = next((entry.i for entry in last.attribute if entry.name == "axis"), -1)
        if last.op_type in DROPPED and axis not in (1, -1):
            raise ConversionError(subject(last), f"axis {axis}, only the classes' axis 1 is supported")
        outputs = [last.input[0]]
    for node in nodes:
        if node.op_type in DROPPED:
            raise ConversionError(subject(node), "is only supported behind the scores, at the end")
    value = nodes[-1].output[0] if nodes else graph.inputs[0]
    if outputs != [value]:
        raise ConversionError(graph.name, f"its one output must be that of the last node, {value}")
    return nodes


def _check_path(graph: Graph, nodes: list[onnx.NodeProto]) -> None:
    """Raise unless each node takes what the one before it gives, and constants."""
    value = graph.inputs[0]
    for node in nodes:
        varying = [name for name in node.input if name and name not in graph.constants]
        if node.op_type == "Add" and len(varying) == 2:
            raise ConversionError(
                subject(node),
                f"adds two branches, {' and '.join(varying)}; only chains are supported, no residual nets",
            )
        if varying != [value]:
            raise ConversionError(subject(node), f"takes {', '.join(varying)}, in a chain it would take {value}")
        value = node.output[0]


def _picture_shape(graph: Graph, value: str, who: str) -> Shape:
    """Give a value's shape as (C, H, W). One extent counts features, two are (H, W) of one channel."""
    batch, *extents = graph.shapes.get(value, (0,))
    if batch != graph.batch:
        raise ConversionError(who, f"gives shape {[batch, *extents]}, the batch is lost")
    if not 1 <= len(extents) <= 3 or min(extents) < 1:
        raise ConversionError(who, f"shape {extents} after the batch, 1 to 3 known extents are needed")
    if len(extents) == 1:
        return (extents[0], 1, 1)
    return (1, extents[0], extents[1]) if len(extents) == 2 else (extents[0], extents[1], extents[2])


class _Reader:
    """Reads one node, which takes values of shape `before`."""

    def __init__(self, graph: Graph, node: onnx.NodeProto, before: Shape) -> None:
        self.graph = graph
        self.node = node
        self.before = before
        self.attributes: dict[str, Any] = {
            entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute
        }

    def action(self) -> Action | None:
        """Tell what the node does, None for one that changes at most the shape."""
        kind = self.node.op_type
        if kind == "Conv":
            return self._conv()
        if kind in LINEAR:
            return self._dense()
        if kind in POOLING:
            return self._pool()
        if kind == "BatchNormalization":
            return self._normalisation()
        if kind in ARITHMETIC:
            return self._arithmetic()
        if kind in FUNCTIONS:
            return self._function()
        if kind == "Cast" and self.attributes.get("to") != onnx.TensorProto.FLOAT:
            raise self._error("only a cast to float is supported")
        return None

    def _error(self, reason: str) -> ConversionError:
        return ConversionError(subject(self.node), reason)

    def _constant(self, index: int) -> Floats | None:
        """Give a constant input, None where it is left out."""
        if len(self.node.input) <= index or not self.node.input[index]:
            return None
        array = self.graph.constants.get(self.node.input[index])
        if array is None:
            raise self._error(f"its input {index} must be a constant")
        return array.astype(np.float64)

    def _weight(self, dimensions: int) -> Floats:
        weight = self._constant(1)
        if weight is None or weight.ndim != dimensions:
            raise self._error(f"weights with {dimensions} dimensions are needed")
        return weight

    def _bias(self, width: int) -> Floats:
        bias = self._constant(2)
        if bias is not None and bias.size != width:
            raise self._error(f"{bias.size} biases for {width} values")
        return np.zeros((width, 1, 1)) if bias is None else bias.reshape(width, 1, 1)

    def _dense(self) -> Dense:
        for name, expected in {"alpha": 1.0, "beta": 1.0, "transA": 0}.items():
            if self.attributes.get(name, expected) != expected:
                raise self._error(f"{name} is {self.attributes[name]}, only {expected} is supported")
        weight = self._weight(2)
        if not self.attributes.get("transB", 0):
            weight = weight.T
        outputs, inputs = weight.shape
        if (inputs, 1, 1) != self.before:
            raise self._error(f"weights for {inputs} values, {_shown(self.before)} arrive")
        return Dense(np.ascontiguousarray(weight), self._bias(outputs))

    def _conv(self) -> Conv:
        weight = self._weight(4)
        dilation = self._pair("dilations")
        height, width = (gap * (size - 1) + 1 for gap, size in zip(dilation, weight.shape[2:], strict=True))
        return Conv(
            weight,
            self._bias(len(weight)),
            self._pair("strides"),
            self._padding((height, width)),
            dilation,
            self.attributes.get("group", 1),
        )

    def _pair(self, name: str) -> Pair:
        values = self.attributes.get(name, (1, 1))
        if len(values) != 2:
            raise self._error(f"{name} {list(values)}, only two dimensions are supported")
        return (values[0], values[1])

    def _padding(self, window: Pair) -> Pair:
        """Give the padding of each side, which must be equal on both."""
        pads = [int(pad) for pad in self.attributes.get("pads", (0, 0, 0, 0))]
        if self.attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
            sides = zip(self.before[1:], self._pair("strides"), window, strict=True)
            totals = [max((-(-size // step) - 1) * step + extent - size, 0) for size, step, extent in sides]
            pads = [totals[0] // 2, totals[1] // 2, -(-totals[0] // 2), -(-totals[1] // 2)]
        if pads[:2] != pads[2:]:
            raise self._error(f"pads {pads} differ from side to side, which is not supported")
        return (pads[0], pads[1])

    def _pool(self) -> Pool:
        if self.node.op_type in ("GlobalAveragePool", "ReduceMean"):
            axes = self.attributes.get("axes")
            if axes is None:
                axes = self._constant(1)
            if self.node.op_type == "ReduceMean" and (
                axes is None or sorted(int(axis) % 4 for axis in np.ravel(axes)) != [2, 3]
            ):
                raise self._error("only the mean over height and width is supported")
            return Pool("average", self.before[1:], self.before[1:])
        kernel = self._pair("kernel_shape")
        if self.attributes.get("ceil_mode", 0) or self._pair("dilations") != (1, 1):
            raise self._error("ceil_mode and dilations are not supported")
        if self._padding(kernel) != (0, 0):
            raise self._error("a pooling with padding is not supported")
        return Pool("max" if self.node.op_type == "MaxPool" else "average", kernel, self._pair("strides"))

    def _normalisation(self) -> Affine:
        gamma, beta, mean, variance = (self._constant(index) for index in range(1, 5))
        if gamma is None or beta is None or mean is None or variance is None:
            raise self._error("all four of its parameters must be constants")
        scale = gamma / np.sqrt(variance + self.attributes.get("epsilon", 1e-5))
        return Affine(self._per_channel(scale), self._per_channel(beta - mean * scale))

    def _arithmetic(self) -> Affine:
        kind = self.node.op_type
        left = self.node.input[0] in self.graph.constants
        constant = self._constant(0 if left else 1)
        if constant is None or (kind == "Div" and left) or (kind == "Div" and not constant.all()):
            raise self._error("must combine the values with a constant, and not divide by 0")
        # A constant of ONNX is aligned with the last axis, a vector of flat values with theirs.
        flat = self.before[1:] == (1, 1)
        if (
            constant.size > 1
            and (flat or constant.ndim < 3 or constant.shape[-2:] != (1, 1))
            and not (flat and constant.size == self.before[0])
        ):
            raise self._error(f"a constant of shape {constant.shape}, one number or one for each channel is needed")
        numbers = self._per_channel(constant)
        one, zero = np.ones((1, 1, 1)), np.zeros((1, 1, 1))
        if kind == "Add":
            return Affine(one, numbers)
        if kind == "Sub":
            return Affine(-one, numbers) if left else Affine(one, -numbers)
        return Affine(numbers if kind == "Mul" else 1 / numbers, zero)

    def _per_channel(self, numbers: Floats) -> Floats:
        if numbers.size not in (1, self.before[0]):
            raise self._error(f"{numbers.size} numbers for {_shown(self.before)} values")
        return numbers.reshape(-1, 1, 1)

    def _function(self) -> Function:
        """Give a function of each value on its own."""
        kind = self.node.op_type
        if kind == "Relu":
            return Function(lambda values: np.maximum(values, 0))
        if kind == "Floor":
            return Function(np.floor)
        if kind == "Round":
            return Function(np.round)
        if kind == "Clip":
            bounds = [self.attributes.get("min", -math.inf), self.attributes.get("max", math.inf)]
            for index in (1, 2):
                bound = self._constant(index)
                bounds[index - 1] = bounds[index - 1] if bound is None else self._scalar(bound)
            low, high = bounds
            return Function(lambda values: np.clip(values, low, high))
        left = self.node.input[0] in self.graph.constants
        constant = self._constant(0 if left else 1)
        if constant is None or len(self.node.input) != 2:
            raise self._error("must combine the values with one constant")
        number = self._scalar(constant)
        return Function(lambda values: (np.minimum if kind == "Min" else np.maximum)(values, number))

    def _scalar(self, constant: Floats) -> float:
        if constant.size != 1:
            raise self._error(f"a bound of shape {constant.shape}, one number for all channels is needed")
        return float(constant.ravel()[0])


def _shown(shape: Shape) -> str:
    return " x ".join(str(extent) for extent in shape) if shape[1:] != (1, 1) else str(shape[0])
