"""From a dense chain to a spiking network that works: the steps of the conversion, each kept only where it helps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models import calibrate, convert, measure, pooling
from models.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hal.snn.network import Network
    from models.chain import Chain
    from models.convert import Setting, Target

    Values = NDArray[np.float32]

# Half of the images set the corrections. A search that tries many judges by the other half; the few candidates of a
# conversion are judged by all, since chance decides among half of them: on 500 digits the thresholds alone looked best,
# whose accuracy is 0.9 points less.
FITTING, JUDGING = slice(0, None, 2), slice(1, None, 2)
# As many are enough for the averages that correct biases.
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
    """Replace what spikes cannot do. `values` (N, C, H, W) are calibration pictures in [0, 1], two at least."""
    if len(values) < 2:
        raise DataError("calibration", f"{len(values)} image is given, 2 are needed: one to set, one to judge")
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

    `agreement` is the share of all images that are classified as the dense network does, at the steps it is set for;
    `dynamic_joules` is what one of them costs on the Loihi model.
    """

    step: str
    chain: Chain
    settings: Sequence[Setting]
    network: Network
    agreement: float
    dynamic_joules: float


def candidates(
    subject: Subject, steps: int, target: Target, percentile: float = calibrate.PERCENTILE
) -> list[Candidate]:
    """Convert with more and more calibration for `steps` steps."""
    chain = subject.without_max
    expected = subject.wanted[-1].reshape(len(subject.values), -1).argmax(axis=1)

    def tried(step: str, settings: Sequence[Setting], chain: Chain = chain) -> Candidate:
        network = convert.convert(chain, settings, target)
        bench = measure.Bench(network)
        point = measure.point(bench.run(bench.encode(subject.values), steps), expected, steps)
        return Candidate(step, chain, settings, network, point.accuracy, measure.joules(point))

    normalised = calibrate.percentiles(chain, subject.given, percentile)
    found = [tried("percentile", normalised)]
    trained = calibrate.ceilings(chain, normalised)
    if any(stage.rectifier is not None and math.isfinite(stage.rectifier.ceiling) for stage in chain.stages):
        found.insert(0, tried("ceilings", trained))
    found.append(tried("thresholds", calibrate.scales(chain, subject.given, normalised, steps)))
    few = [array[FITTING][:CORRECTING_IMAGES] for array in (subject.values, *subject.wanted)]
    corrected = calibrate.biases(chain, best(found).settings, few[0], few[1:], steps, target)
    found.append(tried("potentials and biases", corrected))
    settings = best(found).settings
    return [*found, tried("last layer", settings, with_readout(subject, chain, settings, steps, target))]


def with_readout(
    subject: Subject, chain: Chain, settings: Sequence[Setting], steps: int, target: Target
) -> Chain:  # fmt: skip
    """Fit the last layer to the counts of spikes that it really gets in `steps` steps."""
    wanted = subject.wanted[-1][FITTING]
    return calibrate.readout(chain, settings, subject.values[FITTING], wanted, steps, target)


def best(found: Sequence[Candidate]) -> Candidate:
    """Give the one that agrees best with the dense network; of several the one of least energy, and the most set."""
    return max(reversed(found), key=lambda candidate: (candidate.agreement, -candidate.dynamic_joules))
