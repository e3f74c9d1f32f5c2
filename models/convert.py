"""Convert a trained chain into a spiking network of Loihi's integers, without training it again.

Known as rate conversion with data-based normalisation: B. Rueckauer et al., "Conversion of Continuous-Valued Deep
Networks to Efficient Event-Driven Networks for Image Classification", Frontiers in Neuroscience 11, 2017. A neuron's
spikes per step stand for its activation over a scale, a high percentile of all its layer's activations or what
`models.calibrate` finds. Reset is by subtraction and voltages start at half the threshold, so that a count of spikes
rounds instead of truncating. On the digits, at four steps, reset to zero reaches 93 % where subtraction reaches 99 %;
percentiles from 98 to 99.9 differ by noise only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from hal.snn import network as snn
from hal.snn.network import (
    BIAS_EXPONENT_LIMIT,
    BIAS_LIMIT,
    STATE_LIMIT,
    SYNAPSE_SHIFT,
    THRESHOLD_LIMIT,
    THRESHOLD_SHIFT,
    Accumulator,
    Encoder,
    Layer,
    Lif,
    Network,
    SumPool,
)
from models import fold
from models.chain import Dense, Pool
from models.errors import ConversionError
from models.fold import Affine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.chain import Chain, Shape, Stage, Weighted

    Floats = NDArray[np.float64]

Reset = Literal["subtract", "zero"]
# Lava drops the low bit of signed weights, (w >> 1) << 1: of nine bits, with the sign, eight are left.
WEIGHT_BITS = 8
LARGEST_WEIGHT = 254
LARGEST_BIAS = BIAS_LIMIT - 1
# A white pixel fires at every step, and each of the 256 grey levels is a whole bias of 16 times its value.
INPUT_THRESHOLD = 255 * 16
# The weight of a pooling's synapses, all alike, where the threshold has room for it.
POOL_WEIGHT = 64
HALF = 0.5


@dataclass(frozen=True)
class Target:
    """What the neurons and synapses of the chip can do.

    Reset by subtraction takes two compartments per neuron on Loihi 1, reset to `zero` is its own and Lava's. Weights
    have `bits` bits, sign included.
    """

    reset: Reset = "subtract"
    bits: int = WEIGHT_BITS


@dataclass(frozen=True)
class Setting:
    """What the spiking form of a stage adds to it.

    `scale` is the activation that one spike per step stands for, (C, 1, 1) or one for all as (1, 1, 1). Voltages start
    at the share `potential` of the threshold. `correction` is added to the bias.
    """

    scale: Floats
    potential: float = HALF
    correction: Floats | float = 0.0


def convert(chain: Chain, settings: Sequence[Setting], target: Target = Target()) -> Network:
    """Convert a chain without max pooling, with a setting for each stage.

    The neurons of the last stage sum and never fire; of its setting only the correction counts. Raises
    `ConversionError` for a layer that cannot be scaled into Loihi's integers.
    """
    # The half makes the encoder's truncation round: a grey level times 1 / 255 may lie just below the whole number.
    encoder = Encoder(INPUT_THRESHOLD / 2, INPUT_THRESHOLD / 2 + 0.5)
    layers = [Layer("00-input", chain.shape, _lif(INPUT_THRESHOLD, HALF, target, bias_exponent=THRESHOLD_SHIFT))]
    scale: Floats = np.ones((1, 1, 1))
    for stage, setting in zip(chain.stages, settings, strict=True):
        source = np.broadcast_to(scale, layers[-1].shape)
        prefix = f"{len(layers):02d}"
        if isinstance(stage.operation, Pool):
            layers.append(_pool(f"{prefix}-pool", stage.operation, stage.shape, setting, source, target))
        else:
            last = stage is chain.stages[-1]
            layers.append(_layer(prefix, stage, stage.operation, setting, source, target, last=last))
        scale = setting.scale
    return Network(encoder, tuple(layers))


def _lif(threshold: int, potential: float, target: Target, *, bias_exponent: int = 0) -> Lif:
    initial = round(potential * (threshold << THRESHOLD_SHIFT))
    return Lif(threshold, bias_exponent=bias_exponent, reset=target.reset, initial_voltage=initial)


def _layer(
    prefix: str, stage: Stage, operation: Weighted, setting: Setting, source: Floats, target: Target, *, last: bool
) -> Layer:  # fmt: skip
    """Quantise a stage whose input's rates stand for `source` each."""
    scale = np.ones((1, 1, 1)) if last else setting.scale
    operation = fold.ahead(operation, Affine.scaling(source), (source.shape[0], source.shape[1], source.shape[2]))
    operation = fold.behind(operation, Affine.scaling(1 / scale))
    shift = operation.bias + setting.correction / scale
    factor = _factor(stage.name, operation.weight, shift, fires=not last)
    step = 1 << (1 + WEIGHT_BITS - target.bits)
    weight = (step * np.rint(operation.weight * (factor / step))).astype(np.int16)
    if last:
        neuron: Lif | Accumulator = Accumulator()
        mantissa = np.rint(shift * factor)
    else:
        exponent, mantissa = _mantissas(shift * factor)
        neuron = _lif(round(factor), setting.potential, target, bias_exponent=exponent)
    bias = _spread(mantissa, stage.shape)
    if isinstance(operation, Dense):
        return Layer(f"{prefix}-dense", stage.shape, neuron, snn.Dense(weight), bias)
    synapse = snn.Conv(weight, operation.stride, operation.padding, operation.dilation, operation.groups)
    return Layer(f"{prefix}-conv", stage.shape, neuron, synapse, bias)


def _pool(name: str, pool: Pool, shape: Shape, setting: Setting, source: Floats, target: Target) -> Layer:
    """Sum the spikes of each window; what is left of the scales is the same for all channels, since weights are."""
    ratio = float(np.max(setting.scale / source[:, :1, :1]))
    windows = math.prod(pool.kernel) * ratio
    weight = max(1, min(POOL_WEIGHT, int(THRESHOLD_LIMIT / windows)))
    threshold = round(windows * weight)
    exponent, mantissa = _mantissas(setting.correction / setting.scale * threshold)
    neuron = _lif(threshold, setting.potential, target, bias_exponent=exponent)
    return Layer(name, shape, neuron, SumPool(pool.kernel, pool.stride, weight), _spread(mantissa, shape))


def _mantissas(biases: Floats) -> tuple[int, Floats]:
    """Write biases, in units of the threshold, in the finest unit in which they fit: its exponent, their mantissas."""
    state = biases * (1 << THRESHOLD_SHIFT)
    exponent = next(e for e in range(BIAS_EXPONENT_LIMIT + 1) if np.abs(np.rint(state / 2**e)).max() <= LARGEST_BIAS)
    return exponent, np.rint(state / 2**exponent)


def _spread(mantissas: Floats, shape: Shape) -> NDArray[np.int32] | None:
    """Give every neuron its bias, or None where there is none."""
    if not mantissas.any():
        return None
    return np.ascontiguousarray(np.broadcast_to(mantissas.astype(np.int32), shape))


def _factor(name: str, weight: Floats, bias: Floats, *, fires: bool) -> float:
    """Find the largest factor from rates to integers that keeps weights, biases and sums within their fields.

    For a layer that fires it is the threshold.
    """
    largest, largest_bias = float(np.abs(weight).max()), float(np.abs(bias).max())
    if largest == 0:
        raise ConversionError(name, "all its weights are 0")
    limits = [LARGEST_WEIGHT / largest]
    bias_range = LARGEST_BIAS
    if fires:
        bias_range = LARGEST_BIAS << BIAS_EXPONENT_LIMIT >> THRESHOLD_SHIFT
        # All inputs of one sign may fire at once: their sum must not wrap, rounding of each weight included.
        rows = weight.reshape(len(weight), -1)
        largest_sum = float(max(np.maximum(rows, 0).sum(axis=1).max(), np.maximum(-rows, 0).sum(axis=1).max()))
        limits += [((STATE_LIMIT >> SYNAPSE_SHIFT) - rows.shape[1]) / largest_sum, float(THRESHOLD_LIMIT)]
    if largest_bias:
        limits.append(bias_range / largest_bias)
    factor = min(limits)
    if fires and factor < 1:
        figures = f"largest weight {largest:.3g}, largest bias {largest_bias:.3g}"
        raise ConversionError(name, f"a threshold of {factor:.3g} is left, 1 is the least ({figures} of the threshold)")
    return factor
