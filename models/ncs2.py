"""Load an ONNX file under the NCS2's own runtime, OpenVINO 2021.4, where it is installed."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hal import runtimes
from models.errors import ConversionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# It runs under the runtime's interpreter, Python 3.9. The plugin for the stick needs a stick; the one for the CPU
# reads the same network, with the same reader.
SCRIPT = """
import sys
import numpy as np
from openvino.inference_engine import IECore
model, given, taken = sys.argv[1:]
core = IECore()
network = core.read_network(model)
values = np.load(given)
name, = network.input_info
network.reshape({name: values.shape})
result, = core.load_network(network, "CPU", {"ENFORCE_BF16": "NO"}).infer({name: values}).values()
np.save(taken, result)
"""
TIME_LIMIT_SECONDS = 120
# Scores of two releases in float32 differ by rounding only.
TOLERANCE = 1e-3


def verified(onnx_model: bytes, values: NDArray[np.float32], scores: NDArray[np.float32], directory: Path) -> bool:
    """Tell whether the runtime in `directory` gives the `scores` of (N, C, H, W) `values`; False where none is there.

    Raises `ConversionError` where it refuses the network or gives other scores.
    """
    runtime = runtimes.RUNTIMES["ncs2"]
    if not runtime.installed(directory):
        return False
    with tempfile.TemporaryDirectory() as folder:
        model, given, taken = (Path(folder, name) for name in ("model.onnx", "given.npy", "taken.npy"))
        model.write_bytes(onnx_model)
        np.save(given, values)
        command = [str(runtime.interpreter(directory)), "-c", SCRIPT, str(model), str(given), str(taken)]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ConversionError(
                "OpenVINO 2021.4", f"takes longer than {TIME_LIMIT_SECONDS} s for the network"
            ) from None
        if run.returncode:
            lines = run.stderr.strip().splitlines() or [f"ended with status {run.returncode}"]
            raise ConversionError("OpenVINO 2021.4", f"refuses the network: {lines[-1]}")
        result = np.load(taken)
    worst = float(np.abs(result - scores).max() / max(float(np.abs(scores).max()), 1e-9))
    if not worst <= TOLERANCE:
        raise ConversionError("OpenVINO 2021.4", f"gives other scores: they differ by {worst:.2g} of the largest")
    return True
