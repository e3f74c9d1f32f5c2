"""Read an ONNX file from anyone: weights beside it embedded, functions inlined, constants folded, every shape known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import google.protobuf.message
import numpy as np
import onnx
import onnx.checker
import onnx.external_data_helper
import onnx.helper
import onnx.inliner
import onnx.numpy_helper
import onnx.reference
import onnx.shape_inference

from models.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BYTES_LIMIT = 1 << 30
# With one image only, nobody would notice that a graph loses the batch.
BATCH = 2
# Constants are computed where a graph computes them, but only small ones: shapes, axes and scalars.
FOLDED_LIMIT = 1 << 24


def read(path: Path) -> onnx.ModelProto:
    """Read a file and what belongs to it. Raises `ConversionError` for what is no model, and `OSError`."""
    size = path.stat().st_size
    if size > BYTES_LIMIT:
        raise ConversionError(path.name, f"{size} bytes exceed the limit of {BYTES_LIMIT}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except google.protobuf.message.DecodeError:
        raise ConversionError(path.name, "is no ONNX model: its bytes cannot be decoded") from None
    if not model.graph.node:
        raise ConversionError(path.name, "is no ONNX model: it has no nodes")
    for tensor in _external_tensors(model):
        _embed(tensor, path.parent)
    return model


def _external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def _embed(tensor: onnx.TensorProto, folder: Path) -> None:
    """Copy a tensor's bytes into it, from a plain file that lies in the model's own folder or below."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    place = (folder / location).resolve()
    if not location or not place.is_relative_to(folder.resolve()) or (folder / location).is_symlink():
        raise ConversionError(tensor.name, f"its data lie in {location!r}, outside the folder of the model")
    if not place.is_file():
        raise ConversionError(tensor.name, f"its data lie in {location!r}, which is not there")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", place.stat().st_size))
    except ValueError:
        raise ConversionError(tensor.name, "offset and length of its data must be whole numbers") from None
    if not 0 <= offset <= offset + length <= place.stat().st_size <= BYTES_LIMIT:
        figure = f"bytes {offset} to {offset + length} of {location!r}"
        raise ConversionError(tensor.name, f"its data are {figure}, which has {place.stat().st_size}")
    with place.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT


class Graph:
    """A model's graph with the shape of every value, batch included: the `nodes` that compute, and its `constants`.

    Raises `ConversionError` for a model that ONNX refuses, or whose shapes are not known but for the batch.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.name = model.graph.name
        self._opsets = list(model.opset_import)
        try:
            onnx.checker.check_model(model)
            model = onnx.inliner.inline_local_functions(model)
        except (onnx.checker.ValidationError, RuntimeError) as error:
            raise ConversionError(self.name or "model", f"ONNX refuses the model: {_first_line(error)}") from None
        _fix_batch(model)
        _take_strides_as_shapes(model)
        self.constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer}
        self.inputs = [entry.name for entry in model.graph.input if entry.name not in self.constants]
        self.outputs = [entry.name for entry in model.graph.output]
        self.nodes = list(model.graph.node)
        self.shapes = self._infer(model)
        # What is folded may be the shape that a further node asks for.
        while self._fold_all():
            del model.graph.node[:]
            model.graph.node.extend(self.nodes)
            model.graph.initializer.extend(
                onnx.numpy_helper.from_array(array, name) for name, array in self._folded.items()
            )
            self.shapes = self._infer(model)
        self.batch = self.shapes[self.inputs[0]][0] if self.inputs else 0
        for name, array in self.constants.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ConversionError(name, "a value in it is not finite")

    def _infer(self, model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
        try:
            graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        except (onnx.shape_inference.InferenceError, RuntimeError) as error:
            raise ConversionError(self.name or "model", f"ONNX refuses the model: {_first_line(error)}") from None
        return {entry.name: _extents(entry) for entry in (*graph.input, *graph.value_info, *graph.output)}

    def _fold_all(self) -> bool:
        """Compute what is constant; tell whether anything was."""
        self._folded: dict[str, NDArray[np.generic]] = {}
        self.nodes = [node for node in self.nodes if not self._fold(node)]
        self.constants.update(self._folded)
        return bool(self._folded)

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Compute a node whose inputs are constant, or only its input's shape matters; tell whether it was one."""
        if node.op_type == "Shape":
            shape = self.shapes.get(node.input[0], ())
            if not shape or min(shape) < 1:
                return False
            self._folded[node.output[0]] = np.array(shape, np.int64)
            return True
        inputs = [name for name in node.input if name]
        known = {**self.constants, **self._folded}
        if not all(name in known for name in inputs) or node.op_type.startswith("Random"):
            return False
        if sum(known[name].size for name in inputs) > FOLDED_LIMIT:
            return False
        graph = onnx.helper.make_graph(
            [node], "constant",
            [_value(name, known[name]) for name in inputs],
            [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in node.output if name],
        )  # fmt: skip
        try:
            evaluator = onnx.reference.ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=self._opsets))
            results = evaluator.run(None, {name: known[name] for name in inputs})
        except Exception as error:  # noqa: BLE001 - the evaluator raises whatever an operator's NumPy code raises.
            raise ConversionError(subject(node), f"cannot be computed: {_first_line(error)}") from None
        for name, result in zip([name for name in node.output if name], results, strict=True):
            self._folded[name] = np.asarray(result)
        return True


def subject(node: onnx.NodeProto) -> str:
    """Name a node in an error, by its operator and its name or else its output."""
    return f"{node.op_type} {node.name or node.output[0]}"


def _value(name: str, array: NDArray[np.generic]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _fix_batch(model: onnx.ModelProto) -> None:
    """Let the graph take `BATCH` images where it does not say how many; everything else must be known."""
    constants = {entry.name for entry in model.graph.initializer}
    for entry in model.graph.input:
        if entry.name in constants:
            continue
        dimensions = entry.type.tensor_type.shape.dim
        if not dimensions:
            raise ConversionError(entry.name, "the shape of the input is not known; a batch of pictures is needed")
        unknown = [dimension.dim_param or "?" for dimension in dimensions[1:] if dimension.dim_value < 1]
        if unknown:
            raise ConversionError(
                entry.name, f"extents {', '.join(unknown)} are not known; export with pictures of one size"
            )
        dimensions[0].dim_value = dimensions[0].dim_value or BATCH
    # Further on they are inferred again, with the batch.
    del model.graph.value_info[:]
    for entry in model.graph.output:
        dimensions = entry.type.tensor_type.shape.dim
        if dimensions:
            dimensions[0].ClearField("dim_value")
            dimensions[0].dim_param = "batch"


def _take_strides_as_shapes(model: onnx.ModelProto) -> None:
    """Replace a Gather of everything in order, behind a flattening, by the reshaping that it is.

    PyTorch's exporter writes both for a view of memory that is laid out channels last.
    """
    graph = model.graph
    constants = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    for index, node in enumerate(graph.node):
        flat = makers.get(node.input[0]) if node.op_type == "Gather" else None
        if flat is None or flat.op_type != "Reshape" or constants.get(flat.input[1], np.empty(0)).tolist() != [-1]:
            continue
        order = constants.get(node.input[1])
        if order is None or order.ravel().tolist() != list(range(order.size)):
            raise ConversionError(subject(node), "changes the order of values, which is not supported")
        shape = f"{node.output[0]}.shape"
        # In a shape, 0 keeps the batch.
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, *order.shape[1:]], np.int64), shape))
        graph.node[index].CopyFrom(
            onnx.helper.make_node("Reshape", [flat.input[0], shape], list(node.output), node.name)
        )
        graph.node.remove(flat)
        return _take_strides_as_shapes(model)
    return None


def _extents(entry: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dimension.dim_value for dimension in entry.type.tensor_type.shape.dim)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
