"""Both engines against networks and ground truths that others made: exact, without tolerance."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hal.energy import loihi
from hal.snn import fast, reference
from hal.snn.network import Delta, Dense, Encoder, Layer, Lif, Network
from hal.snn.placement import place
from models import netx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    Engine = Callable[[Network, Integers, int], dict[str, reference.Trace]]

# Counts per inference at 16 steps, of an independent engine: operations, updates, spikes.
MNIST_COUNTS = (1.52e6, 28.9e3, 5.2e3)
PILOTNET_COUNTS = (48.27e6, 2.536e6, 0.741e6)
# Intel's measurement of pilotnet_lif at 16 steps on Loihi 2.
PILOTNET_DYNAMIC_JOULES = 1.0935e-3
PILOTNET_SECONDS = 2.446e-3


def _reference(network: Network, bias: Integers, steps: int) -> dict[str, reference.Trace]:
    return reference.run(network, bias, steps, trace=True).traces


def _fast(network: Network, bias: Integers, steps: int) -> dict[str, reference.Trace]:
    return fast.compile_network(network).run(bias, steps, trace=True).traces


engines = pytest.mark.parametrize("engine", [_reference, _fast])


@pytest.fixture(scope="module")
def netx_folder(vectors_folder: Path) -> Path:
    """Give the folder of Lava networks."""
    return vectors_folder / "netx"


def _input_first(array: NDArray[np.generic]) -> Integers:
    """Turn (W, H, C) into (1, C, H, W)."""
    return array.astype(np.int64).transpose(2, 1, 0)[np.newaxis]


@engines
def test_tinynet_equals_its_recording(netx_folder: Path, engine: Engine) -> None:
    """Spikes of all three layers and the current of the second are as recorded, at all 15 steps."""
    folder = netx_folder / "tinynet"
    network = netx.read(folder / "network.net")
    traces = engine(network, _input_first(np.load(folder / "input_bias.npy")), 15)
    for name, recorded in (("00-input", "input"), ("01-conv", "layer1"), ("02-conv", "output")):
        expected = np.moveaxis(np.load(folder / f"{recorded}.npy")[0], -1, 0)[1:]
        np.testing.assert_array_equal(traces[name].spikes[:, 0], expected)
    current = np.moveaxis(np.load(folder / "current.npy")[0], -1, 0)[1:]
    np.testing.assert_array_equal(traces["01-conv"].u[:, 0], current * 64)


@engines
def test_dense_equals_its_recording(netx_folder: Path, engine: Engine) -> None:
    """A dense layer gives the recorded spikes and currents over 2,000 steps.

    An input layer without memory is driven so that it fires as recorded.
    """
    folder = netx_folder / "dense"
    spikes, current, expected = (np.load(folder / f"{name}.npy") for name in ("in", "current", "out"))
    weight = np.load(folder / "weight.npy").astype(np.int16)
    layers = (
        Layer("input", (200, 1, 1), Lif(6, voltage_decay=4096)),
        Layer("dense", (256, 1, 1), Lif(6, voltage_decay=415), Dense(weight)),
    )
    drive = np.where(spikes.T > 0, 7, 0).reshape(-1, 1, 200, 1, 1)
    traces = engine(Network(Encoder(1.0, 0.0), layers), drive, len(drive))
    np.testing.assert_array_equal(traces["input"].spikes.reshape(-1, 200), spikes.T)
    np.testing.assert_array_equal(traces["dense"].spikes.reshape(-1, 256)[:-1], expected.T[1:])
    np.testing.assert_array_equal(traces["dense"].u.reshape(-1, 256)[:-1], current.T[1:] * 64)


@engines
def test_a_delta_input_equals_its_recording(netx_folder: Path, engine: Engine) -> None:
    """The input layer of the sigma-delta network sends the recorded changes."""
    folder = netx_folder / "tinynet_sdnn"
    drive = np.load(folder / "input_bias.npy")
    waves = [np.trunc(drive * np.sin(2 * np.pi * step / 15)) for step in range(15)]
    frames = np.stack([_input_first(wave) for wave in waves])
    layers = (
        Layer("input", (3, 16, 16), Delta(20)),
        Layer("out", (1, 1, 1), Lif(1), Dense(np.ones((1, 768), np.int16))),
    )
    traces = engine(Network(Encoder(1.0, 0.0), layers), frames, 15)
    np.testing.assert_array_equal(traces["input"].spikes[:, 0], np.load(folder / "input.npy").transpose(3, 2, 1, 0))


@engines
def test_a_picture_of_the_road_gives_equal_counts(netx_folder: Path, engine: Engine) -> None:
    """The engines agree on each of the 9 layers of pilotnet_lif, and on the counts of an independent engine."""
    network, bias = _pilotnet(netx_folder)
    events = reference.run(network, bias, 16).layers
    traces = engine(network, bias, 16)
    assert [int(trace.spikes.sum()) for trace in traces.values()] == [part.active_updates for part in events]
    assert _counts(loihi.sum_events(events)) == pytest.approx(PILOTNET_COUNTS, rel=0.01)


def test_pilotnet_costs_what_silicon_measured(netx_folder: Path) -> None:
    """The model's joules are within 25 % and its seconds within 25 % of Intel's measurement, which is of Loihi 2."""
    network, bias = _pilotnet(netx_folder)
    run = reference.run(network, bias, 16)
    cores = [layer.cores for layer in place(network, chips=2).layers]
    assert loihi.dynamic_joules(run.events) == pytest.approx(PILOTNET_DYNAMIC_JOULES, rel=0.25)
    assert loihi.seconds(run.layers, cores, 16) == pytest.approx(PILOTNET_SECONDS, rel=0.25)


def _pilotnet(folder: Path) -> tuple[Network, Integers]:
    network = netx.read(folder / "pilotnet_lif" / "network.net")
    return network, _input_first(np.load(folder / "pilotnet_lif" / "image.npy"))


def _counts(events: loihi.Events) -> tuple[float, float, float]:
    return events.synaptic_operations, events.active_updates + events.inactive_updates, events.active_updates


@pytest.mark.parametrize(("steps", "least"), [(4, 0.990), (16, 0.991)])
def test_mnist_reaches_its_accuracy(netx_folder: Path, data_folder: Path, steps: int, least: float) -> None:
    """The 5,000 test images are classified as well as an independent engine did, at the cost that it counted."""
    network = netx.read(netx_folder / "mnist" / "network.net")
    images = _idx(data_folder / "mnist" / "test-even-images-idx3-ubyte.gz", 16).reshape(-1, 784, 1, 1)
    labels = _idx(data_folder / "mnist" / "test-even-labels-idx1-ubyte.gz", 8)
    bias = reference.encode(network.encoder, images / 255)
    run = fast.compile_network(network).run(bias, steps)
    assert (run.scores.argmax(axis=1) == labels).mean() >= least
    if steps == 16:
        means = [count / len(images) for count in _counts(run.events)]
        assert means == pytest.approx(MNIST_COUNTS, rel=0.01)
    some = reference.run(network, bias[:200], steps)
    np.testing.assert_array_equal(run.scores[:200], some.scores)


def _idx(path: Path, header: int) -> NDArray[np.uint8]:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)
