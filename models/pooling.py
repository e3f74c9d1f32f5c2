"""Do without what spiking neurons cannot do: the largest of a window becomes its average, recalibrated on pictures."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from models import fold, ir, onnx_export
from models.chain import Chain, Dense, Pool
from models.fold import Affine
from models.refit import refit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from models.chain import Stage, Weighted

    Floats = NDArray[np.float64]


def activations(chain: Chain, values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Give what every stage makes of (N, C, H, W) values: for each an array (N, C, H, W)."""
    model = onnx_export.export(chain, every_stage=True).SerializeToString()
    results = ir.run_onnx(model, values)
    return [array.reshape(len(values), *stage.shape) for array, stage in zip(results, chain.stages, strict=True)]


def without_max(chain: Chain, values: NDArray[np.float32]) -> Chain:
    """Pool by averages, and fit the layer behind each pooling to what it gave before.

    `values` (N, C, H, W) are calibration pictures. Poolings are replaced in order, each fitted behind those before it.
    """
    dense, replaced = chain, False
    for index, stage in enumerate(chain.stages):
        if not isinstance(stage.operation, Pool):
            if replaced:
                chain = _fitted(chain, dense, index, stage.operation, values)
            replaced = False
        elif stage.operation.kind == "max":
            average = dataclasses.replace(stage, operation=dataclasses.replace(stage.operation, kind="average"))
            chain = _with_stage(chain, index, average)
            replaced = True
    return chain


def _with_stage(chain: Chain, index: int, stage: Stage) -> Chain:
    return dataclasses.replace(chain, stages=(*chain.stages[:index], stage, *chain.stages[index + 1 :]))


def _fitted(chain: Chain, dense: Chain, index: int, operation: Weighted, values: NDArray[np.float32]) -> Chain:
    """Let a stage of `chain` give, before its rectifier, what it gives in the `dense` chain.

    First each channel that arrives takes the line that fits its largest values best, then all weights together move
    from there by least squares, as far as images that take no part in it gain.
    """
    given = activations(chain, values)[index - 1]
    line = _line(given, activations(dense, values)[index - 1])
    chain = fold.ahead_of(chain, index, line)
    bare = dataclasses.replace(dense.stages[index], rectifier=None)
    wanted = activations(Chain(dense.name, dense.shape, (*dense.stages[:index], bare)), values)[-1]
    start = fold.ahead(operation, line, chain.stages[index - 1].shape)
    return _with_stage(chain, index, dataclasses.replace(chain.stages[index], operation=refit(start, given, wanted)))


def _line(given: NDArray[np.float32], wanted: NDArray[np.float32]) -> Affine:
    """Give each channel the line from `given` to `wanted`, both (N, C, H, W), of least squares."""
    axes = (0, 2, 3)
    shape = (-1, 1, 1)
    means = [array.mean(axis=axes, dtype=np.float64).reshape(shape) for array in (given, wanted)]
    deviations = given - means[0]
    spread = np.square(deviations).mean(axis=axes).reshape(shape)
    together = (deviations * (wanted - means[1])).mean(axis=axes).reshape(shape)
    scale = np.where(spread > 0, together / np.where(spread > 0, spread, 1), 1)
    return Affine(scale, means[1] - scale * means[0])


def last_average_folded(chain: Chain) -> Chain:
    """Let the last layer do the averaging that comes before it, so that no neurons round in between."""
    if len(chain.stages) < 3:
        return chain
    *before, pool, last = chain.stages
    if not isinstance(pool.operation, Pool) or not isinstance(last.operation, Dense):
        return chain
    channels, height, width = before[-1].shape
    spread = np.zeros((len(last.operation.weight), channels, height, width))
    weight = last.operation.weight.reshape(-1, *pool.shape) / np.prod(pool.operation.kernel)
    (rows, columns), (step_y, step_x) = pool.operation.kernel, pool.operation.stride
    for row in range(pool.shape[1]):
        for column in range(pool.shape[2]):
            top, left = row * step_y, column * step_x
            spread[:, :, top : top + rows, left : left + columns] += weight[:, :, row, column, None, None]
    dense = Dense(spread.reshape(len(spread), -1), last.operation.bias)
    return dataclasses.replace(chain, stages=(*before, dataclasses.replace(last, operation=dense)))
