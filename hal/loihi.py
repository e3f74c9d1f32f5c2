"""Loihi through Intel's Lava 0.10: `loihi` on a board, `loihi-lava` the same on Lava's own CPU backend.

Runs under the vendor's interpreter, in a worker. A network is built once and kept running: an image sets the state of
each layer as it gets there. To build one for each image takes 14 times as long for the digits at 4 steps (421 ms, not
30) and 6 times for 784-512-512-10 at 16 steps (1,018 ms, not 170; medians of 12, alternating, on two busy cores). Lava
moves each number of a state on its own, so that changes with tens of thousands of neurons.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from hal.device import Boundary, Cost, Inference, Kind, Provenance
from hal.energy import loihi
from hal.errors import ArtifactError, DeviceUnavailable, Reason
from hal.simulation import Pause, occupy
from hal.snn.pricing import Chip, Pricing
from hal.snn.reader import read_network

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact, Manifest, TensorSpec
    from hal.lava.network import Resident

# Assumed: the vendor publishes no accuracy of its probes.
PROBE_RELATIVE_UNCERTAINTY = 0.1


class Loihi:
    """One Loihi, a board or with `silicon` false Lava's computation of one.

    Power is measured where the board has the vendor's probes, and else modelled from the counts of the manifest; the
    CPU backend counts events as `loihi-sim` does.
    """

    boundary = Boundary.ACCELERATOR
    kind = Kind.SNN
    batch_limit = 1

    def __init__(
        self,
        name: str,
        *,
        silicon: bool,
        time_limit_seconds: float,
        partition: str = "",
        board: str = "",
        pause: Pause = time.sleep,
    ) -> None:
        """Look for the runtime and the board. Raises `DeviceUnavailable` that says what is missing."""
        self.name = name
        self.driver = "loihi" if silicon else "loihi-lava"
        self.simulated = not silicon
        self.time_limit_seconds = time_limit_seconds
        self._pause = pause
        self._chip = Chip(name)
        self._resident: dict[str, Resident] = {}
        self._probe: Optional[Any] = None
        try:
            from hal.lava import silicon as access

            if silicon:
                # Before the rest of Lava, which takes half a second: the daemon looks for a missing board every few.
                access.reach(name, partition, board)
            from hal.lava import network
        except ImportError as error:
            raise DeviceUnavailable(name, Reason.NO_RUNTIME, str(error)) from None
        self._network = network
        if silicon:
            self._probe = access.power_probe()
        self._watts = access.watts
        without_probe = Provenance.MODELLED if silicon else Provenance.SIMULATED
        self.provenance = Provenance.MEASURED if self._probe is not None else without_probe

    def load(self, artifact: Artifact) -> LoihiProgram:
        """Build the network of Lava's processes and start them; what is resident already goes on."""
        network = read_network(artifact)
        self._network.check(network, artifact.name, chip=not self.simulated)
        pricing = Pricing(network, artifact.manifest)
        self._chip.take(artifact, pricing.cores)
        if artifact.digest not in self._resident:
            most_steps = max(point.steps for point in artifact.manifest.operating_points)
            try:
                self._resident[artifact.digest] = self._network.Resident(
                    network, most_steps, chip=not self.simulated, callbacks=[self._probe] if self._probe else None
                )
            except Exception as error:  # noqa: BLE001 (Lava raises errors of every kind)
                self._chip.free(artifact)
                reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                raise ArtifactError(artifact.name, f"Lava refuses the network: {reason}") from None
        return LoihiProgram(self, self._resident[artifact.digest], pricing, artifact.manifest, self._pause)

    def unload(self, artifact: Artifact) -> None:
        """End the processes of the network."""
        resident = self._resident.pop(artifact.digest, None)
        if resident is not None:
            resident.stop()
        self._chip.free(artifact)

    def static_watts(self) -> float:
        """Tell the power that the probe measured without activity, else that of the model."""
        measured = self.measured_watts()
        return measured[0] if measured else loihi.static_watts(1, self._chip.cores)

    def measured_watts(self) -> Optional[tuple[float, float]]:
        """Tell static and dynamic power of the last run, where the board has a probe and something has run."""
        return self._watts(self._probe) if self._probe is not None and self._resident else None

    def reopening(self) -> Optional[Cost]:
        """Nothing is published of what a chip takes to be powered up again, so this one stays on."""
        return None

    def power(self, on: bool) -> None:
        """Nothing to switch."""

    def telemetry(self) -> dict[str, float]:
        """Tell how full the chip is."""
        return {"cores": float(self._chip.cores)}

    def close(self) -> None:
        """End all processes of Lava."""
        for resident in self._resident.values():
            resident.stop()
        self._resident.clear()
        self._chip.clear()


class LoihiProgram:
    """A spiking network in Lava. Images of a batch run one after the other."""

    def __init__(self, device: Loihi, resident: Resident, pricing: Pricing, manifest: Manifest, pause: Pause) -> None:
        self._device = device
        self._resident = resident
        self._pricing = pricing
        self._pause = pause
        ways = [(point.steps, point.margin) for point in manifest.operating_points]
        self._costs = {way: self._cost(*way, manifest.input) for way in ways}

    def _cost(self, steps: int, margin: int, spec: TensorSpec) -> Cost:
        """Price the manifest's mean counts; on a board, try the darkest and the brightest picture.

        Where the probe measures, the bound is their power for as long as an image may take.
        """
        modelled = self._pricing.cost(steps, margin)
        if self._device.simulated:
            return modelled
        pictures = np.zeros((2, *spec.shape), spec.dtype)
        pictures[1] = 255 if spec.dtype == "uint8" else 1
        tried = self(pictures, steps, margin)
        measured = self._device.measured_watts()
        bound = measured[1] * self._device.time_limit_seconds if measured else modelled.upper_joules
        joules = tried.dynamic_joules / len(pictures)
        return Cost(joules, max(joules, bound), tried.seconds / len(pictures))

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Give the cost that was found at load."""
        return self._costs[steps, margin]

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Classify the images."""
        started = time.perf_counter()
        try:
            runs = [self._resident.run(bias, steps, margin) for bias in self._pricing.encode(images)]
        except Exception as error:  # noqa: BLE001 (Lava raises errors of every kind)
            raise DeviceUnavailable(self._device.name, Reason.FAILED, f"{type(error).__name__}: {error}") from None
        scores = np.stack([run.scores for run in runs]).astype(np.float32)
        most = max(run.steps for run in runs)
        if not self._device.simulated:
            seconds = time.perf_counter() - started
            return Inference(scores, most, seconds, *self._joules(seconds, steps, margin, len(images)), 0.0)
        layers = [loihi.sum_events(events) for events in zip(*(run.layers for run in runs))]
        seconds = self._pricing.seconds(layers, sum(run.steps for run in runs), len(images))
        computed = occupy(started, seconds, self._pause)
        joules = loihi.dynamic_joules(loihi.sum_events(layers))
        return Inference(scores, most, seconds, joules, joules * loihi.RELATIVE_UNCERTAINTY, computed)

    def _joules(self, seconds: float, steps: int, margin: int, images: int) -> tuple[float, float]:
        """Give the dynamic joules on the board, and their standard uncertainty."""
        measured = self._device.measured_watts()
        if measured:
            joules = measured[1] * seconds
            return joules, joules * PROBE_RELATIVE_UNCERTAINTY
        joules = self._pricing.cost(steps, margin).dynamic_joules * images
        return joules, joules * loihi.RELATIVE_UNCERTAINTY
