"""Train a small dense classifier that converts well, in NumPy: Adam, cosine schedule, dropout, warps, rounding.

Everything is drawn from one seed, so that a run repeats to the bit on the same machine and NumPy.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# Epochs and dropout were chosen by four-fold cross-validation within the training images of the digits. Without dropout
# the dense network is as good, but a spiking one converted from it loses five points at one step and one at two.
EPOCHS = 300
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
MOMENTUM, SECOND_MOMENTUM, EPSILON = 0.9, 0.99, 1e-8
DROPOUT = 0.3
# Every other batch is trained on as it is, the others as spiking networks of one and of two steps see them, in the
# manner of quantisation-clip-floor-shift activations (T. Bu et al., "Optimal ANN-SNN Conversion", ICLR 2022). In the
# same cross-validation one step gains 2.5 points by it, and the dense network loses nothing.
LEVELS = (0, 0, 1, 2)
# The largest activation, as the converter will have it.
PERCENTILE = 99.5
SMOOTHING = 0.05
# Standard deviations of the random warps: pixels, radians, and the logarithm of the scale of each axis.
SHIFT, ROTATION, STRETCH = 0.4, 0.12, 0.08
MARGIN = 2


def train(pictures: Floats, labels: NDArray[np.int64], hidden: Sequence[int], seed: int) -> list[tuple[Floats, Floats]]:
    """Train on pictures (N, H, W) in [0, 1] and give the layers: weight (out, in) and bias (out,) each."""
    generator = np.random.default_rng(seed)
    classes = int(labels.max()) + 1
    widths = [pictures[0].size, *hidden, classes]
    parameters: list[Floats] = []
    for inputs, outputs in itertools.pairwise(widths):
        weight = generator.normal(0, np.sqrt(2 / inputs), (outputs, inputs)).astype(np.float32)
        parameters += [weight, np.zeros(outputs, np.float32)]
    wanted = np.eye(classes, dtype=np.float32)[labels] * (1 - SMOOTHING) + SMOOTHING / classes
    moments = [(np.zeros_like(array), np.zeros_like(array)) for array in parameters]
    starts = range(0, len(pictures), BATCH)
    step, total = 0, EPOCHS * len(starts)
    for _ in range(EPOCHS):
        warped = warp(pictures, generator).reshape(len(pictures), -1)
        order = generator.permutation(len(pictures))
        for start in starts:
            chosen = order[start : start + BATCH]
            gradients = _gradients(parameters, warped[chosen], wanted[chosen], generator)
            step += 1
            rate = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / total))
            for array, gradient, moment in zip(parameters, gradients, moments, strict=True):
                _adam(array, gradient, moment, step, rate)
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _gradients(
    parameters: list[Floats], pictures: Floats, wanted: Floats, generator: np.random.Generator
) -> list[Floats]:
    """Give the gradient of the mean cross-entropy of one batch for every parameter.

    The batch is seen as a spiking network sees it that runs for a number of steps drawn anew, or as it is: pictures
    and activations are rounded to so many levels. The gradient passes through the rounding.
    """
    kept = np.float32(1 / (1 - DROPOUT))
    levels = LEVELS[generator.integers(len(LEVELS))]
    activations, passing = [_rounded(pictures, 1.0, levels)], []
    for index in range(0, len(parameters) - 2, 2):
        values = activations[-1] @ parameters[index].T + parameters[index + 1]
        largest = np.percentile(np.maximum(values, 0), PERCENTILE) if levels else np.inf
        mask = (generator.random(values.shape, np.float32) >= DROPOUT) * kept
        activations.append(_rounded(np.clip(values, 0, largest), largest, levels) * mask)
        passing.append((values > 0) * (values < largest) * mask)
    scores = activations[-1] @ parameters[-2].T + parameters[-1]
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    flow = (chances - wanted) / np.float32(len(pictures))
    gradients: list[Floats] = []
    for index in range(len(parameters) - 2, -1, -2):
        source = activations[index // 2]
        gradients = [flow.T @ source, flow.sum(axis=0), *gradients]
        if index:
            flow = (flow @ parameters[index]) * passing[index // 2 - 1]
    return gradients


def _rounded(values: Floats, largest: float, levels: int) -> Floats:
    """Round values in [0, largest] to the nearest of so many levels above zero, or not at all."""
    if not levels:
        return values
    rounded: Floats = np.floor(values * np.float32(levels / largest) + np.float32(0.5)) * np.float32(largest / levels)
    return rounded


def _adam(array: Floats, gradient: Floats, moment: tuple[Floats, Floats], step: int, rate: float) -> None:
    """Take one step of Adam in place, with decoupled decay of weights but not of biases."""
    first, second = moment
    first += (1 - MOMENTUM) * (gradient - first)
    second += (1 - SECOND_MOMENTUM) * (gradient**2 - second)
    update = first / (1 - MOMENTUM**step) / (np.sqrt(second / (1 - SECOND_MOMENTUM**step)) + EPSILON)
    if array.ndim > 1:
        update = update + WEIGHT_DECAY * array
    array -= np.float32(rate) * update


def warp(pictures: Floats, generator: np.random.Generator) -> Floats:
    """Shift, turn and stretch each picture a little at random, with bilinear interpolation and a dark surround."""
    count, height, width = pictures.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = generator.normal(0, ROTATION, (count, 1, 1))
    stretch_y, stretch_x = np.exp(generator.normal(0, STRETCH, (2, count, 1, 1)))
    shift_y, shift_x = generator.normal(0, SHIFT, (2, count, 1, 1))
    turned_y = np.cos(angle) * (y - middle_y) - np.sin(angle) * (x - middle_x)
    turned_x = np.sin(angle) * (y - middle_y) + np.cos(angle) * (x - middle_x)
    source_y = np.clip(stretch_y * turned_y + shift_y + middle_y + MARGIN, 0, height + 2 * MARGIN - 1.001)
    source_x = np.clip(stretch_x * turned_x + shift_x + middle_x + MARGIN, 0, width + 2 * MARGIN - 1.001)
    top, left = source_y.astype(np.intp), source_x.astype(np.intp)
    below, right = source_y - top, source_x - left
    padded = np.pad(pictures, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    index = np.arange(count)[:, None, None]
    upper = padded[index, top, left] * (1 - right) + padded[index, top, left + 1] * right
    lower = padded[index, top + 1, left] * (1 - right) + padded[index, top + 1, left + 1] * right
    warped: Floats = (upper * (1 - below) + lower * below).astype(np.float32)
    return warped
