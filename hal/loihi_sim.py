"""A simulated Loihi 1 chip: exact integer dynamics, joules and seconds from the counted events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Optional

import numpy as np

from hal.device import Boundary, Cost, Inference, Kind, Provenance
from hal.energy import loihi
from hal.simulation import Pause, occupy
from hal.snn import fast
from hal.snn.pricing import Chip, Pricing
from hal.snn.reader import read_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact
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
        self._chip = Chip(name)
        fast.warm_up()

    def load(self, artifact: Artifact) -> LoihiSimProgram:
        """Place the network on free cores."""
        network = read_network(artifact)
        pricing = Pricing(network, artifact.manifest)
        self._chip.take(artifact, pricing.cores)
        return LoihiSimProgram(network, pricing, self._pause)

    def unload(self, artifact: Artifact) -> None:
        """Free the cores of the network."""
        self._chip.free(artifact)

    def static_watts(self) -> float:
        """Tell the power of the chip and its used cores."""
        return loihi.static_watts(1, self._chip.cores)

    def reopening(self) -> Optional[Cost]:
        """Nothing is published of what a chip takes to be powered up again, so this one stays on."""
        return None

    def power(self, on: bool) -> None:
        """Nothing to switch."""

    def telemetry(self) -> dict[str, float]:
        """Tell how full the chip is."""
        return {"cores": float(self._chip.cores)}

    def close(self) -> None:
        """Free all cores."""
        self._chip.clear()


class LoihiSimProgram:
    """A spiking network on the simulated chip. Images of a batch run one after the other, as on the chip."""

    def __init__(self, network: Network, pricing: Pricing, pause: Pause) -> None:
        self._engine = fast.compile_network(network)
        # The first run compiles the engine, or loads what an earlier process compiled.
        self._engine.run(np.zeros((1, *network.layers[0].shape), np.int64), 1)
        self._pricing = pricing
        self._pause = pause

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Price the manifest's mean counts."""
        return self._pricing.cost(steps, margin)

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Classify the images."""
        started = time.perf_counter()
        result = self._engine.run(self._pricing.encode(images), steps, margin=margin or None)
        seconds = self._pricing.seconds(result.layers, int(result.steps.sum()), len(images))
        computed = occupy(started, seconds, self._pause)
        joules = loihi.dynamic_joules(result.events)
        scores = result.scores.astype(np.float32)
        return Inference(
            scores, int(result.steps.max()), seconds, joules, joules * loihi.RELATIVE_UNCERTAINTY, computed
        )
