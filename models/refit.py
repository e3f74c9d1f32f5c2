"""Fit a layer's weights to what it is to give: ridge regression that starts from the weights as they are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from models.chain import Dense

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.chain import Conv, Weighted

    Floats = NDArray[np.float64]
    Reals = NDArray[np.floating]

# The share of images that only judge, every so many.
JUDGES = 4
# How much a change of the weights counts against an error, relative to the mean square of what arrives.
RIDGES = (0.003, 0.03, 0.3, 3.0, 30.0)
# Places of a convolution that take part.
SAMPLES = 1 << 14


def refit(operation: Weighted, given: Reals, wanted: Reals) -> Weighted:
    """Change weights and bias so that a layer gives `wanted` (N, O, H, W) for what arrives, `given` (N, C, H, W).

    Of all ridges, and no change at all, the one is taken whose error is least on images that take no part.
    """
    images = np.arange(len(given))
    judging = images % JUDGES == 0
    if judging.all():
        return operation
    fitting, target = _samples(operation, given[~judging], wanted[~judging])
    unseen, expected = _samples(operation, given[judging], wanted[judging])
    weight = operation.weight.reshape(len(operation.weight), -1)
    bias = operation.bias
    if bias.shape[1:] != (1, 1) or (not isinstance(operation, Dense) and operation.groups > 1):
        return operation
    rows, errors = _with_one(fitting), target - fitting @ weight.T - bias.ravel()
    judged, left = _with_one(unseen), expected - unseen @ weight.T - bias.ravel()
    best, change = float(np.square(left).mean()), None
    for ridge in RIDGES:
        solution = _solve(rows, errors, ridge * float(np.square(rows).mean()) * len(rows))
        error = float(np.square(left - judged @ solution).mean())
        if error < best:
            best, change = error, solution
    if change is None:
        return operation
    return dataclasses.replace(
        operation,
        weight=operation.weight + change[:-1].T.reshape(operation.weight.shape),
        bias=bias + change[-1].reshape(-1, 1, 1),
    )


def _with_one(samples: Floats) -> Floats:
    return np.hstack([samples, np.ones((len(samples), 1))])


def _solve(rows: Floats, errors: Floats, ridge: float) -> Floats:
    """Give the change (features, outputs) that explains the errors, by the smaller of both systems of equations."""
    few = len(rows) < rows.shape[1]
    products = rows @ rows.T if few else rows.T @ rows
    ridged = products + ridge * np.eye(len(products))
    solution: Floats = np.linalg.solve(ridged, errors if few else rows.T @ errors).astype(np.float64)
    return rows.T @ solution if few else solution


def _samples(operation: Weighted, given: Reals, wanted: Reals) -> tuple[Floats, Floats]:
    """Give what the weights see, (samples, features), and what is wanted there, (samples, outputs)."""
    if isinstance(operation, Dense):
        return given.reshape(len(given), -1).astype(np.float64), wanted.reshape(len(wanted), -1).astype(np.float64)
    places = wanted.transpose(0, 2, 3, 1)
    chosen = np.random.default_rng(0).permutation(places[..., 0].size)[:SAMPLES]
    where = np.unravel_index(chosen, places.shape[:3])
    seen = _patches(operation, given)[where].reshape(len(chosen), -1)
    return seen.astype(np.float64), places[where].astype(np.float64)


def _patches(conv: Conv, given: Reals) -> Reals:
    """View the receptive fields as (N, Y, X, C, kH, kW)."""
    (pad_y, pad_x), (step_y, step_x), (gap_y, gap_x) = conv.padding, conv.stride, conv.dilation
    padded = np.pad(given, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    extent = (gap_y * (conv.weight.shape[2] - 1) + 1, gap_x * (conv.weight.shape[3] - 1) + 1)
    views = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3))
    return views[:, :, ::step_y, ::step_x, ::gap_y, ::gap_x].transpose(0, 2, 3, 1, 4, 5)
