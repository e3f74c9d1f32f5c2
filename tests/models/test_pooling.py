"""Average pooling in place of max pooling: what is lost, what the layers behind make up for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from models import pooling
from models.chain import Chain, Conv, Dense, Pool, Stage
from models.refit import refit
from tests.models.networks import digits_network, random_chain


def test_averages_are_fitted() -> None:
    """Behind the averages a layer gives nearly what it gave behind the maxima, also for pictures not fitted to."""
    chain = random_chain(4, "max")
    generator = np.random.default_rng(0)
    values, unseen = generator.random((400, 2, 9, 9), np.float32), generator.random((100, 2, 9, 9), np.float32)
    averaging = pooling.without_max(chain, values)
    assert [stage.operation.kind for stage in averaging.stages if isinstance(stage.operation, Pool)] == ["average"]
    naive = dataclasses.replace(
        chain, stages=(chain.stages[0], averaging.stages[1], *chain.stages[2:])
    )  # fmt: skip
    wanted = pooling.activations(chain, unseen)[2]
    fitted, plain = (
        float(np.square(pooling.activations(each, unseen)[2] - wanted).mean()) for each in (averaging, naive)
    )
    assert fitted < 0.25 * plain


def test_last_average_is_folded() -> None:
    """A pooling before the last layer, overlapping windows too, becomes part of its weights."""
    chain = digits_network("average")
    wide = dataclasses.replace(chain.stages[1], operation=Pool("average", (3, 3), (2, 2)), shape=(16, 2, 2))
    readout = Stage("last", Dense(np.random.default_rng(1).normal(0, 1, (10, 64)), np.ones((10, 1, 1))), (10, 1, 1))
    values = np.random.default_rng(2).random((5, 1, 8, 8), np.float32)
    for each in (chain, Chain("wide", (1, 8, 8), (chain.stages[0], wide, readout))):
        folded = pooling.last_average_folded(each)
        assert [stage.name for stage in folded.stages] == ["first", "last"]
        expected = pooling.activations(each, values)[-1]
        np.testing.assert_allclose(pooling.activations(folded, values)[-1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images", [20, 400])
def test_refit_finds_the_weights(images: int) -> None:
    """From other weights, with fewer images than weights or with more, a layer comes closer to what is wanted."""
    generator = np.random.default_rng(3)
    given = generator.random((images, 3, 5, 5))
    truth, start = (Dense(generator.normal(0, 1, (4, 75)), np.zeros((4, 1, 1))) for _ in range(2))

    def gives(dense: Dense) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return (given.reshape(images, -1) @ dense.weight.T + dense.bias.ravel()).reshape(images, 4, 1, 1)

    found = refit(start, given, gives(truth))
    assert isinstance(found, Dense)
    before, after = (float(np.square(gives(each) - gives(truth)).mean()) for each in (start, found))
    assert after < before * (0.1 if images > 75 else 0.9)


def test_refit_keeps_what_is_right() -> None:
    """Weights that give what is wanted stay as they are, and a convolution in groups is left alone."""
    conv = Conv(np.ones((2, 1, 1, 1)), np.zeros((2, 1, 1)))
    given = np.random.default_rng(4).random((40, 1, 3, 3))
    assert refit(conv, given, np.repeat(given, 2, axis=1)) is conv
    grouped = Conv(np.ones((2, 1, 1, 1)), np.zeros((2, 1, 1)), groups=2)
    assert refit(grouped, np.repeat(given, 2, axis=1), np.zeros((40, 2, 3, 3))) is grouped
