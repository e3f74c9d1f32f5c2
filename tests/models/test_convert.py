"""Chains become spiking networks of Loihi's integers, or are refused by the name of the layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from hal.snn import network as snn
from hal.snn import parts, reference
from hal.snn.network import Lif
from models import calibrate, convert, onnx_export, onnx_import, pooling
from models.chain import Chain, Dense, Rectifier, Stage
from models.convert import Setting, Target
from models.errors import ConversionError
from tests.models.networks import random_chain, random_layers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.network import Network


def _converted(chain: Chain, pictures: NDArray[np.float64], percentile: float = 99.5) -> Network:
    values = pictures.reshape(len(pictures), *chain.shape).astype(np.float32)
    return convert.convert(chain, calibrate.percentiles(chain, pooling.activations(chain, values), percentile))


def _dense(
    name: str, weight: NDArray[np.float64], bias: float = 0.0, rectifier: Rectifier | None = None
) -> Stage:  # fmt: skip
    return Stage(name, Dense(weight, np.full((len(weight), 1, 1), bias)), (len(weight), 1, 1), rectifier)


@pytest.mark.parametrize("seed", range(3))
def test_spikes_approach_the_dense_network(seed: int) -> None:
    """With many steps, scores per step are the dense network's scores within the rounding of eight bits."""
    read = onnx_import.read(onnx_export.dense_classifier("toy", random_layers(seed, 16, 24, 12, 4), (1, 4, 4)))
    pictures = np.random.default_rng(seed + 100).integers(0, 256, (200, 1, 4, 4)) / 255
    values = pooling.activations(read, pictures.astype(np.float32))[-1].reshape(200, -1)
    network = _converted(read, pictures, percentile=100)
    scores = reference.run(network, reference.encode(network.encoder, pictures), 512).scores
    last = network.layers[-1].synapse
    assert isinstance(last, snn.Dense)
    factor = (values * scores).sum() / (scores.astype(np.float64) ** 2).sum()
    assert np.abs(scores * factor - values).max() < 0.05 * np.abs(values).max()


@pytest.mark.parametrize("seed", range(3))
def test_numbers_fit_their_fields(seed: int) -> None:
    """A converted network passes every check of the reader, and its weights survive the loss of their low bit."""
    layers = [(weight * 10.0 ** (seed - 1), bias * 30) for weight, bias in random_layers(seed, 16, 24, 4)]
    read = onnx_import.read(onnx_export.dense_classifier("toy", layers, (1, 4, 4)))
    network = _converted(read, np.random.default_rng(seed).random((50, 1, 4, 4)))
    assert parts.put_together(*parts.take_apart(network), "toy").classes == 4
    for layer in network.layers[1:]:
        assert isinstance(layer.synapse, snn.Dense)
        weight = layer.synapse.weight
        np.testing.assert_array_equal((weight >> 1) << 1, weight)
    for layer in network.layers[:-1]:
        assert isinstance(layer.neuron, Lif)
        assert layer.neuron.initial_voltage == layer.neuron.threshold << 5


def test_sums_do_not_wrap() -> None:
    """A layer whose inputs all fire at once gets smaller weights rather than a sum beyond 24 bits."""
    inputs = 2000
    first = _dense("wide", np.full((2, inputs), 1 / inputs), 0.0, Rectifier())
    read = Chain("toy", (inputs, 1, 1), (first, _dense("last", np.eye(2))))
    network = _converted(read, np.ones((4, inputs)))
    synapse = network.layers[1].synapse
    assert isinstance(synapse, snn.Dense)
    assert 0 < int(synapse.weight.astype(np.int64).sum(axis=1).max()) << 6 < 1 << 23


def test_every_grey_level_is_a_whole_bias() -> None:
    """A grey level of g drives its input neuron with exactly 16 g, though g / 255 is no binary fraction."""
    read = Chain("toy", (256, 1, 1), (_dense("last", np.ones((2, 256))),))
    network = _converted(read, np.ones((1, 256)))
    levels = np.arange(256)
    for pictures in (levels / 255, levels * (1 / 255)):
        np.testing.assert_array_equal(reference.encode(network.encoder, pictures), 16 * levels)


def _two_layers(weight: float, bias: float) -> Chain:
    first = _dense("first", np.full((2, 4), weight), bias, Rectifier())
    return Chain("toy", (4, 1, 1), (first, _dense("last", np.eye(2))))


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (-1.0, 0.0, "first: percentile 99.5 of its activations is 0"),
        (0.0, 1.0, "first: all its weights are 0"),
        (1e6, -4e6 + 1, "first: a threshold of 0.000254 is left, 1 is the least"),
    ],
)
def test_layers_that_cannot_be_scaled(weight: float, bias: float, message: str) -> None:
    """A layer that would never fire, has no weights, or needs finer integers than there are is refused by name."""
    with pytest.raises(ConversionError, match=message):
        _converted(_two_layers(weight, bias), np.ones((3, 4)))


@pytest.mark.parametrize("seed", range(3))
def test_convolutions_and_pooling_approach_the_chain(seed: int) -> None:
    """With many steps, spikes of convolutions in groups and of averages add up to the chain's scores."""
    chain = random_chain(seed)
    pictures = np.random.default_rng(seed).integers(0, 256, (40, *chain.shape)) / 255
    values = pooling.activations(chain, pictures.astype(np.float32))[-1].reshape(40, -1)
    network = _converted(chain, pictures, percentile=100)
    assert [layer.name for layer in network.layers] == ["00-input", "01-conv", "02-pool", "03-conv", "04-dense"]
    scores = reference.run(network, reference.encode(network.encoder, pictures), 512).scores
    factor = (values * scores).sum() / (scores.astype(np.float64) ** 2).sum()
    assert np.abs(scores * factor - values).max() < 0.05 * np.abs(values).max()


def test_ceiling_is_the_scale() -> None:
    """A rectifier that was trained with a ceiling fires at every step when it reaches it, and so does its average."""
    chain = random_chain(0, ceiling=0.75)
    activations = pooling.activations(chain, np.ones((2, 2, 9, 9), np.float32))
    settings = calibrate.ceilings(chain, calibrate.percentiles(chain, activations, 99))
    assert [setting.scale.ravel().tolist() for setting in settings] == [[0.75], [0.75], [0.75], [1.0]]


def test_scales_per_channel_mean_the_same() -> None:
    """Whatever a spike of a channel stands for, the scores approach the same values."""
    chain = random_chain(1)
    pictures = np.random.default_rng(1).integers(0, 256, (40, *chain.shape)) / 255
    activations = pooling.activations(chain, pictures.astype(np.float32))
    scales = [array.max(axis=(0, 2, 3)).astype(np.float64).reshape(-1, 1, 1) for array in activations[:1]]
    settings = [
        Setting(scales[0]),
        Setting(scales[0]),
        *calibrate.percentiles(chain, activations, 100)[2:],
    ]
    network = convert.convert(chain, settings)
    scores = reference.run(network, reference.encode(network.encoder, pictures), 512).scores
    values = activations[-1].reshape(40, -1)
    factor = (values * scores).sum() / (scores.astype(np.float64) ** 2).sum()
    assert np.abs(scores * factor - values).max() < 0.05 * np.abs(values).max()


def test_targets() -> None:
    """A target's reset is that of every neuron, and fewer bits leave fewer weights to choose from."""
    chain = random_chain(2)
    activations = pooling.activations(chain, np.random.default_rng(2).random((8, 2, 9, 9), np.float32))
    settings = calibrate.percentiles(chain, activations, 99)
    network = convert.convert(chain, settings, Target("zero", bits=4))
    assert {layer.neuron.reset for layer in network.layers if isinstance(layer.neuron, Lif)} == {"zero"}
    synapse = network.layers[1].synapse
    assert isinstance(synapse, snn.Conv)
    assert set(np.unique(synapse.weight % 32)) == {0}
