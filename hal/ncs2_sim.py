"""A simulated Intel Neural Compute Stick 2: the network in halves on the host CPU, power and latency from the model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional

from hal.dense import DenseNetwork
from hal.device import Boundary, Cost, Inference, Kind, Provenance
from hal.energy import ncs2
from hal.errors import CapacityError, DeviceUnavailable, Reason
from hal.simulation import Pause, occupy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hal.artifact import Artifact

# The stick runs one network at a time.
NETWORKS_LIMIT = 1


class Ncs2Sim:
    """The simulator of one stick. `pause` keeps it occupied for the modelled time."""

    driver = "ncs2-sim"
    simulated = True
    provenance = Provenance.SIMULATED
    boundary = Boundary.ACCELERATOR
    kind = Kind.DNN
    batch_limit = 1

    def __init__(self, name: str, *, threads: int, pause: Pause = time.sleep) -> None:
        self.name = name
        self._threads = threads
        self._pause = pause
        self._loaded: set[str] = set()
        self._on = True

    def load(self, artifact: Artifact) -> Ncs2SimProgram:
        """Compile the network in float16 arithmetic."""
        if self._loaded - {artifact.digest}:
            raise CapacityError(f"{artifact.name} on {self.name}", len(self._loaded) + 1, NETWORKS_LIMIT, "networks")
        network = DenseNetwork(artifact, threads=self._threads, half_precision=True)
        self._loaded.add(artifact.digest)
        return Ncs2SimProgram(self, network, artifact.manifest.multiplies)

    def unload(self, artifact: Artifact) -> None:
        """Make room for another network."""
        self._loaded.discard(artifact.digest)

    def static_watts(self) -> float:
        """Tell the idle power of a stick whose port has power."""
        return ncs2.IDLE_WATTS if self._on else 0.0

    def reopening(self) -> Optional[Cost]:
        """Tell what booting the firmware and loading the network takes; the model knows no spread."""
        joules = ncs2.dynamic_joules(ncs2.REOPENING_SECONDS)
        return Cost(joules, joules, ncs2.REOPENING_SECONDS)

    def power(self, on: bool) -> None:
        """Switch the power of the stick's port."""
        if on and not self._on:
            self._pause(ncs2.REOPENING_SECONDS)
        self._on = on

    def occupy(self, started: float, seconds: float) -> float:
        """Keep the stick occupied for the modelled time; give the seconds computed. Down, it takes no work."""
        if not self._on:
            raise DeviceUnavailable(self.name, Reason.LOST, "it is powered down")
        return occupy(started, seconds, self._pause)

    def telemetry(self) -> dict[str, float]:
        """Nothing: a simulator has no temperature."""
        return {}

    def close(self) -> None:
        """Forget what is loaded."""
        self._loaded.clear()


class Ncs2SimProgram:
    """A network on the simulated stick. Images of a batch run one after the other, as on the stick."""

    def __init__(self, stick: Ncs2Sim, network: DenseNetwork, multiplies: int) -> None:
        self._stick = stick
        self._network = network
        self._seconds = ncs2.seconds(multiplies)

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Give the modelled cost; the model knows no spread, so the bound is the mean."""
        joules = ncs2.dynamic_joules(self._seconds)
        return Cost(joules, joules, self._seconds)

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Classify the images."""
        started = time.perf_counter()
        scores = self._network(images)
        seconds = self._seconds * len(images)
        computed = self._stick.occupy(started, seconds)
        joules = ncs2.dynamic_joules(seconds)
        return Inference(scores, 1, seconds, joules, joules * ncs2.RELATIVE_UNCERTAINTY, computed)
