"""What a spiking network costs on a Loihi chip, for every driver that counts events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hal.device import Cost
from hal.energy import loihi
from hal.errors import CapacityError
from hal.snn import reference
from hal.snn.placement import CORES_PER_CHIP, place

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hal.artifact import Artifact, Manifest
    from hal.snn.network import Network


class Chip:
    """The cores of one chip, and which artifact took how many."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._cores: dict[str, int] = {}

    def take(self, artifact: Artifact, cores: int) -> None:
        """Take cores for an artifact. Raises `CapacityError` where too few are free."""
        others = sum(count for digest, count in self._cores.items() if digest != artifact.digest)
        if others + cores > CORES_PER_CHIP:
            raise CapacityError(f"{artifact.name} on {self.name}", others + cores, CORES_PER_CHIP, "cores")
        self._cores[artifact.digest] = cores

    def free(self, artifact: Artifact) -> None:
        """Give an artifact's cores back."""
        self._cores.pop(artifact.digest, None)

    def clear(self) -> None:
        """Give all cores back."""
        self._cores.clear()

    @property
    def cores(self) -> int:
        """Count the cores in use."""
        return sum(self._cores.values())


class Pricing:
    """A network of an artifact, placed on a chip: what its inputs are, and its costs by operating point."""

    def __init__(self, network: Network, manifest: Manifest) -> None:
        self._encoder = network.encoder
        self._shape = network.layers[0].shape
        self._scale = 1 / 255 if manifest.input.dtype == "uint8" else 1.0
        self._per_layer = [layer.cores for layer in place(network).layers]
        self._points = {(point.steps, point.margin): point for point in manifest.operating_points}
        pairs = zip(network.layers, network.layers[1:])
        self._synapses = [0, *(int(reference.fan_out(b.synapse, a.shape).sum()) for a, b in pairs)]
        self._neurons = [layer.size for layer in network.layers]

    @property
    def cores(self) -> int:
        """Count the cores that the network needs."""
        return sum(self._per_layer)

    def encode(self, images: NDArray[np.generic]) -> NDArray[np.int64]:
        """Turn images of the artifact's input type into the bias currents (N, C, H, W) of the input layer."""
        pictures = np.multiply(images, self._scale, dtype=np.float64).reshape(len(images), *self._shape)
        return reference.encode(self._encoder, pictures)

    def cost(self, steps: int, margin: int) -> Cost:
        """Price the manifest's mean counts; the bound is every neuron firing at every step."""
        point = self._points[steps, margin]
        mean = loihi.Events(point.synaptic_operations, point.active_updates, point.inactive_updates)
        bound = loihi.Events(sum(self._synapses) * steps, sum(self._neurons) * steps, 0)
        seconds = loihi.seconds(
            loihi.spread(mean, self._synapses, self._neurons), self._per_layer, point.mean_steps or steps
        )
        return Cost(loihi.dynamic_joules(mean), loihi.dynamic_joules(bound), seconds)

    def seconds(self, layers: Sequence[loihi.Events], steps: int, images: int) -> float:
        """Give the time of `images` inferences with the events of each layer, `steps` in all."""
        return loihi.seconds(layers, self._per_layer, steps, images)
