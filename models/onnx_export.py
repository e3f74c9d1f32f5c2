"""Write a dense classifier as ONNX that old and new runtimes read: opset 11, weights embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnx.helper
import onnx.numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

# The newest pair that OpenVINO 2021.4 reads, the last release to drive the NCS2.
OPSET, IR_VERSION = 11, 6


def dense_classifier(
    name: str, layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], shape: tuple[int, int, int]
) -> onnx.ModelProto:
    """Give the model of pictures (batch, C, H, W) in [0, 1] to scores (batch, classes).

    `layers` are pairs of weight (out, in) and bias (out,), with a Relu between one and the next.
    """
    nodes = [onnx.helper.make_node("Flatten", ["image"], ["flat"], "flatten", axis=1)]
    constants = []
    value = "flat"
    for index, (weight, bias) in enumerate(layers):
        names = [f"dense{index}.weight", f"dense{index}.bias"]
        constants += [
            onnx.numpy_helper.from_array(array, label) for array, label in zip((weight, bias), names, strict=True)
        ]
        last = index == len(layers) - 1
        output = "scores" if last else f"dense{index}"
        nodes.append(onnx.helper.make_node("Gemm", [value, *names], [output], f"gemm{index}", transB=1))
        value = output
        if not last:
            value = f"relu{index}"
            nodes.append(onnx.helper.make_node("Relu", [output], [value], value))
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, name,
        [onnx.helper.make_tensor_value_info("image", real, ["batch", *shape])],
        [onnx.helper.make_tensor_value_info("scores", real, ["batch", len(layers[-1][1])])],
        constants,
    )  # fmt: skip
    model = onnx.helper.make_model(
        graph, producer_name="jouled", opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(model, full_check=True)
    return model
