"""The host CPU as a device, through OpenVINO.

Its energy is modelled: the CPU seconds of the inference times the watts of a busy core, which the operator states. The
calling thread works as one of the network's threads, so its CPU time, times their number, is that of all; it does not
run on while other programs have the core.
Static power is the host's and counts only where a meter of the host is configured.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Optional

import numpy as np

from hal.dense import DenseNetwork
from hal.device import Boundary, Cost, Inference, Kind, Provenance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact

# A stated wattage per core is a nameplate figure: turbo, temperature and workload move it by about a third.
RELATIVE_UNCERTAINTY = 0.3
WARM_UP_RUNS = 20


class Cpu:
    """The host CPU. `core_watts` is what a busy core draws above an idle one."""

    driver = "cpu"
    simulated = False
    provenance = Provenance.MODELLED
    boundary = Boundary.HOST
    kind = Kind.DNN
    batch_limit = 64

    def __init__(self, name: str, *, threads: int, core_watts: float, time_limit_seconds: float) -> None:
        self.name = name
        self._threads = threads
        self._core_watts = core_watts
        self._time_limit_seconds = time_limit_seconds

    def load(self, artifact: Artifact) -> CpuProgram:
        """Compile the network and measure its warm run."""
        network = DenseNetwork(artifact, threads=self._threads)
        spec = artifact.manifest.input
        blank = np.zeros((1, *spec.shape), spec.dtype)
        watts = self._core_watts * self._threads
        runs, busy = [], []
        for _ in range(WARM_UP_RUNS):
            started, cpu_started = time.perf_counter(), time.thread_time()
            network(blank)
            runs.append(time.perf_counter() - started)
            busy.append(time.thread_time() - cpu_started)
        warm = slice(WARM_UP_RUNS // 2, None)
        joules = statistics.median(busy[warm]) * watts
        return CpuProgram(network, watts, Cost(joules, self._time_limit_seconds * watts, statistics.median(runs[warm])))

    def unload(self, artifact: Artifact) -> None:
        """Nothing is kept beyond the program."""

    def static_watts(self) -> float:
        """Nothing: an idle core belongs to the host."""
        return 0.0

    def reopening(self) -> Optional[Cost]:
        """Nothing can be powered down."""
        return None

    def power(self, on: bool) -> None:
        """Nothing to switch."""

    def telemetry(self) -> dict[str, float]:
        """Nothing: the host's own tools watch its processor."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""


class CpuProgram:
    """A network compiled for the host CPU."""

    def __init__(self, network: DenseNetwork, watts: float, cost: Cost) -> None:
        self._network = network
        self._watts = watts
        self._cost = cost

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Give the cost measured at load; the bound is the time limit at full power."""
        return self._cost

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Classify the images."""
        started, cpu_started = time.perf_counter(), time.thread_time()
        scores = self._network(images)
        joules = (time.thread_time() - cpu_started) * self._watts
        seconds = time.perf_counter() - started
        return Inference(scores, 1, seconds, joules, joules * RELATIVE_UNCERTAINTY, 0.0)
