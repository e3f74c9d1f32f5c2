"""From a dense chain to a spiking network that works: the steps of the conversion, each kept only where it helps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models import calibrate, convert, measure, pooling

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hal.snn.network import Network
    from models.chain import Chain
    from models.convert import Setting, Target

    Values = NDArray[np.float32]

# Images whose average corrects the biases, and images on which the settings compete.
CORRECTING_IMAGES = 256


@dataclass(frozen=True)
class Subject:
    """What is converted: `dense`, the form of it `without_max` pooling, and what both do with calibration `values`.

    `wanted` has what the dense chain gives at each stage of `without_max`, `given` what that gives itself.
    """

    dense: Chain
    without_max: Chain
    values: Values
    wanted: Sequence[Values]
    given: Sequence[Values]


def prepare(dense: Chain, values: Values) -> Subject:
    """Replace what spikes cannot do. `values` (N, C, H, W) are calibration pictures in [0, 1]."""
    averaging = pooling.last_average_folded(pooling.without_max(dense, values))
    wanted = {stage.name: array for stage, array in zip(dense.stages, pooling.activations(dense, values), strict=True)}
    return Subject(
        dense,
        averaging,
        values,
        [wanted[stage.name] for stage in averaging.stages],
        pooling.activations(averaging, values),
    )


@dataclass(frozen=True)
class Candidate:
    """A way to set a network: the step that was added to those before it, and what came out.

    `agreement` is the share of competing images that are classified as the dense network does.
    """

    step: str
    settings: Sequence[Setting]
    network: Network
    agreement: float


def candidates(
    subject: Subject, steps: int, target: Target, percentile: float = calibrate.PERCENTILE
) -> list[Candidate]:
    """Convert with more and more calibration for `steps` steps."""
    chain = subject.without_max
    expected = subject.wanted[-1].reshape(len(subject.values), -1).argmax(axis=1)

    def tried(step: str, settings: Sequence[Setting]) -> Candidate:
        network = convert.convert(chain, settings, target)
        bench = measure.Bench(network)
        scores = bench.run(bench.encode(subject.values), steps).scores
        return Candidate(step, settings, network, measure.accuracy(scores, expected))

    normalised = calibrate.percentiles(chain, subject.given, percentile)
    found = [tried("percentile", normalised)]
    trained = calibrate.ceilings(chain, normalised)
    if any(stage.rectifier is not None and math.isfinite(stage.rectifier.ceiling) for stage in chain.stages):
        found.insert(0, tried("ceilings", trained))
    found.append(tried("thresholds", calibrate.scales(chain, subject.given, normalised, steps)))
    few = CORRECTING_IMAGES
    start, wanted = best(found, len(subject.values)).settings, [array[:few] for array in subject.wanted]
    corrected = calibrate.biases(chain, start, subject.values[:few], wanted, steps, target)
    return [*found, tried("potentials and biases", corrected)]


def best(found: Sequence[Candidate], images: int) -> Candidate:
    """Give the one with the least calibration whose agreement is within a standard error of the highest."""
    highest = max(candidate.agreement for candidate in found)
    error = math.sqrt(highest * (1 - highest) / images)
    return next(candidate for candidate in found if candidate.agreement >= highest - error)
