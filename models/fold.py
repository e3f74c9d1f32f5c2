"""Fold what lies between the layers of a chain: scales and shifts into weights, functions into rectifiers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.chain import Chain, Conv, Dense, Pool, Rectifier, Stage, Weighted
from models.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from models.chain import Shape

    Floats = NDArray[np.float64]

# More values than this are taken as continuous.
LEVELS_LIMIT = 256


@dataclass(frozen=True)
class Affine:
    """Scale and shift each channel, both (C, 1, 1) or one number as (1, 1, 1)."""

    scale: Floats
    shift: Floats

    @staticmethod
    def scaling(scale: Floats) -> Affine:
        """Give the one that scales only."""
        return Affine(scale, np.zeros((1, 1, 1)))

    def then(self, after: Affine) -> Affine:
        """Give the one that does this and then `after`."""
        return Affine(self.scale * after.scale, self.shift * after.scale + after.shift)


@dataclass(frozen=True)
class Function:
    """A function of each value on its own that is not affine."""

    apply: Callable[[Floats], Floats]


Action = Dense | Conv | Pool | Affine | Function | Rectifier


@dataclass(frozen=True)
class Step:
    """What one node does, and the shape of its result. Without an action it changes the shape only."""

    name: str
    action: Action | None
    shape: Shape


def assemble(name: str, shape: Shape, steps: Sequence[Step]) -> Chain:
    """Make a chain of steps that a graph takes one after the other, from pictures of `shape`.

    Raises `ConversionError` that names the step which does not fit.
    """
    builder = _Builder(shape)
    for step in _rectified(steps):
        builder.add(step)
    return Chain(name, shape, builder.finish(name))


class _Builder:
    """The stages so far, and the scale and shift that the next layer has to take over."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.stages: list[Stage] = []
        self.pending: Affine | None = None

    def add(self, step: Step) -> None:
        action = step.action
        if isinstance(action, (Dense, Conv)):
            self._add_layer(step.name, action, step.shape)
        elif isinstance(action, Pool):
            self._add_pool(step.name, action, step.shape)
        elif isinstance(action, Affine):
            operation = self._open()
            if operation is not None:
                self.stages[-1] = dataclasses.replace(self.stages[-1], operation=behind(operation, action))
            else:
                self.pending = action if self.pending is None else self.pending.then(action)
        elif isinstance(action, Rectifier):
            self._rectify(step.name, action)
        elif step.shape != self.shape and self.pending is not None:
            self.pending = _flattened(self.pending, self.shape)
        self.shape = step.shape

    def _open(self) -> Weighted | None:
        """Give what the last stage does if it is a layer without a rectifier as yet."""
        if not self.stages or self.stages[-1].rectifier or isinstance(self.stages[-1].operation, Pool):
            return None
        return self.stages[-1].operation

    def _add_layer(self, name: str, operation: Weighted, shape: Shape) -> None:
        if self._open() or self._bare_pool():
            raise ConversionError(name, f"follows {self.stages[-1].name} without a Relu between them")
        if self.pending is not None:
            operation, self.pending = ahead(operation, self.pending, self.shape), None
        self.stages.append(Stage(name, operation, shape))

    def _add_pool(self, name: str, pool: Pool, shape: Shape) -> None:
        layer = self._open()
        if not self.stages:
            raise ConversionError(name, "pools the picture itself; a layer must come first")
        if pool.kind == "max" and self.pending is not None and self.pending.scale.min() < 0:
            raise ConversionError(name, "follows a negative scale, which makes the largest the smallest")
        if pool.kind == "average" and self._bare_pool():
            raise ConversionError(name, f"follows {self.stages[-1].name} without a Relu between them")
        if pool.kind == "average" and layer is not None:
            before = self.stages.pop().name
            self.stages.append(Stage(before, _merged(before, layer, name, pool), shape))
        else:
            self.stages.append(Stage(name, pool, shape))

    def _bare_pool(self) -> bool:
        """Tell whether the last stages are a max pooling of a layer without a rectifier."""
        if not self.stages or not isinstance(self.stages[-1].operation, Pool):
            return False
        layer = next(stage for stage in reversed(self.stages) if not isinstance(stage.operation, Pool))
        return layer.rectifier is None

    def _rectify(self, name: str, rectifier: Rectifier) -> None:
        if not (self._open() or self._bare_pool()) or self.pending is not None:
            raise ConversionError(name, "follows no Conv, Gemm or MatMul")
        # What is largest before a rectifier is largest behind it: it moves ahead of max pooling.
        index = max(i for i, stage in enumerate(self.stages) if not isinstance(stage.operation, Pool))
        self.stages[index] = dataclasses.replace(self.stages[index], rectifier=rectifier)

    def finish(self, name: str) -> tuple[Stage, ...]:
        if not self._open() or self.pending is not None:
            raise ConversionError(name, "the last layer must be a Gemm, MatMul or Conv without a Relu")
        return tuple(self.stages)


def _rectified(steps: Sequence[Step]) -> list[Step]:
    """Turn each run of functions, and the scales around them, into one rectifier."""
    result: list[Step] = []
    for pointwise, group in itertools.groupby(steps, lambda step: isinstance(step.action, (Affine, Function))):
        run = list(group)
        if pointwise and any(isinstance(step.action, Function) for step in run):
            # The scales of the picture come before any layer.
            run = _recognise(run)
        result += run
    return result


def _recognise(run: list[Step]) -> list[Step]:
    """Find the rectifier in a run of functions and affine steps; what it leaves is affine."""
    places = [index for index, step in enumerate(run) if isinstance(step.action, Function)]
    first, last = places[0], places[-1]
    begin, end = first, last
    while begin and _scalar(run[begin - 1]):
        begin -= 1
    while end + 1 < len(run) and _scalar(run[end + 1]):
        end += 1
    # Scales around the functions may be part of the rectifier, as those of a quantisation are.
    for low, high in ((begin, end), (begin, last), (first, end), (first, last)):
        middle = run[low : high + 1]
        if all(isinstance(step.action, Function) or _scalar(step) for step in middle):
            rectifier = _rectifier(middle)
            if rectifier is not None:
                return [*run[:low], Step(run[first].name, rectifier, run[first].shape), *run[high + 1 :]]
    raise ConversionError(run[first].name, "is no rectifier from 0 up to a ceiling, the only kind that is supported")


def _scalar(step: Step) -> bool:
    return isinstance(step.action, Affine) and step.action.scale.size == step.action.shift.size == 1


def _rectifier(steps: Sequence[Step]) -> Rectifier | None:
    """Tell what rectifier the steps are, by what they do to numbers, or None."""

    def result(values: Floats) -> Floats:
        for step in steps:
            if isinstance(step.action, Affine):
                values = values * step.action.scale.ravel() + step.action.shift.ravel()
            elif isinstance(step.action, Function):
                values = step.action.apply(values)
        return values

    far = 1e6
    lowest, highest = (float(value) for value in result(np.array([-far, far])))
    if lowest != 0 or highest <= 0:
        return None
    if highest == far:
        numbers = np.linspace(-4, 4, 1001)
        return Rectifier() if np.allclose(result(numbers), np.maximum(numbers, 0)) else None
    # Not through the borders between levels, where rounding decides.
    numbers = np.linspace(-1, 2, 9973) * highest
    values, expected = result(numbers), np.clip(numbers, 0, highest)
    if np.allclose(values, expected, atol=1e-6 * highest):
        return Rectifier(highest)
    levels = len(np.unique(np.round(values / highest, 9))) - 1
    if levels <= LEVELS_LIMIT and np.abs(values - expected).max() <= highest / levels * 0.501:
        return Rectifier(highest, levels)
    return None


def behind(operation: Weighted, affine: Affine) -> Weighted:
    """Scale and shift what a layer gives."""
    scale = np.broadcast_to(affine.scale, (len(operation.weight), 1, 1))
    weight = operation.weight * scale.reshape(-1, *[1] * (operation.weight.ndim - 1))
    return dataclasses.replace(operation, weight=weight, bias=operation.bias * scale + affine.shift)


def ahead(operation: Weighted, affine: Affine, source: Shape) -> Weighted:
    """Scale and shift what arrives at a layer, of shape `source`. Zeros that pad a convolution stay zeros.

    The scale may not differ from place to place before a convolution.
    """
    scale = np.broadcast_to(affine.scale, source)
    shift = np.broadcast_to(affine.shift, source)
    if isinstance(operation, Dense):
        bias = operation.bias + (operation.weight @ shift.ravel()).reshape(-1, 1, 1)
        return Dense(operation.weight * scale.ravel(), bias)
    shifted = convolve(operation, shift)
    if np.allclose(shifted, shifted[:, :1, :1], rtol=1e-12, atol=0):
        shifted = shifted[:, :1, :1]
    # A group of outputs sees a group of channels.
    grouped = operation.weight.reshape(operation.groups, -1, *operation.weight.shape[1:])
    weight = (grouped * scale[:, 0, 0].reshape(operation.groups, 1, -1, 1, 1)).reshape(operation.weight.shape)
    return dataclasses.replace(operation, weight=weight, bias=operation.bias + shifted)


def ahead_of(chain: Chain, index: int, affine: Affine) -> Chain:
    """Scale and shift what arrives at a stage, which is no pooling."""
    stage = chain.stages[index]
    if isinstance(stage.operation, Pool):
        raise ConversionError(stage.name, "a pooling has no weights to scale")
    source = chain.stages[index - 1].shape if index else chain.shape
    changed = dataclasses.replace(stage, operation=ahead(stage.operation, affine, source))
    return dataclasses.replace(chain, stages=(*chain.stages[:index], changed, *chain.stages[index + 1 :]))


def convolve(conv: Conv, picture: Floats) -> Floats:
    """Convolve one picture (C, H, W), without the bias."""
    (pad_y, pad_x), (step_y, step_x), (gap_y, gap_x) = conv.padding, conv.stride, conv.dilation
    padded = np.pad(picture, ((0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    extent = (gap_y * (conv.weight.shape[2] - 1) + 1, gap_x * (conv.weight.shape[3] - 1) + 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(1, 2))
    windows = windows[:, ::step_y, ::step_x, ::gap_y, ::gap_x]
    pairs = zip(np.split(windows, conv.groups), np.split(conv.weight, conv.groups), strict=True)
    return np.concatenate([np.einsum("cyxij,ocij->oyx", part, weight) for part, weight in pairs])


def _merged(before: str, conv: Weighted, name: str, pool: Pool) -> Conv:
    """Make one convolution of a convolution and the average pooling that follows it at once."""
    if not isinstance(conv, Conv) or conv.dilation != (1, 1) or conv.bias.shape[1:] != (1, 1):
        raise ConversionError(name, f"averages {before} without a Relu between them, which only a plain Conv allows")
    height, width = conv.weight.shape[2:]
    (step_y, step_x), (rows, columns) = conv.stride, pool.kernel
    extents = (height + step_y * (rows - 1), width + step_x * (columns - 1))
    weight = np.zeros((*conv.weight.shape[:2], *extents))
    for row, column in itertools.product(range(rows), range(columns)):
        top, left = row * step_y, column * step_x
        weight[:, :, top : top + height, left : left + width] += conv.weight / (rows * columns)
    return dataclasses.replace(conv, weight=weight, stride=(step_y * pool.stride[0], step_x * pool.stride[1]))


def _flattened(affine: Affine, shape: Shape) -> Affine:
    """Give the one that does the same to the flattened values of `shape`."""
    scale, shift = (
        np.broadcast_to(part, shape).reshape(math.prod(shape), 1, 1) for part in (affine.scale, affine.shift)
    )
    return Affine(scale, shift)
