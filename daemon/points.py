"""Operating points: the choices among which the budget is spent."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.clock import NANO
from hal.artifact import Artifact, Manifest, OperatingPoint
from hal.device import Cost, Device, Kind, Program

# How fast the learned service time follows what is seen: the weight of the newest.
LEARNING_RATE = 0.1


@dataclass(eq=False)
class Point:
    """A program on a device and how long it runs, with accuracy, expected and largest energy, and service time.

    `service_seconds` begins as the model's figure and follows what the device's queue sees. `fallback_of` names the
    device that this one stands in for, where it does.
    """

    model: str
    version: str
    variant: str
    kind: Kind
    digest: str
    device: str
    simulated: bool
    provenance: str
    boundary: str
    steps: int
    margin: int
    accuracy: float
    dynamic_nanojoules: int
    upper_nanojoules: int
    seconds: float
    program: Program = field(repr=False)
    service_seconds: float = 0.0
    fallback_of: str = ""
    journal_id: int = 0

    def observe(self, seconds: float) -> None:
        """Learn that a run takes `seconds` per image."""
        self.service_seconds += LEARNING_RATE * (seconds - self.service_seconds)


@dataclass(frozen=True)
class Model:
    """A version of a model: what its variants have in common, its operating points, and what did not load.

    `refusals` say why, by artifact and device; the device is empty where no device can help it.
    """

    name: str
    version: str
    manifest: Manifest
    points: list[Point] = field(default_factory=list)
    refusals: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """List what did not load, with the reasons."""
        return list(self.refusals.values())


def points_of(artifact: Artifact, device: Device, program: Program) -> list[Point]:
    """List the operating points of an artifact that is resident on a device."""
    return [_point(artifact, device, program, measured) for measured in artifact.manifest.operating_points]


def _point(artifact: Artifact, device: Device, program: Program, measured: OperatingPoint) -> Point:
    cost: Cost = program.cost(measured.steps, measured.margin)
    return Point(
        model=artifact.model,
        version=artifact.version,
        variant=artifact.variant,
        kind=artifact.manifest.kind,
        digest=artifact.digest,
        device=device.name,
        simulated=device.simulated,
        provenance=device.provenance.value,
        boundary=device.boundary.value,
        steps=measured.steps,
        margin=measured.margin,
        accuracy=measured.accuracy,
        dynamic_nanojoules=round(cost.dynamic_joules * NANO),
        upper_nanojoules=-int(-cost.upper_joules * NANO // 1),
        seconds=cost.seconds,
        program=program,
        service_seconds=cost.seconds,
    )
