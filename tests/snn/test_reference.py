"""What the reference engine computes, in cases small enough to follow by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hal.energy import loihi
from hal.errors import CapacityError
from hal.snn import reference
from hal.snn.network import (
    Accumulator,
    Conv,
    Delta,
    Dense,
    Encoder,
    Layer,
    Lif,
    Network,
    Neuron,
    Sigma,
    SigmaDelta,
    SumPool,
)
from tests.snn import random_networks

ENCODER = Encoder(60.0, 40.0)
# Forgets everything from step to step, and fires whenever its bias is above its threshold.
PLAIN = Lif(threshold=10, voltage_decay=4096)


def dense(weight: list[list[int]], neuron: Neuron, delay: int = 0) -> Layer:
    """Give a dense layer."""
    return Layer("out", (len(weight), 1, 1), neuron, Dense(np.array(weight, np.int16)), delay=delay)


def run(*layers: Layer, bias: list[int], steps: int, strict: bool = False) -> reference.Run:
    """Run one image through layers behind an input with a neuron for each bias."""
    network = Network(ENCODER, layers)
    return reference.run(network, np.array(bias).reshape(1, -1, 1, 1), steps, trace=True, strict=strict)


def source(count: int, neuron: Neuron = PLAIN) -> Layer:
    """Give an input layer."""
    return Layer("in", (count, 1, 1), neuron)


def test_a_neuron_fires_above_its_threshold_and_not_at_it() -> None:
    """The comparison is strict, and the voltage of a neuron that fired is zero."""
    layer = Layer("in", (2, 1, 1), Lif(threshold=20))
    trace = run(layer, dense([[1, 1]], Accumulator()), bias=[10, 11], steps=3).traces["in"]
    assert trace.spikes[:, 0, :, 0, 0].tolist() == [[0, 0], [0, 1], [1, 0]]
    assert trace.v[:, 0, :, 0, 0].tolist() == [[640, 704], [1280, 0], [0, 704]]


def test_soft_reset_keeps_what_is_left() -> None:
    """Reset by subtraction leaves the voltage above the threshold, and voltages start where they are told to."""
    layer = Layer("in", (1, 1, 1), Lif(threshold=20, reset="subtract", initial_voltage=700))
    trace = run(layer, dense([[1]], Accumulator()), bias=[15], steps=2).traces["in"]
    assert trace.spikes.ravel().tolist() == [1, 1]
    assert trace.v.ravel().tolist() == [700 + 960 - 1280, 700 + 1920 - 2560]


def test_decay_rounds_magnitudes_down() -> None:
    """A negative state loses as much as a positive one."""
    states = np.array([1000, -1000, 1, -1])
    assert reference.decay(states, 1).tolist() == [999, -999, 0, 0]


def test_currents_fold_once() -> None:
    """24 bits wrap into (-2^23, 2^23], as in Lava."""
    states = np.array([2**23, 2**23 + 1, -(2**23), -(2**23) + 1])
    assert reference.wrap_current(states).tolist() == [2**23, -(2**23) + 1, 2**23, -(2**23) + 1]


def test_a_pool_is_a_convolution_of_equal_weights() -> None:
    """SumPool gives what a grouped convolution with its weight everywhere gives, in sums and in counts."""
    rng = np.random.default_rng(5)
    spikes = rng.integers(0, 2, (2, 3, 7, 6))
    pool = SumPool((3, 2), (2, 2), weight=-6)
    conv = Conv(np.full((3, 1, 3, 2), -6, np.int16), stride=(2, 2), groups=3)
    np.testing.assert_array_equal(reference.propagate(pool, spikes), reference.propagate(conv, spikes))
    np.testing.assert_array_equal(reference.fan_out(pool, (3, 7, 6)), reference.fan_out(conv, (3, 7, 6)))


def test_a_convolution_is_a_sparse_dense_layer() -> None:
    """Stride, padding, dilation and groups follow the definition, written out as loops."""
    rng = np.random.default_rng(6)
    weight = rng.integers(-9, 9, (4, 2, 2, 3)).astype(np.int16)
    conv = Conv(weight, stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=2)
    spikes = rng.integers(0, 2, (1, 4, 5, 4))
    sums = reference.propagate(conv, spikes)[0]
    fan = np.zeros((4, 5, 4), int)
    expected = np.zeros_like(sums)
    for out, y, x, i, dy, dx in np.ndindex(*sums.shape, *weight.shape[1:]):
        channel, row, column = out // 2 * 2 + i, 2 * y - 1 + 2 * dy, x - 2 + dx
        if 0 <= row < 5 and 0 <= column < 4:
            expected[out, y, x] += weight[out, i, dy, dx] * spikes[0, channel, row, column]
            fan[channel, row, column] += 1
    np.testing.assert_array_equal(sums, expected)
    np.testing.assert_array_equal(reference.fan_out(conv, (4, 5, 4)), fan)


def test_a_delay_shifts_what_arrives() -> None:
    """With a delay of 2 the sums of a step arrive two steps later."""
    plain = run(source(2), dense([[3, 5]], Accumulator()), bias=[20, 20], steps=4)
    late = run(source(2), dense([[3, 5]], Accumulator(), delay=2), bias=[20, 20], steps=4)
    assert plain.traces["out"].u.ravel().tolist() == [8, 16, 24, 32]
    assert late.traces["out"].u.ravel().tolist() == [0, 0, 8, 16]


def test_events_are_counted_where_they_happen() -> None:
    """Operations count in the layer they arrive in, spikes in the layer that fires, and the layers add up."""
    result = run(source(3), dense([[2, 2, 2]] * 5, PLAIN), bias=[20, 20, 0], steps=4)
    assert result.layers == (loihi.Events(0, 8, 4), loihi.Events(40, 0, 20))
    assert result.events == loihi.Events(40, 8, 24)


def test_delta_sends_changes_that_reach_its_threshold() -> None:
    """Changes of at least the threshold are sent, smaller ones are kept until they add up to it."""
    frames = np.array([10, 11, 12, 13, 20, 20]).reshape(-1, 1, 1, 1, 1)
    network = Network(ENCODER, (source(1, Delta(3)), dense([[1]], Sigma())))
    result = reference.run(network, frames, 6, trace=True)
    assert result.traces["in"].spikes.ravel().tolist() == [10 << 6, 0, 0, 3 << 6, 7 << 6, 0]
    assert result.traces["out"].spikes.ravel()[-1] == 20 << 6
    assert result.scores.tolist() == [[20 << 6]]


def test_sigma_delta_rectifies_and_adds_its_bias_once() -> None:
    """A sum below minus the bias sends nothing; the bias itself is sent at the first step."""
    layer = dataclasses.replace(dense([[-64]], SigmaDelta(1)), bias=np.full((1, 1, 1), 5, np.int32))
    frames = np.array([0, 2, 9]).reshape(-1, 1, 1, 1, 1)
    result = reference.run(Network(ENCODER, (source(1, Delta(1)), layer)), frames, 3, trace=True)
    assert result.traces["out"].spikes.ravel().tolist() == [5 << 6, -2 << 6, -3 << 6]


def test_graded_spikes_count_as_one_spike_each() -> None:
    """A message is an event whatever it carries."""
    frames = np.array([10, 10, 30]).reshape(-1, 1, 1, 1, 1)
    network = Network(ENCODER, (source(1, Delta(1)), dense([[1], [2]], Sigma())))
    assert reference.run(network, frames, 3).layers == (loihi.Events(0, 2, 1), loihi.Events(4, 0, 6))


@pytest.mark.parametrize(("weight", "limit"), [(254, 32767), (-256, -32768)])
def test_strict_names_the_dendrite_that_overflows(weight: int, limit: int) -> None:
    """Loihi 1 sums a step's input in 16 bits: beyond, strict mode raises, and the usual mode goes on."""
    most = limit // weight
    fits = [[weight] * most]
    assert run(source(most), dense(fits, PLAIN), bias=[20] * most, steps=1, strict=True).events.active_updates >= most
    layers = source(most + 1), dense([[weight] * (most + 1)], PLAIN)
    run(*layers, bias=[20] * (most + 1), steps=1)
    with pytest.raises(CapacityError, match=f"^out: {weight * (most + 1)} units of synaptic input .* limit of {limit}"):
        run(*layers, bias=[20] * (most + 1), steps=1, strict=True)


@pytest.mark.parametrize("seed", range(20))
def test_images_of_a_batch_do_not_meet(seed: int) -> None:
    """A batch gives what its images give one by one."""
    case = random_networks.spiking(seed)
    together = reference.run(case.network, case.bias, case.steps)
    alone = [reference.run(case.network, case.bias[i : i + 1], case.steps) for i in range(len(case.bias))]
    np.testing.assert_array_equal(together.scores, np.concatenate([each.scores for each in alone]))
    assert together.events == loihi.sum_events(each.events for each in alone)
