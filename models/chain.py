"""Read an ONNX model that is a chain of dense layers: Flatten, Gemm or MatMul with Add, and Relu between them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.numpy_helper

from models.errors import ConversionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """An affine map of flattened values, `weight` (out, in) and `bias` (out,), and whether a Relu follows it."""

    name: str
    weight: Floats
    bias: Floats
    rectified: bool = False

    def __call__(self, values: Floats) -> Floats:
        """Map (N, in) to (N, out)."""
        sums = values @ self.weight.T + self.bias
        return np.maximum(sums, 0.0) if self.rectified else sums


@dataclass(frozen=True)
class Chain:
    """A classifier: the (C, H, W) of its picture, and its stages. All but the last are rectified."""

    shape: tuple[int, int, int]
    stages: tuple[Stage, ...]

    @property
    def multiplies(self) -> int:
        """Count the multiply-accumulates of one image."""
        return sum(stage.weight.size for stage in self.stages)


def read(model: onnx.ModelProto) -> Chain:
    """Read a model's graph. Raises `ConversionError` that names the node which is not understood."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ConversionError(model.graph.name, f"ONNX refuses the model: {str(error).splitlines()[0]}") from None
    graph = model.graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.initializer}
    for name, array in constants.items():
        if not np.isfinite(array).all():
            raise ConversionError(name, "a value in it is not finite")
    value, shape = _input(graph, constants)
    stages: list[Stage] = []
    for node in graph.node:
        varying = [name for name in node.input if name and name not in constants]
        if varying != [value]:
            raise ConversionError(_subject(node), f"takes {', '.join(varying)}, in a chain it would take {value}")
        width = len(stages[-1].bias) if stages else math.prod(shape)
        _append(stages, node, constants, width)
        value = node.output[0]
    if [output.name for output in graph.output] != [value]:
        raise ConversionError(graph.name, f"its one output must be that of the last node, {value}")
    if not stages or stages[-1].rectified:
        raise ConversionError(graph.name, "the last layer must be a Gemm or MatMul without a Relu")
    return Chain(shape, tuple(stages))


def _input(graph: onnx.GraphProto, constants: dict[str, Floats]) -> tuple[str, tuple[int, int, int]]:
    inputs = [entry for entry in graph.input if entry.name not in constants]
    if len(inputs) != 1:
        raise ConversionError(graph.name, f"{len(inputs)} inputs, exactly 1 is needed")
    extents = tuple(dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim)[1:]
    if not 1 <= len(extents) <= 3 or min(extents) < 1:
        raise ConversionError(inputs[0].name, f"shape {list(extents)} after the batch, 1 to 3 known extents are needed")
    # One extent counts features, which stand in C; two are (H, W) of one channel.
    channels, height, width = {1: (*extents, 1, 1), 2: (1, *extents), 3: extents}[len(extents)]
    return inputs[0].name, (channels, height, width)


def _append(stages: list[Stage], node: onnx.NodeProto, constants: dict[str, Floats], width: int) -> None:
    """Add what a node does to `width` values to the stages."""
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    match node.op_type:
        case "Flatten":
            if attributes.get("axis", 1) != 1:
                raise ConversionError(_subject(node), f"axis {attributes['axis']}, only 1 keeps the batch")
        case "Gemm" | "MatMul":
            stages.append(_affine(node, attributes, constants, width))
            if len(stages) > 1 and not stages[-2].rectified:
                raise ConversionError(_subject(node), f"follows {stages[-2].name} without a Relu between them")
        case "Add" if stages and not stages[-1].rectified:
            bias = next(constants[name] for name in node.input if name in constants)
            _check_bias(node, bias, width)
            stages[-1] = dataclasses.replace(stages[-1], bias=stages[-1].bias + bias.ravel())
        case "Relu" if stages and not stages[-1].rectified:
            stages[-1] = dataclasses.replace(stages[-1], rectified=True)
        case "Add" | "Relu":
            raise ConversionError(_subject(node), "follows no Gemm or MatMul")
        case _:
            supported = "Flatten, Gemm, MatMul, Add and Relu"
            raise ConversionError(_subject(node), f"the operator is not supported; supported are {supported}")


def _affine(
    node: onnx.NodeProto, attributes: dict[str, float], constants: dict[str, Floats], width: int
) -> Stage:  # fmt: skip
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    for name, expected in plain.items():
        if attributes.get(name, expected) != expected:
            raise ConversionError(_subject(node), f"{name} is {attributes[name]}, only {expected} is supported")
    weight = constants.get(node.input[1])
    if weight is None or weight.ndim != 2:
        raise ConversionError(_subject(node), "its second input must be a constant matrix")
    if not attributes.get("transB", 0):
        weight = weight.T
    outputs, inputs = weight.shape
    if inputs != width:
        raise ConversionError(_subject(node), f"weights for {inputs} values, {width} arrive")
    bias = np.zeros(outputs)
    if len(node.input) > 2 and node.input[2]:
        _check_bias(node, constants[node.input[2]], outputs)
        bias = constants[node.input[2]].ravel()
    return Stage(_subject(node), weight, bias)


def _check_bias(node: onnx.NodeProto, bias: Floats, width: int) -> None:
    if bias.size != width:
        raise ConversionError(_subject(node), f"{bias.size} biases for {width} values")


def _subject(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]}"
