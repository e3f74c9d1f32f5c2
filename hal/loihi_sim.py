"""A simulated Loihi 1 chip: exact integer dynamics, joules and seconds from the counted events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional

import numpy as np

from hal.device import Boundary, Cost, Inference, Kind, Provenance
from hal.energy import loihi
from hal.errors import CapacityError
from hal.simulation import Pause, occupy
from hal.snn import fast, reference
from hal.snn.placement import CORES_PER_CHIP, Placement, place
from hal.snn.reader import read_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact, Manifest
    from hal.snn.network import Network


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
        fast.warm_up()

    def load(self, artifact: Artifact) -> LoihiSimProgram:
        """Place the network on free cores."""
        network = read_network(artifact)
        placement = place(network)
        cores = placement.cores
        others = sum(count for digest, count in self._cores.items() if digest != artifact.digest)
        if others + cores > CORES_PER_CHIP:
            raise CapacityError(f"{artifact.name} on {self.name}", others + cores, CORES_PER_CHIP, "cores")
        self._cores[artifact.digest] = cores
        return LoihiSimProgram(network, artifact.manifest, placement, self._pause)

    def unload(self, artifact: Artifact) -> None:
        """Free the cores of the network."""
        self._cores.pop(artifact.digest, None)

    def static_watts(self) -> float:
        """Tell the power of the chip and its used cores."""
        return loihi.static_watts(1, sum(self._cores.values()))

    def reopening(self) -> Optional[Cost]:
        """Nothing is published of what a chip takes to be powered up again, so this one stays on."""
        return None

    def power(self, on: bool) -> None:
        """Nothing to switch."""

    def telemetry(self) -> dict[str, float]:
        """Tell how full the chip is."""
        return {"cores": float(sum(self._cores.values()))}

    def close(self) -> None:
        """Free all cores."""
        self._cores.clear()


class LoihiSimProgram:
    """A spiking network on the simulated chip. Images of a batch run one after the other, as on the chip."""

    def __init__(self, network: Network, manifest: Manifest, placement: Placement, pause: Pause) -> None:
        self._network = network
        self._engine = fast.compile_network(network)
        # The first run compiles the engine, or loads what an earlier process compiled.
        self._engine.run(np.zeros((1, *network.layers[0].shape), np.int64), 1)
        self._cores = [layer.cores for layer in placement.layers]
        self._pause = pause
        self._scale = 1 / 255 if manifest.input.dtype == "uint8" else 1.0
        self._shape = network.layers[0].shape
        self._points = {(point.steps, point.margin): point for point in manifest.operating_points}
        pairs = zip(network.layers, network.layers[1:])
        self._synapses = [0, *(int(reference.fan_out(b.synapse, a.shape).sum()) for a, b in pairs)]
        self._neurons = [layer.size for layer in network.layers]

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Price the manifest's mean counts; the bound is every neuron firing at every step."""
        point = self._points[steps, margin]
        mean = loihi.Events(point.synaptic_operations, point.active_updates, point.inactive_updates)
        bound = loihi.Events(sum(self._synapses) * steps, sum(self._neurons) * steps, 0)
        seconds = loihi.seconds(
            loihi.spread(mean, self._synapses, self._neurons), self._cores, point.mean_steps or steps
        )
        return Cost(loihi.dynamic_joules(mean), loihi.dynamic_joules(bound), seconds)

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Classify the images."""
        started = time.perf_counter()
        pictures = np.multiply(images, self._scale, dtype=np.float64).reshape(len(images), *self._shape)
        bias = reference.encode(self._network.encoder, pictures)
        result = self._engine.run(bias, steps, margin=margin or None)
        seconds = loihi.seconds(result.layers, self._cores, int(result.steps.sum()), len(images))
        computed = occupy(started, seconds, self._pause)
        joules = loihi.dynamic_joules(result.events)
        scores = result.scores.astype(np.float32)
        return Inference(
            scores, int(result.steps.max()), seconds, joules, joules * loihi.RELATIVE_UNCERTAINTY, computed
        )
