"""Networks are read from ONNX, or refused by the name of the node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from models import ir, onnx_export, onnx_import, pooling
from models.chain import Conv, Dense, Pool, Rectifier
from models.errors import ConversionError
from tests.models.networks import model, node, random_chain, random_layers

ONES = np.ones((3, 4), np.float32)
BIAS = np.zeros(3, np.float32)
SQUARE = np.ones((3, 3), np.float32)


def test_exported_network_is_read_back() -> None:
    """What the exporter writes, the reader understands: shape, weights, biases, rectifiers, work."""
    layers = random_layers(0, 12, 5, 3)
    read = onnx_import.read(onnx_export.dense_classifier("toy", layers, (1, 3, 4)))
    assert read.shape == (1, 3, 4)
    assert [stage.rectifier for stage in read.stages] == [Rectifier(), None]
    assert read.multiplies == 12 * 5 + 5 * 3
    for stage, (weight, bias) in zip(read.stages, layers, strict=True):
        assert isinstance(stage.operation, Dense)
        np.testing.assert_array_equal(stage.operation.weight, weight)
        np.testing.assert_array_equal(stage.operation.bias.ravel(), bias)


def test_export_is_for_old_runtimes() -> None:
    """The ONNX has opset 11 and carries its weights."""
    model = onnx_export.dense_classifier("toy", random_layers(0, 4, 3), (1, 2, 2))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 11)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_matrix_product_and_sum_are_a_gemm() -> None:
    """MatMul with Add, on either side, means the same as Gemm."""
    bias = np.arange(3, dtype=np.float32)
    gemm = onnx_import.read(model(node("Gemm", "x w b", "y", transB=1), w=ONES, b=bias))
    product = node("MatMul", "x w", "p")
    for inputs in ("p b", "b p"):
        read = onnx_import.read(model(product, node("Add", inputs, "y"), w=ONES.T, b=bias))
        for one, other in ((read.stages[0].operation, gemm.stages[0].operation),):
            assert isinstance(one, Dense)
            assert isinstance(other, Dense)
            np.testing.assert_array_equal(one.weight, other.weight)
            np.testing.assert_array_equal(one.bias, other.bias)


@pytest.mark.parametrize(("shape", "expected"), [((4,), (4, 1, 1)), ((2, 2), (1, 2, 2)), ((2, 1, 2), (2, 1, 2))])
def test_picture_shapes(shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    """One extent counts features, two are height and width, three are (C, H, W)."""
    built = model(node("Flatten", "x", "f"), node("Gemm", "f w", "y", transB=1), shape=shape, w=ONES)
    assert onnx_import.read(built).shape == expected


GEMM = node("Gemm", "x w b", "g", transB=1)
UNREADABLE = {
    "unsupported operator": (model(GEMM, node("Tanh", "g", "y")), "Tanh my-y: not supported; supported operators are"),
    "two layers without a rectifier": (
        model(GEMM, node("Gemm", "g s", "y"), s=SQUARE),
        "Gemm my-y: follows Gemm my-g without a Relu between",
    ),
    "rectified scores": (model(GEMM, node("Relu", "g", "y")), "toy: the last layer must be a Gemm"),
    "rectifier first": (model(node("Relu", "x", "y")), "Relu my-y: follows no Conv, Gemm or MatMul"),
    "branch": (model(GEMM, node("Gemm", "x w", "y", transB=1)), "Gemm my-y: takes x, in a chain it would take g"),
    "residual": (
        model(node("Gemm", "x e", "g"), node("Relu", "g", "r"), node("Add", "r x", "y"), e=np.eye(4, dtype=np.float32)),
        "Add my-y: adds two branches, r and x",
    ),
    "scaled": (model(node("Gemm", "x w b", "y", transB=1, alpha=0.5)), "Gemm my-y: alpha is 0.5, only 1.0"),
    "wrong width": (model(node("Gemm", "x s", "y"), s=SQUARE), "Gemm my-y: weights for 3 values, 4 arrive"),
    "wrong bias": (
        model(node("Gemm", "x w c", "y", transB=1), c=np.zeros(1, np.float32)),
        "Gemm my-y: 1 biases for 3 values",
    ),
    "constant on the left": (
        model(node("MatMul", "e x", "y"), e=np.eye(2, dtype=np.float32)),
        "MatMul my-y: its input 1 must be a constant",
    ),
    "batch lost": (model(node("Flatten", "x", "y", axis=0)), "Flatten my-y: .*the batch is lost"),
    "unknown extent": (model(GEMM, shape=("size",), output="g"), "x: extents size are not known; export with pictures"),
    "output from the middle": (
        model(GEMM, node("Relu", "g", "r"), node("Gemm", "r s", "y"), output="r", s=SQUARE),
        "toy: its one output must be that of the last node, y",
    ),
    "no number": (
        model(node("Gemm", "x n b", "y", transB=1), n=np.full((3, 4), np.nan, np.float32)),
        "n: a value in it is not finite",
    ),
    "no layer": (model(node("Flatten", "x", "y")), "toy: the last layer must be"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_chain_is_refused_by_name(case: str) -> None:
    """A graph that is not understood is refused with its node and the reason."""
    built, message = UNREADABLE[case]
    present = {entry.name for entry in built.graph.initializer}
    for name, array in {"w": ONES, "b": BIAS}.items():
        if name not in present and any(name in each.input for each in built.graph.node):
            built.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    with pytest.raises(ConversionError, match=message):
        onnx_import.read(built)


def test_two_inputs_are_refused() -> None:
    """A network of two pictures is none of ours."""
    built = model(node("Add", "x z", "y"))
    built.graph.input.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["batch", 4]))
    with pytest.raises(ConversionError, match="toy: 2 inputs, exactly 1 is needed"):
        onnx_import.read(built)


def test_broken_model_is_refused() -> None:
    """A graph that ONNX's own checker refuses is refused before it is walked."""
    with pytest.raises(ConversionError, match="toy: ONNX refuses the model"):
        onnx_import.read(model(node("Gemm", "x nothing", "y")))


@pytest.mark.parametrize("pool", ["average", "max"])
def test_convolutions_are_read_back(pool: Any) -> None:
    """A chain that was written is read as it was: kernels, strides, padding, groups, ceilings."""
    chain = random_chain(3, pool, ceiling=0.5)
    read = onnx_import.read(onnx_export.export(chain))
    assert (read.shape, read.multiplies) == (chain.shape, chain.multiplies)
    for one, other in zip(read.stages, chain.stages, strict=True):
        assert one.shape == other.shape
        assert one.rectifier is None or other.rectifier is not None
        assert one.rectifier is None or one.rectifier.ceiling == pytest.approx(0.5)
        if isinstance(one.operation, Conv) and isinstance(other.operation, Conv):
            np.testing.assert_allclose(one.operation.weight, other.operation.weight, rtol=1e-6)
            assert (one.operation.stride, one.operation.padding) == (other.operation.stride, other.operation.padding)
            assert one.operation.groups == other.operation.groups
        if isinstance(one.operation, Pool):
            assert one.operation == other.operation


KERNEL = np.random.default_rng(5).normal(0, 0.5, (3, 2, 3, 3)).astype(np.float32)
LAST = np.random.default_rng(6).normal(0, 1, (5, 27)).astype(np.float32)
CHANNELS = {name: np.array(numbers, np.float32) for name, numbers in {
    "gamma": [1, -2, 0.5], "beta": [0.1, 0.2, -0.3], "mean": [0.2, -0.1, 0], "var": [1, 2, 0.5],
}.items()}  # fmt: skip
PICTURE = {"centre": np.array([[[[0.4]], [[0.6]]]], np.float32), "spread": np.array([[[[0.2]], [[0.5]]]], np.float32)}
END = (node("Flatten", "h", "f"), node("Gemm", "f last", "y", transB=1))


def _numbers(**constants: float) -> dict[str, Any]:
    return {name: np.float32(number) for name, number in constants.items()}


FOLDED = {
    "normalisation behind a convolution": (
        (
            node("Conv", "x kernel", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("BatchNormalization", "c gamma beta mean var", "n"),
            node("Relu", "n", "h"),
        ),
        CHANNELS,
    ),
    "normalised picture and padding": (
        (
            node("Sub", "x centre", "s"),
            node("Div", "s spread", "d"),
            node("Conv", "d kernel", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Relu", "c", "h"),
        ),
        PICTURE,
    ),
    "scale behind a rectifier": (
        (
            node("Conv", "x kernel", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Relu", "c", "r"),
            node("BatchNormalization", "r gamma beta mean var", "h"),
        ),
        CHANNELS,
    ),
    "clip": (
        (
            node("Conv", "x kernel", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Relu", "c", "r"),
            node("Min", "r top", "h"),
        ),
        _numbers(top=0.7),
    ),
    "quantised activation": (
        (
            node("Conv", "x kernel", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Div", "c theta", "t"),
            node("Mul", "t levels", "l"),
            node("Add", "l half", "a"),
            node("Floor", "a", "q"),
            node("Div", "q levels", "u"),
            node("Clip", "u zero one", "k"),
            node("Mul", "k theta", "h"),
        ),
        _numbers(theta=0.6, levels=4, half=0.5, zero=0, one=1),
    ),
    "average of a convolution": (
        (
            node("Conv", "x kernel", "c", pads=[1, 1, 1, 1]),
            node("AveragePool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Relu", "p", "h"),
        ),
        {},
    ),
    "maximum before the rectifier": (
        (
            node("Conv", "x kernel", "c", pads=[1, 1, 1, 1]),
            node("MaxPool", "c", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Relu", "p", "h"),
        ),
        {},
    ),
    "computed shape": (
        (
            node("Conv", "x kernel", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Relu", "c", "r"),
            node("Shape", "r", "shape"),
            node("Gather", "shape first", "batch", axis=0),
            node("Concat", "batch rest", "wanted", axis=0),
            node("Reshape", "r wanted", "h"),
        ),
        {"first": np.array([0]), "rest": np.array([-1])},
    ),
}


@pytest.mark.parametrize("case", FOLDED)
@pytest.mark.parametrize("end", ["", "Softmax", "LogSoftmax"])
def test_folding_changes_no_score(case: str, end: str) -> None:
    """What is folded into weights, rectifiers and convolutions gives the scores that the graph itself gives."""
    nodes, constants = FOLDED[case]
    last = [node(end, "y", "z", axis=1)] if end else []
    arrays = {"kernel": KERNEL, "last": LAST, **constants}
    built = model(*nodes, *END, *last, shape=(2, 6, 6), output="z" if end else "y", **arrays)
    values = np.random.default_rng(7).random((20, 2, 6, 6), np.float32)
    read = onnx_import.read(built)
    scores = pooling.activations(read, values)[-1].reshape(20, -1).astype(np.float64)
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = {"": scores, "Softmax": chances, "LogSoftmax": np.log(chances)}[end]
    np.testing.assert_allclose(ir.run_onnx(built.SerializeToString(), values)[0], expected, rtol=1e-3, atol=1e-4)
    assert [type(stage.operation) for stage in read.stages][-1] is Dense


def test_quantised_activation_is_recognised() -> None:
    """The scales, the shift and the floor of a quantised activation are one rectifier with levels."""
    nodes, constants = FOLDED["quantised activation"]
    read = onnx_import.read(model(*nodes, *END, shape=(2, 6, 6), kernel=KERNEL, last=LAST, **constants))
    rectifier = read.stages[0].rectifier
    assert rectifier is not None
    assert rectifier.ceiling == pytest.approx(0.6)
    assert rectifier.levels == 4
    again = onnx_import.read(onnx_export.export(read)).stages[0].rectifier
    assert again is not None
    assert again.ceiling == pytest.approx(0.6)
    assert again.levels == 4


def _convolved(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    first = node("Conv", "x kernel", "c", strides=[2, 2], pads=[1, 1, 1, 1])
    return model(first, *nodes, shape=(2, 6, 6), kernel=KERNEL, last=LAST, **constants)


REFUSED = {
    "sigmoid": (
        _convolved(node("Sigmoid", "c", "h"), *END),
        "Sigmoid my-h: not supported; supported operators are Add",
    ),
    "residual": (
        _convolved(node("Relu", "c", "r"), node("Add", "r c", "h"), *END),
        "Add my-h: adds two branches, r and c; only chains are supported",
    ),
    "lower bound": (_convolved(node("Clip", "c low", "h"), *END, low=np.float32(-1)), "Clip my-h: is no rectifier"),
    "padded pooling": (
        _convolved(node("Relu", "c", "r"), node("MaxPool", "r", "h", kernel_shape=[2, 2], pads=[1, 1, 1, 1]), *END),
        "MaxPool my-h: a pooling with padding",
    ),
    "uneven padding": (
        model(node("Conv", "x kernel", "h", pads=[0, 0, 1, 1]), *END, shape=(2, 6, 6), kernel=KERNEL, last=LAST),
        r"Conv my-h: pads \[0, 0, 1, 1\] differ",
    ),
    "softmax in the middle": (_convolved(node("Softmax", "c", "h"), *END), "Softmax my-h: is only supported behind"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_spikes_cannot_do_is_refused_by_name(case: str) -> None:
    """An operator or a setting without a spiking form is refused with its node."""
    built, message = REFUSED[case]
    with pytest.raises(ConversionError, match=message):
        onnx_import.read(built)
