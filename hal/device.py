"""The hardware abstraction layer's interface: what a device is, what it runs, and what it answers.

A `Device` loads an artifact and gives a `Program`; a program is called with a batch of images and answers with an
`Inference`. A device runs one batch at a time, from one thread: otherwise its joules could not be attributed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Optional, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from hal.artifact import Artifact


class Kind(str, Enum):
    """What an artifact is: a spiking or a dense network."""

    SNN = "snn"
    DNN = "dnn"


class Provenance(str, Enum):
    """How a figure was obtained, from the strongest to the weakest."""

    MEASURED = "measured"
    MODELLED = "modelled"
    SIMULATED = "simulated"


def weakest(provenances: Iterable[Provenance]) -> Provenance:
    """Give the label of a sum: that of its weakest part."""
    return max(provenances, key=tuple(Provenance).index)


class Boundary(str, Enum):
    """What a figure covers: the accelerator alone, or the host's processor."""

    ACCELERATOR = "accelerator"
    HOST = "host"


@dataclass(frozen=True)
class Cost:
    """What one image costs at an operating point, or powering a device up, before it has happened.

    `dynamic_joules` is the mean, `upper_joules` a bound that is never exceeded, `seconds` the time that the device is
    occupied. Static power is the device's and not in it.
    """

    dynamic_joules: float
    upper_joules: float
    seconds: float


@dataclass(frozen=True)
class Inference:
    """What a program answers for a batch of N images.

    `scores` is (N, classes) float32, larger is likelier. `steps` is the most that an image ran, 1 for a dense network.
    `seconds` is how long the device was occupied, `simulation_seconds` how much host CPU a simulator spent to find out,
    which a real device would not have cost. `dynamic_joules` is for the whole batch, above static power, with its
    standard uncertainty.
    """

    scores: NDArray[np.float32]
    steps: int
    seconds: float
    dynamic_joules: float
    uncertainty_joules: float
    simulation_seconds: float


class Program(Protocol):
    """An artifact resident on a device."""

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Give the expected cost of one image at an operating point; a dense network has only one."""
        ...

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Classify (N, *input shape) images of the artifact's input type.

        A spiking network runs for `steps` time steps, or with a `margin` above zero only until its best score leads
        the second by that much.

        Raises `DeviceUnavailable` when the device fails. The caller has checked type and shape.
        """
        ...


class Device(Protocol):
    """One accelerator, or the simulator of one. A batch of more than `batch_limit` images gains nothing."""

    name: str
    driver: str
    simulated: bool
    provenance: Provenance
    boundary: Boundary
    kind: Kind
    batch_limit: int

    def load(self, artifact: Artifact) -> Program:
        """Make an artifact of this device's kind resident.

        Raises `CapacityError` when it does not fit, `ArtifactError` when the runtime refuses it, `DeviceUnavailable`.
        """
        ...

    def unload(self, artifact: Artifact) -> None:
        """Give back what `load` took."""
        ...

    def static_watts(self) -> float:
        """Tell the power that the device draws without a request, in its power state and with what is loaded now."""
        ...

    def reopening(self) -> Optional[Cost]:
        """Tell what powering up again would cost, with what is loaded now; None where nothing can be powered down."""
        ...

    def power(self, on: bool) -> None:
        """Power the device down, or up again with what was loaded: its programs stay valid.

        Takes as long as the device does. A program that is called while the device is down raises
        `DeviceUnavailable`, and so does a device that does not come up.
        """
        ...

    def telemetry(self) -> dict[str, float]:
        """Tell what the device knows of itself, each under a name with its unit, such as `temperature_celsius`.

        Raises `DeviceUnavailable`. A device that knows nothing gives nothing.
        """
        ...

    def close(self) -> None:
        """Let go of the device. Closing twice is allowed."""
        ...


def limit_seconds(time_limit_seconds: float, batch_limit: int, images: int, seconds_each: float) -> float:
    """Tell how long a run may take before its device counts as hung, when an image is expected to take `seconds_each`.

    The limit is for what the device takes at once, and never below four times what the run is expected to take.
    """
    return max(time_limit_seconds * -(-images // batch_limit), 4 * seconds_each * images)
