"""Networks are read from ONNX and converted, or refused by the name of the node."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from hal.snn import parts, reference
from hal.snn.network import Dense, Lif
from models import chain, convert, onnx_export
from models.chain import Chain, Stage
from models.errors import ConversionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONES = np.ones((3, 4), np.float32)
BIAS = np.zeros(3, np.float32)
SQUARE = np.ones((3, 3), np.float32)


def _node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(operator, inputs.split(), [output], f"my-{output}", **attributes)


def _model(
    *nodes: onnx.NodeProto, shape: tuple[int | str, ...] = (4,), output: str = "y", **constants: Any
) -> onnx.ModelProto:
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        list(nodes),
        "toy",
        [onnx.helper.make_tensor_value_info("x", real, ["batch", *shape])],
        [onnx.helper.make_tensor_value_info(output, real, ["batch", "width"])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=6)


def _random_layers(seed: int, *widths: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    generator = np.random.default_rng(seed)
    return [
        (
            generator.normal(0, np.sqrt(2 / inputs), (outputs, inputs)).astype(np.float32),
            generator.normal(0, 0.1, outputs).astype(np.float32),
        )
        for inputs, outputs in itertools.pairwise(widths)
    ]


def test_exported_network_is_read_back() -> None:
    """What the exporter writes, the reader understands: shape, weights, biases, rectifiers, work."""
    layers = _random_layers(0, 12, 5, 3)
    read = chain.read(onnx_export.dense_classifier("toy", layers, (1, 3, 4)))
    assert read.shape == (1, 3, 4)
    assert [stage.rectified for stage in read.stages] == [True, False]
    assert read.multiplies == 12 * 5 + 5 * 3
    for stage, (weight, bias) in zip(read.stages, layers, strict=True):
        np.testing.assert_array_equal(stage.weight, weight)
        np.testing.assert_array_equal(stage.bias, bias)


def test_export_is_for_old_runtimes() -> None:
    """The ONNX has opset 11 and carries its weights."""
    model = onnx_export.dense_classifier("toy", _random_layers(0, 4, 3), (1, 2, 2))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 11)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_matrix_product_and_sum_are_a_gemm() -> None:
    """MatMul with Add, on either side, means the same as Gemm."""
    bias = np.arange(3, dtype=np.float32)
    gemm = chain.read(_model(_node("Gemm", "x w b", "y", transB=1), w=ONES, b=bias))
    product = _node("MatMul", "x w", "p")
    for inputs in ("p b", "b p"):
        read = chain.read(_model(product, _node("Add", inputs, "y"), w=ONES.T, b=bias))
        np.testing.assert_array_equal(read.stages[0].weight, gemm.stages[0].weight)
        np.testing.assert_array_equal(read.stages[0].bias, gemm.stages[0].bias)


@pytest.mark.parametrize(("shape", "expected"), [((4,), (4, 1, 1)), ((2, 2), (1, 2, 2)), ((2, 1, 2), (2, 1, 2))])
def test_picture_shapes(shape: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    """One extent counts features, two are height and width, three are (C, H, W)."""
    model = _model(_node("Flatten", "x", "f"), _node("Gemm", "f w", "y", transB=1), shape=shape, w=ONES)
    assert chain.read(model).shape == expected


GEMM = _node("Gemm", "x w b", "g", transB=1)
UNREADABLE = {
    "unsupported operator": (_model(GEMM, _node("Softmax", "g", "y")), "Softmax my-y: the operator is not supported"),
    "two layers without a rectifier": (
        _model(GEMM, _node("Gemm", "g s", "y"), s=SQUARE),
        "Gemm my-y: follows Gemm my-g without a Relu between",
    ),
    "rectified scores": (_model(GEMM, _node("Relu", "g", "y")), "toy: the last layer must be a Gemm"),
    "rectifier first": (_model(_node("Relu", "x", "y")), "Relu my-y: follows no Gemm"),
    "sum first": (_model(_node("Add", "x b", "y")), "Add my-y: follows no Gemm"),
    "branch": (_model(GEMM, _node("Gemm", "x w", "y", transB=1)), "Gemm my-y: takes x, in a chain it would take g"),
    "residual": (_model(GEMM, _node("Add", "g x", "y")), "Add my-y: takes g, x, in a chain it would take g"),
    "scaled": (_model(_node("Gemm", "x w b", "y", transB=1, alpha=0.5)), "Gemm my-y: alpha is 0.5, only 1.0"),
    "wrong width": (_model(_node("Gemm", "x s", "y"), s=SQUARE), "Gemm my-y: weights for 3 values, 4 arrive"),
    "wrong bias": (
        _model(_node("Gemm", "x w c", "y", transB=1), c=np.zeros(1, np.float32)),
        "Gemm my-y: 1 biases for 3 values",
    ),
    "constant on the left": (_model(_node("MatMul", "w x", "y")), "MatMul my-y: its second input must be a constant"),
    "batch lost": (_model(_node("Flatten", "x", "y", axis=0)), "Flatten my-y: axis 0, only 1 keeps the batch"),
    "unknown extent": (_model(GEMM, shape=("size",), output="g"), "x: shape \\[0\\] after the batch"),
    "output from the middle": (
        _model(GEMM, _node("Relu", "g", "r"), _node("Gemm", "r s", "y"), output="r", s=SQUARE),
        "toy: its one output must be that of the last node, y",
    ),
    "no number": (
        _model(_node("Gemm", "x n b", "y", transB=1), n=np.full((3, 4), np.nan, np.float32)),
        "n: a value in it is not finite",
    ),
    "no layer": (_model(_node("Flatten", "x", "y")), "toy: the last layer must be"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_no_chain_is_refused_by_name(case: str) -> None:
    """A graph that is not understood is refused with its node and the reason."""
    model, message = UNREADABLE[case]
    present = {entry.name for entry in model.graph.initializer}
    for name, array in {"w": ONES, "b": BIAS}.items():
        if name not in present and any(name in node.input for node in model.graph.node):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    with pytest.raises(ConversionError, match=message):
        chain.read(model)


def test_two_inputs_are_refused() -> None:
    """A network of two pictures is none of ours."""
    model = _model(_node("Add", "x z", "y"))
    model.graph.input.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["batch", 4]))
    with pytest.raises(ConversionError, match="toy: 2 inputs, exactly 1 is needed"):
        chain.read(model)


def test_broken_model_is_refused() -> None:
    """A graph that ONNX's own checker refuses is refused before it is walked."""
    with pytest.raises(ConversionError, match="toy: ONNX refuses the model"):
        chain.read(_model(_node("Gemm", "x nothing", "y")))


@pytest.mark.parametrize("seed", range(3))
def test_spikes_approach_the_dense_network(seed: int) -> None:
    """With many steps, scores per step are the dense network's scores within the rounding of eight bits."""
    read = chain.read(onnx_export.dense_classifier("toy", _random_layers(seed, 16, 24, 12, 4), (1, 4, 4)))
    pictures = np.random.default_rng(seed + 100).integers(0, 256, (200, 1, 4, 4)) / 255
    values = pictures.reshape(200, -1)
    for stage in read.stages:
        values = stage(values)
    network = convert.convert(read, pictures, percentile=100)
    scores = reference.run(network, reference.encode(network.encoder, pictures), 512).scores
    last = network.layers[-1].synapse
    assert isinstance(last, Dense)
    factor = (values * scores).sum() / (scores.astype(np.float64) ** 2).sum()
    assert np.abs(scores * factor - values).max() < 0.05 * np.abs(values).max()


@pytest.mark.parametrize("seed", range(3))
def test_numbers_fit_their_fields(seed: int) -> None:
    """A converted network passes every check of the reader, and its weights survive the loss of their low bit."""
    layers = [(weight * 10.0 ** (seed - 1), bias * 30) for weight, bias in _random_layers(seed, 16, 24, 4)]
    read = chain.read(onnx_export.dense_classifier("toy", layers, (1, 4, 4)))
    network = convert.convert(read, np.random.default_rng(seed).random((50, 1, 4, 4)))
    assert parts.put_together(*parts.take_apart(network), "toy").classes == 4
    for layer in network.layers[1:]:
        assert isinstance(layer.synapse, Dense)
        weight = layer.synapse.weight
        np.testing.assert_array_equal((weight >> 1) << 1, weight)
    for layer in network.layers[:-1]:
        assert isinstance(layer.neuron, Lif)
        assert layer.neuron.initial_voltage == layer.neuron.threshold << 5


def test_sums_do_not_wrap() -> None:
    """A layer whose inputs all fire at once gets smaller weights rather than a sum beyond 24 bits."""
    inputs = 2000
    first = Stage("wide", np.full((2, inputs), 1 / inputs), np.zeros(2), rectified=True)
    read = Chain((inputs, 1, 1), (first, Stage("last", np.eye(2), np.zeros(2))))
    network = convert.convert(read, np.ones((4, inputs)))
    synapse = network.layers[1].synapse
    assert isinstance(synapse, Dense)
    assert 0 < int(synapse.weight.astype(np.int64).sum(axis=1).max()) << 6 < 1 << 23


def test_every_grey_level_is_a_whole_bias() -> None:
    """A grey level of g drives its input neuron with exactly 16 g, though g / 255 is no binary fraction."""
    read = Chain((256, 1, 1), (Stage("last", np.ones((2, 256)), np.zeros(2)),))
    network = convert.convert(read, np.ones((1, 256)))
    levels = np.arange(256)
    for pictures in (levels / 255, levels * (1 / 255)):
        np.testing.assert_array_equal(reference.encode(network.encoder, pictures), 16 * levels)


def _two_layers(weight: float, bias: float) -> Chain:
    first = Stage("first", np.full((2, 4), weight), np.full(2, bias), rectified=True)
    return Chain((4, 1, 1), (first, Stage("last", np.eye(2), np.zeros(2))))


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (-1.0, 0.0, "first: percentile 99.5 of its activations is 0"),
        (0.0, 1.0, "first: all its weights are 0"),
        (1e6, -4e6 + 1, "first: a threshold of 0.000254 is left, 1 is the least"),
    ],
)
def test_layers_that_cannot_be_scaled(weight: float, bias: float, message: str) -> None:
    """A layer that would never fire, has no weights, or needs finer integers than there are is refused by name."""
    with pytest.raises(ConversionError, match=message):
        convert.convert(_two_layers(weight, bias), np.ones((3, 4)))
