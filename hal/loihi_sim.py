"""A simulated Loihi 1 chip: exact integer dynamics, joules and seconds from the counted events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.numpy

from hal.device import Boundary, Cost, Inference, Kind, Provenance
from hal.energy import loihi
from hal.errors import ArtifactError, CapacityError
from hal.simulation import Pause, occupy
from hal.snn import parts, reference
from hal.snn.network import Conv, Dense, Layer, Lif, Network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact, Manifest

STRUCTURE, TENSORS = "network.json", "network.safetensors"
# Loihi 1, from the constants of nengo-loihi and NxTF.
CORES_PER_CHIP = 128
COMPARTMENTS_PER_CORE = 1024
SYNAPSE_BYTES_PER_CORE = 128 * 1024


def read_network(artifact: Artifact) -> Network:
    """Parse the network of a verified spiking artifact."""
    missing = {STRUCTURE, TENSORS} - artifact.files.keys()
    if missing:
        raise ArtifactError(artifact.name, f"{', '.join(sorted(missing))} is missing")
    try:
        structure = json.loads(artifact.files[STRUCTURE])
        arrays = safetensors.numpy.load(artifact.files[TENSORS])
    except (ValueError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        # NumPy has no type for some of the format's: those are a KeyError.
        raise ArtifactError(artifact.name, f"the network cannot be read: {error}") from None
    network = parts.put_together(structure, arrays, artifact.name)
    manifest = artifact.manifest
    if network.layers[0].size != int(np.prod(manifest.input.shape)):
        raise ArtifactError(
            artifact.name, f"the network takes {network.layers[0].shape}, the manifest says {manifest.input.shape}"
        )
    if network.classes != len(manifest.labels):
        raise ArtifactError(artifact.name, f"{network.classes} scores for {len(manifest.labels)} labels")
    return network


def cores_of(layer: Layer) -> int:
    """Count the cores that a layer needs for its compartments and its synapses."""
    soft = isinstance(layer.neuron, Lif) and layer.neuron.reset == "subtract"
    compartments = layer.size * (2 if soft else 1)
    weights = layer.synapse.weight.size if isinstance(layer.synapse, (Dense, Conv)) else 0
    return max(-(-compartments // COMPARTMENTS_PER_CORE), -(-weights // SYNAPSE_BYTES_PER_CORE))


class LoihiSim:
    """The simulator of one chip. `pause` keeps it occupied for the modelled time where that is the longer one."""

    driver = "loihi-sim"
    simulated = True
    provenance = Provenance.SIMULATED
    boundary = Boundary.ACCELERATOR
    kind = Kind.SNN
    batch_limit = 1

    def __init__(self, name: str, *, pause: Pause = time.sleep) -> None:
        self.name = name
        self._pause = pause
        self._cores: dict[str, int] = {}

    def load(self, artifact: Artifact) -> LoihiSimProgram:
        """Place the network on free cores."""
        network = read_network(artifact)
        cores = sum(cores_of(layer) for layer in network.layers)
        others = sum(count for digest, count in self._cores.items() if digest != artifact.digest)
        if others + cores > CORES_PER_CHIP:
            raise CapacityError(f"{artifact.name} on {self.name}", others + cores, CORES_PER_CHIP, "cores")
        self._cores[artifact.digest] = cores
        return LoihiSimProgram(network, artifact.manifest, cores, self._pause)

    def unload(self, artifact: Artifact) -> None:
        """Free the cores of the network."""
        self._cores.pop(artifact.digest, None)

    def static_watts(self) -> float:
        """Tell the power of the chip and its used cores."""
        return loihi.static_watts(1, sum(self._cores.values()))

    def close(self) -> None:
        """Free all cores."""
        self._cores.clear()


class LoihiSimProgram:
    """A spiking network on the simulated chip. Images of a batch run one after the other, as on the chip."""

    def __init__(self, network: Network, manifest: Manifest, cores: int, pause: Pause) -> None:
        self._network = network
        self._cores = cores
        self._pause = pause
        self._scale = 1 / 255 if manifest.input.dtype == "uint8" else 1.0
        self._shape = network.layers[0].shape
        self._points = {point.steps: point for point in manifest.operating_points}
        synapses = (reference.fan_out(b.synapse, a.shape).sum() for a, b in zip(network.layers, network.layers[1:]))
        self._synapses = int(sum(synapses))
        self._neurons = sum(layer.size for layer in network.layers)

    def cost(self, steps: int) -> Cost:
        """Price the manifest's mean counts; the bound is every neuron firing at every step."""
        point = self._points[steps]
        mean = loihi.Events(point.synaptic_operations, point.active_updates, point.inactive_updates)
        bound = loihi.Events(self._synapses * steps, self._neurons * steps, 0)
        return Cost(
            loihi.dynamic_joules(mean), loihi.dynamic_joules(bound), loihi.seconds(mean, steps, self._cores)
        )  # fmt: skip

    def __call__(self, images: NDArray[np.generic], steps: int) -> Inference:
        """Classify the images."""
        started = time.perf_counter()
        pictures = np.multiply(images, self._scale, dtype=np.float64).reshape(len(images), *self._shape)
        result = reference.run(self._network, reference.encode(self._network.encoder, pictures), steps)
        seconds = loihi.seconds(result.events, steps * len(images), self._cores)
        computed = occupy(started, seconds, self._pause)
        joules = loihi.dynamic_joules(result.events)
        scores = result.scores.astype(np.float32)
        return Inference(scores, steps, seconds, joules, joules * loihi.RELATIVE_UNCERTAINTY, computed)
