"""The reference engine equals what Intel recorded: networks of lava-dl's test suite, every spike and current."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from hal.snn import reference
from hal.snn.network import DECAY_UNITY, Conv, Dense, Encoder, Layer, Lif, Network
from hal.snn.reference import propagate, run

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from hal.snn.reference import Run

STEPS = 15


@pytest.fixture(scope="module")
def tinynet(vectors_folder: Path) -> Path:
    """Give the folder of tinynet: 3 x 16 x 16, two convolutions."""
    return vectors_folder / "netx" / "tinynet"


@pytest.fixture(scope="module")
def dense(vectors_folder: Path) -> Path:
    """Give the folder of a layer from 200 to 256 neurons, recorded for 2,000 steps."""
    return vectors_folder / "netx" / "dense"


def _lif(group: Any) -> Lif:
    neuron = group["neuron"]
    return Lif(int(neuron["vThMant"][()]), int(neuron["iDecay"][()]), int(neuron["vDecay"][()]))


def _pair(group: Any, key: str) -> tuple[int, int]:
    first, second = (int(value) for value in group[key][()])
    return (first, second)


def _layers(path: Path) -> list[Layer]:
    """Read the layers of a `.net` file of convolutions."""
    built = []
    with h5py.File(path) as file:
        groups = file["layer"]
        for index in range(len(groups)):
            group = groups[str(index)]
            channels, height, width = (int(extent) for extent in group["shape"][()])
            synapse = bias = None
            if index:
                weight = group["weight"][..., 0].astype(np.int16)
                stride, padding, dilation = (_pair(group, key) for key in ("stride", "padding", "dilation"))
                synapse = Conv(weight, stride, padding, dilation, int(group["groups"][()]))
                per_channel = group["bias"][()].astype(np.int32).reshape(-1, 1, 1)
                bias = np.broadcast_to(per_channel, (channels, height, width))
            built.append(Layer(f"{index:02d}", (channels, height, width), _lif(group), synapse, bias))
    return built


def _input_bias(folder: Path) -> NDArray[np.int64]:
    bias: NDArray[np.int64] = np.load(folder / "input_bias.npy").transpose(2, 1, 0)[np.newaxis].astype(np.int64)
    return bias


def _run_tinynet(folder: Path) -> Run:
    network = Network(Encoder(36.0, 34.0), tuple(_layers(folder / "network.net")))
    return run(network, _input_bias(folder), STEPS, trace=True)


def _recorded(folder: Path, name: str) -> NDArray[np.int64]:
    """Read a recording as (T, C, H, W); it begins with an empty step."""
    series: NDArray[np.int64] = np.load(folder / f"{name}.npy")[0, ..., 1:].transpose(3, 0, 1, 2).astype(np.int64)
    return series


@pytest.mark.parametrize(("name", "layer"), [("input", "00"), ("layer1", "01"), ("output", "02")])
def test_tinynet_spikes(tinynet: Path, name: str, layer: str) -> None:
    """Each layer of tinynet spikes exactly as recorded, all 15 steps."""
    expected = _recorded(tinynet, name)
    spikes = _run_tinynet(tinynet).traces[layer].spikes[:, 0]
    assert expected.any()
    assert np.array_equal(spikes, expected)


def test_tinynet_currents(tinynet: Path) -> None:
    """What arrives at the first convolution is exactly what was recorded."""
    layers = _layers(tinynet / "network.net")
    assert layers[1].synapse is not None
    arrived = propagate(layers[1].synapse, _recorded(tinynet, "input"))
    expected = _recorded(tinynet, "current")
    assert expected.any()
    assert np.array_equal(arrived, expected)


def test_tinynet_weights(tinynet: Path) -> None:
    """The file's weights, for cross-correlation, are the recorded kernel flipped, which is in W, H order."""
    layer = _layers(tinynet / "network.net")[1]
    kernel = np.load(tinynet / "layer1_kernel.npy")
    assert isinstance(layer.synapse, Conv)
    assert layer.bias is not None
    assert np.array_equal(layer.synapse.weight, kernel[:, ::-1, ::-1].transpose(0, 3, 2, 1))
    assert np.array_equal(layer.bias[:, 0, 0], np.load(tinynet / "layer1_bias.npy"))


def test_delays_are_a_shift(tinynet: Path) -> None:
    """A layer without bias whose synapses take a step more does all one step later."""
    layers = _layers(tinynet / "network.net")
    shifted = Layer("01", layers[1].shape, layers[1].neuron, layers[1].synapse, None, delay=1)
    at_once = Layer("01", layers[1].shape, layers[1].neuron, layers[1].synapse, None)
    runs = [
        run(Network(Encoder(36.0, 34.0), (layers[0], layer)), _input_bias(tinynet), steps, trace=True).traces["01"]
        for layer, steps in ((shifted, STEPS + 1), (at_once, STEPS))
    ]
    assert not runs[0].spikes[0].any()
    assert np.array_equal(runs[0].spikes[1:], runs[1].spikes)
    assert np.array_equal(runs[0].v[1:], runs[1].v)


def test_dense(dense: Path) -> None:
    """A dense layer driven by recorded spikes: its currents and spikes follow a step later, for 2,000 steps."""
    weight, incoming = np.load(dense / "weight.npy").astype(np.int16), np.load(dense / "in.npy").astype(np.int64)
    current, outgoing = (np.load(dense / f"{name}.npy").astype(np.int64) for name in ("current", "out"))
    synapse = Dense(weight)
    arrived = propagate(synapse, incoming.T)
    assert np.array_equal(arrived[:-1], current.T[1:])
    neuron = Lif(6, DECAY_UNITY, 415)
    layer = Layer("out", (256, 1, 1), neuron, synapse)
    state = reference._State(layer, np.zeros((1, 0), np.int64))
    spikes = [state.step(step[np.newaxis]).reshape(-1).copy() for step in incoming.T[:-1]]
    assert outgoing.any()
    assert np.array_equal(np.stack(spikes), outgoing.T[1:])


@pytest.mark.parametrize("decay", [0, 1, 415, 1024, 4095, 4096])
def test_decay_rounds_towards_zero(decay: int) -> None:
    """A state loses its fraction by magnitude, so that both signs fade alike."""
    states = np.array([0, 1, 2, 4095, 4096, 1 << 22, (1 << 23) - 1], np.int64)
    expected = [int(state) * (DECAY_UNITY - decay) // DECAY_UNITY for state in states]
    assert reference.decay(states, decay).tolist() == expected
    assert reference.decay(-states, decay).tolist() == [-value for value in expected]


def test_current_folds_once() -> None:
    """The current wraps once into (-2^23, 2^23]."""
    half = 1 << 23
    given = np.array([half, half + 1, -half, -half + 1, 2 * half, 0], np.int64)
    assert reference.wrap_current(given).tolist() == [half, -half + 1, half, -half + 1, 0, 0]


def test_convolution_wraps() -> None:
    """Sums of a convolution keep their low 24 bits."""
    half = 1 << 23
    given = np.array([half - 1, half, -half, -half - 1, 3 * half], np.int64)
    assert reference.wrap_signed_24(given).tolist() == [half - 1, -half, -half, half - 1, -half]


def test_threshold_is_strict() -> None:
    """A neuron at its threshold does not fire, one above does and starts again from zero."""
    network = Network(Encoder(0, 0), (Layer("00", (1, 1, 2), Lif(10, bias_exponent=0)), _silent()))
    trace = run(network, np.array([[640, 641]]), 1, trace=True).traces["00"]
    assert trace.spikes.ravel().tolist() == [0, 1]
    assert trace.v.ravel().tolist() == [640, 0]


def _silent() -> Layer:
    return Layer("01", (1, 1, 1), Lif(1), Dense(np.zeros((1, 2), np.int16)))
