"""Small networks for the tests of the compiler, as ONNX and as chains."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from models import onnx_export
from models.chain import Chain, Conv, Dense, Pool, Rectifier, Stage
from models.data import digits
from models.pooling import activations

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray


def node(operator: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    """Make a node that is called after its output."""
    return onnx.helper.make_node(operator, inputs.split(), [output], f"my-{output}", **attributes)


def model(
    *nodes: onnx.NodeProto, shape: tuple[int | str, ...] = (4,), output: str = "y", opset: int = 11, **constants: Any
) -> onnx.ModelProto:
    """Make a model called `toy` of a batch of `shape`, with arrays as constants."""
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        list(nodes),
        "toy",
        [onnx.helper.make_tensor_value_info("x", real, ["batch", *shape])],
        [onnx.helper.make_tensor_value_info(output, real, ["batch", "width"])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=6)


def random_layers(seed: int, *widths: int) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Draw the weights and biases of dense layers."""
    generator = np.random.default_rng(seed)
    return [
        (
            generator.normal(0, np.sqrt(2 / inputs), (outputs, inputs)).astype(np.float32),
            generator.normal(0, 0.1, outputs).astype(np.float32),
        )
        for inputs, outputs in itertools.pairwise(widths)
    ]


def random_chain(seed: int, pool: Literal["average", "max"] = "average", ceiling: float = np.inf) -> Chain:
    """Draw a chain of pictures (2, 9, 9): convolution, pooling, convolution in two groups, and a dense layer."""
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> NDArray[np.float64]:
        return generator.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)

    rectifier = Rectifier(ceiling)
    return Chain(
        "toy",
        (2, 9, 9),
        (
            Stage("first", Conv(draw(6, 2, 3, 3), draw(6, 1, 1) / 4, padding=(1, 1)), (6, 9, 9), rectifier),
            Stage("pool", Pool(pool, (3, 3), (2, 2)), (6, 4, 4)),
            Stage("second", Conv(draw(4, 3, 2, 2), draw(4, 1, 1) / 4, (2, 2), groups=2), (4, 2, 2), rectifier),
            Stage("last", Dense(draw(5, 16), draw(5, 1, 1)), (5, 1, 1)),
        ),
    )


def digits_network(kind: Literal["average", "max"] = "max") -> Chain:
    """Make a classifier of the shipped digits: a convolution drawn at random, a pooling, and a readout fitted to them.

    The readout is a ridge regression from the pooled activations to +1 for the class and -1 for the others.
    """
    training, _ = digits.load()
    generator = np.random.default_rng(0)
    weight = generator.normal(0, 0.6, (16, 1, 3, 3))
    first = Stage("first", Conv(weight, generator.normal(0, 0.1, (16, 1, 1))), (16, 6, 6), Rectifier())
    pool = Stage("pool", Pool(kind, (2, 2), (2, 2)), (16, 3, 3))
    identity = Stage("all", Dense(np.eye(144), np.zeros((144, 1, 1))), (144, 1, 1))
    values = training.pictures().reshape(-1, 1, 8, 8).astype(np.float32)
    features = activations(Chain("features", (1, 8, 8), (first, pool, identity)), values)[-1].reshape(-1, 144)
    mean = features.mean(axis=0)
    wanted = np.where(np.eye(10)[training.labels] > 0, 1.0, -1.0)
    readout = np.linalg.solve((features - mean).T @ (features - mean) + np.eye(144), (features - mean).T @ wanted).T
    bias = wanted.mean(axis=0) - readout @ mean
    return Chain("toy", (1, 8, 8), (first, pool, Stage("last", Dense(readout, bias.reshape(-1, 1, 1)), (10, 1, 1))))


def write_digits(folder: Path, kind: Literal["average", "max"] = "max") -> tuple[Path, Path]:
    """Write that network as ONNX and the digits as `.npz`, and give both paths."""
    training, held_out = digits.load()
    network, data = folder / "digits.onnx", folder / "digits.npz"
    network.write_bytes(onnx_export.export(digits_network(kind)).SerializeToString())
    images = np.concatenate([training.images, held_out.images])
    np.savez(data, images=images, labels=np.concatenate([training.labels, held_out.labels]))
    return network, data
