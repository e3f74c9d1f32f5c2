"""Run a dense artifact, OpenVINO's IR or ONNX, on the host CPU. The one file that imports its current release."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from hal.errors import ArtifactError

# OpenVINO reports its use to Google Analytics when it is imported, from a forked child, and keeps a client's number in
# the home folder. It goes without where its reporter cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
import openvino as ov  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact

XML, BIN, ONNX = "model.xml", "model.bin", "model.onnx"
# The key of ONNX for weights in another file, which OpenVINO would read out of the working folder.
OUTSIDE = b"location"


class DenseNetwork:
    """A compiled network with one request of its own; called from one thread at a time.

    With `half_precision`, every tensor on its way is rounded to IEEE float16, as on a device that stores halves.
    """

    def __init__(self, artifact: Artifact, *, threads: int, half_precision: bool = False) -> None:
        core = ov.Core()
        try:
            model = _read(core, artifact)
            if half_precision:
                _round_to_half(model)
            shape = [int(extent) for extent in model.input(0).get_partial_shape().get_max_shape()][1:]
            # Pinned, a run would take the thread to the first core and back, at the cost of two system calls.
            compiled = core.compile_model(
                model, "CPU",
                {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads,
                 "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False},
            )  # fmt: skip
            self._request = compiled.create_infer_request()
        except RuntimeError as error:
            raise ArtifactError(artifact.name, f"OpenVINO refuses the network: {str(error).splitlines()[-1]}") from None
        spec = artifact.manifest.input
        if int(np.prod(shape)) != int(np.prod(spec.shape)):
            raise ArtifactError(artifact.name, f"the network takes {shape}, the manifest says {list(spec.shape)}")
        self._shape = shape
        self._scale = np.float32(1 / 255 if spec.dtype == "uint8" else 1.0)
        self._values = np.empty((0, *shape), np.float32)
        classes = self(np.zeros((1, *spec.shape), spec.dtype)).shape[1]
        if classes != len(artifact.manifest.labels):
            raise ArtifactError(artifact.name, f"{classes} scores for {len(artifact.manifest.labels)} labels")

    def __call__(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """Give the scores (N, classes) of (N, *input shape) images."""
        if len(images) != len(self._values):
            # To bind a tensor costs a quarter of a small network's run, and most take as many images as the last.
            self._values = np.empty((len(images), *self._shape), np.float32)
            self._request.set_input_tensor(ov.Tensor(self._values, shared_memory=True))
        # Colours come from a decoder as (H, W, C) in memory, however they are viewed; OpenVINO takes C order only.
        np.multiply(images, self._scale, out=self._values.reshape(images.shape), dtype=np.float32)
        self._request.infer()
        scores: NDArray[np.float32] = self._request.get_output_tensor().data.reshape(len(images), -1).copy()
        return scores


def _read(core: ov.Core, artifact: Artifact) -> ov.Model:
    """Read the IR, or where there is none the ONNX."""
    files = artifact.files
    if XML in files and BIN in files:
        return core.read_model(files[XML], files[BIN])
    if ONNX not in files:
        raise ArtifactError(artifact.name, f"{XML} and {BIN}, or {ONNX}, are needed")
    if OUTSIDE in files[ONNX]:
        raise ArtifactError(artifact.name, f"{ONNX} must hold its weights itself; it has {OUTSIDE.decode()!r} in it")
    return core.read_model(files[ONNX])


def _round_to_half(model: ov.Model) -> None:
    """Round every float tensor of the graph, constants included, to the 11 significant bits of a float16.

    The plugin drops pairs of conversions, so the rounding is arithmetic: Veltkamp's splitting, c - (c - x) with
    c = x (2^13 + 1) in float32. The range of a float16 is not imposed.
    """
    splitter = ov.opset13.constant(np.float32((1 << 13) + 1))
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Result":
            continue
        for output in node.outputs():
            if output.get_element_type() != ov.Type.f32:
                continue
            readers = output.get_target_inputs()
            large = ov.opset13.multiply(output, splitter)
            rounded = ov.opset13.subtract(large, ov.opset13.subtract(large, output))
            for reader in readers:
                reader.replace_source_output(rounded.output(0))
    model.validate_nodes_and_infer_types()
