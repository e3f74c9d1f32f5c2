"""Find the settings of a spiking network on calibration images: scales, initial potentials, biases.

Scales (the thresholds in units of activations): the percentile that normalises a layer times the factor at which its
activations, rounded to the counts of spikes that so many steps allow, differ least from what they were; the criterion
of Y. Li et al., "A Free Lunch from ANN: Towards Efficient, Accurate Spiking Neural Networks Calibration", ICML 2021.
Biases, channel by channel, and potentials, layer by layer: from the same paper's idea that a layer is to give on
average what the dense network gives there; layers are taken in order, each with the spikes of those before it.
The last layer, whose sums are the scores, is fitted to the spikes themselves: whatever earlier neurons do too early or
too late in a few steps, it sees only their counts, and least squares find what these say of the scores.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from hal.snn.network import Network
from models import convert, measure
from models.chain import Pool
from models.convert import HALF, Setting, Target
from models.errors import ConversionError
from models.refit import refit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.chain import Chain

    Floats = NDArray[np.float64]
    Reals = NDArray[np.floating]

PERCENTILE = 99.9
FACTORS = tuple(np.linspace(0.3, 1.2, 19).tolist())
POTENTIALS = (0.25, 0.375, 0.5, 0.625, 0.75)
ROUNDS = 2
# Enough values of a layer to choose its scale by.
SAMPLES = 1 << 18


def percentiles(chain: Chain, activations: Sequence[Reals], percentile: float) -> list[Setting]:
    """Give each stage the percentile of its activations as scale. Raises `ConversionError` where that is 0."""
    found = []
    for stage, values in zip(chain.stages, activations, strict=True):
        largest = 1.0 if stage is chain.stages[-1] else float(np.percentile(values, percentile))
        if largest <= 0:
            raise ConversionError(stage.name, f"percentile {percentile} of its activations is 0: nothing would fire")
        found.append(Setting(np.full((1, 1, 1), largest)))
    return found


def ceilings(chain: Chain, settings: Sequence[Setting]) -> list[Setting]:
    """Give each stage that was trained with a ceiling, and averages of it, that as scale, and leave others as set."""
    found: list[Setting] = []
    ceiling = math.inf
    for stage, setting in zip(chain.stages, settings, strict=True):
        if stage.rectifier is not None:
            ceiling = stage.rectifier.ceiling
        elif not isinstance(stage.operation, Pool) or stage is chain.stages[-1]:
            ceiling = math.inf
        limited = math.isfinite(ceiling)
        found.append(dataclasses.replace(setting, scale=np.full((1, 1, 1), ceiling)) if limited else setting)
    return found


def scales(chain: Chain, activations: Sequence[Reals], settings: Sequence[Setting], steps: int) -> list[Setting]:
    """Change the scales so that counts of `steps` steps stand best for the activations."""
    found = []
    for stage, values, setting in zip(chain.stages, activations, settings, strict=True):
        if stage is chain.stages[-1]:
            found.append(setting)
            continue
        sample = _sample(values)
        errors = [_rounding_error(sample, float(setting.scale.ravel()[0]) * factor, steps) for factor in FACTORS]
        found.append(dataclasses.replace(setting, scale=setting.scale * FACTORS[int(np.argmin(errors))]))
    return found


def _sample(values: Reals) -> Reals:
    flat = values.ravel()
    return flat if len(flat) <= SAMPLES else np.random.default_rng(0).choice(flat, SAMPLES, replace=False)


def _rounding_error(values: Reals, scale: float, steps: int) -> float:
    counts = np.clip(np.floor(values * (steps / scale) + HALF), 0, steps)
    return float(np.square(counts * (scale / steps) - values).mean())


def biases(
    chain: Chain,
    settings: Sequence[Setting],
    pictures: Reals,
    wanted: Sequence[Reals],
    steps: int,
    target: Target,
) -> list[Setting]:
    """Correct the biases of every channel so that a layer gives on average what is `wanted` of it at `steps` steps.

    `pictures` (N, C, H, W) are in [0, 1], `wanted` has the dense network's activations for them, stage by stage. The
    potential of a layer is the one of `POTENTIALS` with which its corrected values differ least.
    """
    found = list(settings)
    for index, expected in enumerate(wanted[:-1]):
        trials = []
        for potential in POTENTIALS:
            found[index] = dataclasses.replace(settings[index], potential=potential)
            for _ in range(ROUNDS):
                difference = expected - _values(chain, found, index, pictures, steps, target)
                shift = difference.mean(axis=(0, 2, 3)).reshape(-1, 1, 1)
                found[index] = dataclasses.replace(found[index], correction=found[index].correction + shift)
            difference = expected - _values(chain, found, index, pictures, steps, target)
            trials.append((float(np.square(difference).mean()), found[index]))
        found[index] = min(trials, key=lambda trial: trial[0])[1]
    return found


def readout(
    chain: Chain, settings: Sequence[Setting], pictures: Reals, wanted: Reals, steps: int, target: Target
) -> Chain:  # fmt: skip
    """Fit the last layer to give `wanted` (N, classes, 1, 1) for the spikes that arrive in `steps` steps."""
    *before, last = chain.stages
    if isinstance(last.operation, Pool):
        return chain
    if before:
        given: Reals = _values(chain, settings, len(before) - 1, pictures, steps, target)
    else:
        # The pixels of the picture fire as often as their grey levels, rounded, say.
        given = np.floor(pictures * steps + HALF) / steps
    fitted = dataclasses.replace(last, operation=refit(last.operation, given, wanted))
    return dataclasses.replace(chain, stages=(*before, fitted))


def _values(
    chain: Chain, settings: Sequence[Setting], index: int, pictures: Reals, steps: int, target: Target
) -> Floats:  # fmt: skip
    """Give what the spikes of a stage stand for, (N, C, H, W)."""
    network = convert.convert(chain, settings, target)
    bench = measure.Bench(Network(network.encoder, network.layers[: index + 2]))
    counts = bench.run(bench.encode(pictures), steps).scores
    shape = chain.stages[index].shape
    values: Floats = counts.reshape(len(pictures), *shape) * (settings[index].scale / steps)
    return values
