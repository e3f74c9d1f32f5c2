"""Write a chain as ONNX that old and new runtimes read: opset 11, weights embedded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from models.chain import Chain, Conv, Dense, Pool, Rectifier, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# The newest pair that OpenVINO 2021.4 reads, the last release to drive the NCS2.
OPSET, IR_VERSION = 11, 6
INPUT, OUTPUT = "image", "scores"
BYTE_LIMIT = 127


def dense_classifier(
    name: str, layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], shape: tuple[int, int, int]
) -> onnx.ModelProto:
    """Give the model of pictures (batch, C, H, W) in [0, 1] to scores (batch, classes).

    `layers` are pairs of weight (out, in) and bias (out,), with a Relu between one and the next.
    """
    stages = [
        Stage(
            f"gemm{index}",
            Dense(weight.astype(np.float64), bias.astype(np.float64).reshape(-1, 1, 1)),
            (len(bias), 1, 1),
            None if index == len(layers) - 1 else Rectifier(),
        )
        for index, (weight, bias) in enumerate(layers)
    ]
    return export(Chain(name, shape, tuple(stages)))


def export(chain: Chain, *, every_stage: bool = False, compact: bool = False) -> onnx.ModelProto:
    """Give the model of pictures (batch, C, H, W) in [0, 1] to scores (batch, classes).

    With `every_stage` it gives what every stage gives, in their order. With `compact`, weights are stored in 8 bits,
    with a scale for each output, and computed with in floats.
    """
    writer = _Writer(compact=compact)
    value, flat = INPUT, False
    outputs = []
    for index, stage in enumerate(chain.stages):
        last = index == len(chain.stages) - 1
        if isinstance(stage.operation, Dense) and not flat:
            value = writer.add("Flatten", [value], f"flat{index}", axis=1)
            flat = True
        value = writer.operation(stage.operation, value, index, last=last)
        if stage.rectifier is not None:
            value = writer.rectifier(stage.rectifier, value, index)
        outputs.append((value, flat, stage.shape))
    if not flat:
        value = writer.add("Flatten", [value], OUTPUT, axis=1)
        outputs[-1] = (value, True, chain.stages[-1].shape)
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        writer.nodes, chain.name or "chain",
        [onnx.helper.make_tensor_value_info(INPUT, real, ["batch", *chain.shape])],
        [
            onnx.helper.make_tensor_value_info(name, real, ["batch", math.prod(shape)] if flat else ["batch", *shape])
            for name, flat, shape in (outputs if every_stage else outputs[-1:])
        ],
        writer.constants,
    )  # fmt: skip
    model = onnx.helper.make_model(
        graph, producer_name="jouled", opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    """Nodes and constants, each named after the index of its stage."""

    def __init__(self, *, compact: bool) -> None:
        self.compact = compact
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, numbers: object) -> str:
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(numbers, np.float32), name))
        return name

    def weight(self, name: str, numbers: NDArray[np.float64]) -> str:
        """Store weights (out, ...) and give the name of their float32 form."""
        if not self.compact:
            return self.constant(name, numbers)
        rows = np.abs(numbers).reshape(len(numbers), -1).max(axis=1).reshape(-1, *[1] * (numbers.ndim - 1))
        scale = np.where(rows > 0, rows, 1.0) / BYTE_LIMIT
        self.constants.append(onnx.numpy_helper.from_array(np.rint(numbers / scale).astype(np.int8), f"{name}.bytes"))
        floats = self.add("Cast", [f"{name}.bytes"], f"{name}.floats", to=onnx.TensorProto.FLOAT)
        return self.add("Mul", [floats, self.constant(f"{name}.scale", scale)], name)

    def operation(self, operation: Dense | Conv | Pool, value: str, index: int, *, last: bool) -> str:
        if isinstance(operation, Pool):
            kind = "MaxPool" if operation.kind == "max" else "AveragePool"
            return self.add(
                kind, [value], f"pool{index}", kernel_shape=list(operation.kernel), strides=list(operation.stride)
            )
        kind = "dense" if isinstance(operation, Dense) else "conv"
        weight = self.weight(f"{kind}{index}.weight", operation.weight)
        if isinstance(operation, Dense):
            bias = self.constant(f"dense{index}.bias", operation.bias.ravel())
            return self.add("Gemm", [value, weight, bias], OUTPUT if last else f"dense{index}", transB=1)
        everywhere = operation.bias.shape[1:] == (1, 1)
        inputs = [value, weight]
        if everywhere:
            inputs.append(self.constant(f"conv{index}.bias", operation.bias.ravel()))
        value = self.add(
            "Conv", inputs, f"conv{index}",
            kernel_shape=list(operation.weight.shape[2:]), strides=list(operation.stride),
            pads=[*operation.padding, *operation.padding], dilations=list(operation.dilation), group=operation.groups,
        )  # fmt: skip
        if everywhere:
            return value
        return self.add("Add", [value, self.constant(f"conv{index}.bias", operation.bias[None])], f"biased{index}")

    def rectifier(self, rectifier: Rectifier, value: str, index: int) -> str:
        if math.isinf(rectifier.ceiling):
            return self.add("Relu", [value], f"relu{index}")
        zero = self.constant(f"zero{index}", 0)
        if not rectifier.levels:
            ceiling = self.constant(f"ceiling{index}", rectifier.ceiling)
            return self.add("Clip", [value, zero, ceiling], f"clip{index}")
        step = rectifier.ceiling / rectifier.levels
        value = self.add("Mul", [value, self.constant(f"per_level{index}", 1 / step)], f"scaled{index}")
        value = self.add("Add", [value, self.constant(f"half{index}", 0.5)], f"shifted{index}")
        value = self.add("Floor", [value], f"floor{index}")
        value = self.add("Clip", [value, zero, self.constant(f"levels{index}", rectifier.levels)], f"clip{index}")
        return self.add("Mul", [value, self.constant(f"level{index}", step)], f"quantised{index}")
