"""Compile ONNX into OpenVINO's IR. The one file of this package that imports OpenVINO."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

# As in hal/dense.py: OpenVINO reports its use over the network unless its reporter cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

XML, BIN, ONNX = "model.xml", "model.bin", "model.onnx"


def dnn_files(onnx_model: bytes) -> dict[str, bytes]:
    """Give the files of a dense artifact: the IR in float32, and the ONNX it comes from."""
    model = ov.Core().read_model(onnx_model)
    _name_steadily(model)
    with tempfile.TemporaryDirectory() as folder:
        ov.save_model(model, Path(folder, XML), compress_to_fp16=False)
        return {XML: Path(folder, XML).read_bytes(), BIN: Path(folder, BIN).read_bytes(), ONNX: onnx_model}


def _name_steadily(model: ov.Model) -> None:
    """Rename the nodes that OpenVINO named by a count of all nodes that the process ever made."""
    for index, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{index}")


def scores(files: dict[str, bytes], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the IR on (N, C, H, W) values and give (N, classes)."""
    core = ov.Core()
    compiled = core.compile_model(core.read_model(files[XML], files[BIN]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result: NDArray[np.float32] = compiled(values)[0]
    return result
