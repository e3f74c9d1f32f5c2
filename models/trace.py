"""Record what every neuron of a spiking artifact does, to compare it with other engines and with chips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from hal import artifact
from hal.device import Kind
from hal.errors import ArtifactError, CapacityError, InputError
from hal.snn import reference
from hal.snn.network import BIAS_LIMIT, STATE_LIMIT, SYNAPSE_SHIFT, Accumulator, Conv, Dense, Layer, SumPool
from hal.snn.reader import read_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.network import Network

    Integers = NDArray[np.int64]

VARIABLES = ("spikes", "u", "v")
# What one trace may hold; 16 steps of a network of 158,000 neurons are 7.6 million.
VALUES_LIMIT = 1 << 27
STEPS_LIMIT = 1024


def trace(
    folder: Path,
    picture: Path,
    steps: int,
    out: Path,
    *,
    engine: Literal["fast", "reference"] = "fast",
    bias: bool = False,
) -> None:
    """Run the artifact in `folder` on one picture and write the arrays of `trace_network` to `out`, an `.npz` file.

    `picture` is an `.npy` file: the picture in [0, 1], (C, H, W), or with `bias` the integer bias currents of the
    input layer; either may be a series of them, one for each step. `folder` is an artifact, or holds exactly one.
    Raises `ArtifactError`, `InputError` that says what of the input is wrong, `CapacityError` when the trace would be
    too large, and `OSError`.
    """
    found = artifact.read(find_artifact(folder))
    if found.manifest.kind is not Kind.SNN:
        raise ArtifactError(found.name, f"kind {found.manifest.kind.value}, a spiking network is needed")
    network = read_network(found)
    drive = _drive(network, _load(picture, network, steps), bias=bias)
    arrays = trace_network(network, drive, steps, engine=engine)
    with out.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def trace_network(
    network: Network, drive: Integers, steps: int, *, engine: Literal["fast", "reference"] = "fast"
) -> dict[str, NDArray[np.int32]]:
    """Give `spikes/<layer>`, `u/<layer>` and `v/<layer>` as (T, C, H, W), or (T, N) of a dense or flat layer.

    `drive` is the bias of the input layer, (C, H, W) or (T, C, H, W). Layers are named `00-input`, `01-conv` and so
    on. Index t belongs to input step t in every layer: a synapse's one step is left out. All is in Lava's units: an
    output that only sums has the sum times 64 in `u` and `v`.
    """
    if not 1 <= steps <= STEPS_LIMIT:
        raise InputError("steps", f"{steps} is outside 1 to {STEPS_LIMIT}")
    values = len(VARIABLES) * steps * sum(layer.size for layer in network.layers)
    if values > VALUES_LIMIT:
        raise CapacityError("trace", values, VALUES_LIMIT, "values")
    frames = np.expand_dims(drive, -4)
    if engine == "fast":
        from hal.snn import fast

        traces = fast.compile_network(network).run(frames, steps, trace=True).traces
    else:
        traces = reference.run(network, frames, steps, trace=True).traces
    arrays = {}
    for index, layer in enumerate(network.layers):
        for variable in VARIABLES:
            series = _in_units_of_lava(layer, traces[layer.name], variable)
            flat = layer.shape[1:] == (1, 1) and not isinstance(layer.synapse, (Conv, SumPool))
            shape = layer.shape[:1] if flat else layer.shape
            arrays[f"{variable}/{index:02d}-{_kind(layer)}"] = series.reshape(steps, *shape).astype(np.int32)
    return arrays


def find_artifact(folder: Path) -> Path:
    """Give `folder` if it is an artifact, or the one that lies in it as `model/version/variant`."""
    folder = folder.resolve()
    if (folder / artifact.MANIFEST).exists():
        return folder
    inside = [path.parent for path in folder.glob(f"*/*/*/{artifact.MANIFEST}")]
    if len(inside) != 1:
        raise ArtifactError(str(folder), f"no artifact, and {len(inside)} in it where one is needed")
    return inside[0]


def _kind(layer: Layer) -> str:
    if layer.synapse is None:
        return "input"
    if isinstance(layer.synapse, Dense):
        return "dense"
    return "conv" if isinstance(layer.synapse, Conv) else "pool"


def _in_units_of_lava(layer: Layer, recorded: reference.Trace, variable: str) -> Integers:
    """Give a variable as Lava has it, whose output layer is a LIF that never fires and forgets nothing."""
    if isinstance(layer.neuron, Accumulator) and variable != "spikes":
        span = STATE_LIMIT + 1
        u: Integers = span - (span - (recorded.u << SYNAPSE_SHIFT)) % (2 * span)
        return u if variable == "u" else np.minimum(u, STATE_LIMIT)
    series: Integers = getattr(recorded, variable)
    return series


def _load(path: Path, network: Network, steps: int) -> NDArray[np.generic]:
    """Read (C, H, W) or (T, C, H, W) numbers; a flat network takes any shape of as many."""
    try:
        # Mapped first: what the header declares is not allocated before it has been checked.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(path.name, f"cannot be read: {error}") from None
    shape = network.layers[0].shape
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise InputError(path.name, "an array of numbers is needed")
    flat = shape[1:] == (1, 1)
    if array.shape == shape or (flat and array.size == shape[0]) or (shape[0] == 1 and array.shape == shape[1:]):
        return np.array(array).reshape(shape)
    if array.ndim == 4 and array.shape[1:] == shape and array.shape[0] >= steps:
        return np.array(array[:steps])
    raise InputError(path.name, f"shape {array.shape}, the network takes {shape}, or {steps} of them")


def _drive(network: Network, array: NDArray[np.generic], *, bias: bool) -> Integers:
    numbers = array.astype(np.float64)
    lowest, highest = (-BIAS_LIMIT, BIAS_LIMIT - 1) if bias else (0, 1)
    # The comparison is false for NaN, too.
    if not (numbers.min() >= lowest and numbers.max() <= highest):
        figure = f"from {numbers.min():g} to {numbers.max():g}"
        raise InputError("bias" if bias else "picture", f"reaches {figure}, the limit is {lowest} to {highest}")
    if not bias:
        return reference.encode(network.encoder, numbers)
    integers = numbers.astype(np.int64)
    if (integers != numbers).any():
        raise InputError("bias", f"holds {numbers[integers != numbers].flat[0]:g}, whole numbers are needed")
    return integers
