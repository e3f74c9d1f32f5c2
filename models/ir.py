"""Compile ONNX into OpenVINO's IR, in halves or 8-bit integers. The one file of this package that imports OpenVINO."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

# As in hal/dense.py: OpenVINO reports its use over the network unless its reporter cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

from models.errors import ConversionError  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

XML, BIN, ONNX = "model.xml", "model.bin", "model.onnx"
BATCH = 64
# NNCF's own default for the images that it takes its ranges from.
QUANTISATION_IMAGES = 300


def dnn_files(onnx_model: bytes, *, half: bool = False, compact: bool = False) -> dict[str, bytes]:
    """Give the files of a dense artifact: the IR, with weights in float32 or `half`, and the ONNX it comes from.

    With `compact` it is the ONNX alone: in 8 bits, the IR would be as large and say the same.
    """
    if compact:
        return {ONNX: onnx_model}
    model = ov.Core().read_model(onnx_model)
    return {**_ir_files(model, half=half), ONNX: onnx_model}


def int8_files(onnx_model: bytes, values: NDArray[np.float32]) -> dict[str, bytes]:
    """Give the files of a dense artifact in 8-bit integers, its ranges taken from (N, C, H, W) `values` by NNCF."""
    # NNCF prints progress and advice to standard output and error as it is imported and as it runs.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import nncf

        model = ov.Core().read_model(onnx_model)
        images = [value[np.newaxis] for value in values[:QUANTISATION_IMAGES]]
        model = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
    return _ir_files(model, half=True)


def _ir_files(model: ov.Model, *, half: bool) -> dict[str, bytes]:
    _name_steadily(model)
    with tempfile.TemporaryDirectory() as folder:
        ov.save_model(model, Path(folder, XML), compress_to_fp16=half)
        return {XML: Path(folder, XML).read_bytes(), BIN: Path(folder, BIN).read_bytes()}


def _name_steadily(model: ov.Model) -> None:
    """Rename the nodes that OpenVINO named by a count of all nodes that the process ever made."""
    for index, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{index}")


def scores(files: dict[str, bytes], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the IR on (N, C, H, W) values and give (N, classes)."""
    core = ov.Core()
    return _run(core, core.read_model(files[XML], files[BIN]), values)[0]


def run_onnx(onnx_model: bytes, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Run an ONNX model on (N, ...) values and give its outputs, each (N, ...).

    Raises `ConversionError` where OpenVINO cannot run it.
    """
    core = ov.Core()
    try:
        return _run(core, core.read_model(onnx_model), values)
    except RuntimeError as error:
        raise ConversionError("OpenVINO", f"refuses the model: {str(error).splitlines()[-1]}") from None


def _run(core: ov.Core, model: ov.Model, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Run in batches of the model's own size where it has one; the last batch is filled up with its first images."""
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    extents = list(model.input(0).get_partial_shape())
    batch = BATCH if extents[0].is_dynamic else extents[0].get_length()
    values = values.reshape(len(values), *(extent.get_length() for extent in extents[1:]))
    parts = []
    for start in range(0, len(values), batch):
        part = values[start : start + batch]
        filled = part if extents[0].is_dynamic else np.resize(part, (batch, *part.shape[1:]))
        parts.append([array[: len(part)].copy() for array in compiled(np.ascontiguousarray(filled)).values()])
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
