"""The fast spiking engine against the reference engine: equal in every number, at every step."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numba
import numpy as np
import psutil
import pytest

from hal.snn import fast, fast_compile, fast_kernels, reference
from hal.snn.fast_graded import GradedState
from hal.snn.fast_masks import MaskState
from hal.snn.fast_tables import Tables
from hal.snn.network import Accumulator, Conv, Dense, Encoder, Layer, Lif, Network, SumPool, Synapse
from hal.snn.parts import output_shape
from tests.snn import random_networks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

FIRES_OFTEN = Lif(1, voltage_decay=4096)


def check_agreement(network: Network, bias: Integers, steps: int, engine: fast.Engine | None = None) -> None:
    """Assert that scores, events and traces are the reference's."""
    engine = engine or fast.compile_network(network)
    expected = reference.run(network, bias, steps, trace=True)
    for run in (engine.run(bias, steps), engine.run(bias, steps, trace=True)):
        np.testing.assert_array_equal(run.scores, expected.scores)
        assert run.events == expected.events
        assert run.layers == expected.layers
        assert run.steps.tolist() == [steps] * len(expected.scores)
    for name, trace in expected.traces.items():
        for field in dataclasses.fields(trace):
            np.testing.assert_array_equal(getattr(run.traces[name], field.name), getattr(trace, field.name), name)


def _two_layers(synapse: Synapse, source: tuple[int, int, int], shape: tuple[int, int, int], neuron: Lif) -> Network:
    layers = (Layer("in", source, FIRES_OFTEN), Layer("out", shape, neuron, synapse))
    return Network(Encoder(8.0, 0.0), layers)


@pytest.mark.parametrize("first", range(0, 300, 25))
def test_random_networks_agree(first: int) -> None:
    """300 random networks give equal spikes, currents, voltages, scores and events."""
    for seed in range(first, first + 25):
        case = random_networks.spiking(seed)
        check_agreement(case.network, case.bias, case.steps)


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_sigma_delta_networks_agree(first: int) -> None:
    """40 random sigma-delta networks give equal graded spikes and states."""
    for seed in range(first, first + 10):
        case = random_networks.sigma_delta(seed)
        check_agreement(case.network, case.bias, case.steps)


def test_the_graded_loops_do_all_that_the_masks_do() -> None:
    """What is meant for sigma-delta and for very large sums computes networks of LIF as well."""
    for seed in range(300, 340):
        case = random_networks.spiking(seed)
        engine = fast.Engine(case.network, GradedState(Tables(case.network)))
        check_agreement(case.network, case.bias, case.steps, engine)


def test_scores_may_sum_many_inputs() -> None:
    """Neurons that only sum take all that arrives, also over 1,024 steps, without the slower loops."""
    weight = np.full((3, 6000), 255, np.int16)
    weight[1], weight[2, ::2] = -256, 0
    layers = (Layer("in", (6000, 1, 1), FIRES_OFTEN), Layer("out", (3, 1, 1), Accumulator(), Dense(weight)))
    network = Network(Encoder(8.0, 0.0), layers)
    assert Tables(network).fits()
    bias = np.full((1, 6000, 1, 1), 65, np.int64)
    check_agreement(network, bias, 20)
    assert fast.compile_network(network).run(bias, 1024).scores.tolist() == [
        [255 * 6000 * 1024, -256 * 6000 * 1024, 255 * 3000 * 1024]
    ]


@pytest.mark.parametrize("inputs", [100, 200, 500, 800])
@pytest.mark.parametrize("neuron", [Lif(900), Lif(900, 3000, 200), Lif(131071, 4096, 0, reset="subtract")])
def test_sums_of_any_size_agree(inputs: int, neuron: Lif) -> None:
    """Sums beyond 16 bits, and currents that fold at 24 bits, are as in the reference."""
    rng = np.random.default_rng(inputs)
    weight = rng.choice(np.array([255, 254], np.int16), size=(20, inputs))
    weight[1::2] = -256
    network = _two_layers(Dense(weight), (inputs, 1, 1), (20, 1, 1), neuron)
    check_agreement(network, rng.integers(-8, 60, (2, inputs, 1, 1)), 20)


def test_each_width_of_sums_is_tried() -> None:
    """The networks of the test above need 16-bit sums, 32-bit sums, and 64-bit states."""
    found = set()
    for inputs in (100, 500, 800):
        tables = Tables(
            _two_layers(Dense(np.full((1, inputs), 255, np.int16)), (inputs, 1, 1), (1, 1, 1), Lif(900))
        )  # fmt: skip
        found.add((tables.fits(), bool(tables.records["wide"].any())))
    assert found == {(True, False), (True, True), (False, True)}


@pytest.mark.parametrize(
    "synapse",
    [
        Conv(np.arange(-200, 88, dtype=np.int16).reshape(8, 4, 3, 3)),
        Conv(np.arange(-90, 270, dtype=np.int16).reshape(8, 1, 3, 15), (1, 2), (1, 14), (2, 2), 4),
        Conv(np.arange(-60, 60, dtype=np.int16).reshape(5, 4, 2, 3), (3, 1), (5, 0), (1, 3)),
        SumPool((2, 3), (2, 3), -7),
    ],
)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.98])
def test_synapses_agree_at_any_rate(synapse: Synapse, share: float) -> None:
    """Few, half or nearly all inputs fire; kernels are strided, padded, dilated, grouped; a row has many events."""
    rng = np.random.default_rng(5)
    network = _two_layers(
        synapse, (4, 10, 15), output_shape(synapse, (4, 10, 15), "synapse"), Lif(40, voltage_decay=512)
    )
    bias = np.where(rng.random((2, 4, 10, 15)) < share, 8, -3)
    bias[:, :, ::3] -= rng.integers(0, 8, bias[:, :, ::3].shape)
    check_agreement(network, bias, 18)


def test_long_runs_agree() -> None:
    """Nothing depends on the steps being few: 150 of them, with biases inside and outside of what pictures bring."""
    weight = np.random.default_rng(1).integers(-20, 30, (10, 30)).astype(np.int16)
    layers = (
        Layer("in", (30, 1, 1), Lif(20, voltage_decay=100)),
        Layer("out", (10, 1, 1), Accumulator(), Dense(weight)),
    )
    network = Network(Encoder(20.0, 10.0), layers)
    for scale in (1, 40):
        check_agreement(network, scale * np.arange(-8, 22).reshape(1, 30, 1, 1), 150)


@pytest.mark.parametrize("delay", [1, 17, 62])
def test_delays_agree(delay: int) -> None:
    """A delay is kept over blocks of steps, up to the longest that is allowed."""
    weight = np.random.default_rng(delay).integers(-20, 40, (12, 30)).astype(np.int16)
    layers = (
        Layer("in", (30, 1, 1), Lif(20, voltage_decay=100)),
        Layer("hidden", (12, 1, 1), Lif(30), Dense(weight), delay=delay),
        Layer("out", (12, 1, 1), Accumulator(), Dense(np.ones((12, 12), np.int16)), delay=3),
    )
    check_agreement(Network(Encoder(20.0, 10.0), layers), np.arange(-8, 22).reshape(1, 30, 1, 1), 90)


def test_a_changing_bias_agrees() -> None:
    """The input may change from step to step."""
    case = random_networks.spiking(11)
    frames = np.random.default_rng(2).integers(-60, 200, (9, *case.bias.shape))
    check_agreement(case.network, frames, 9)


def test_a_run_ends_at_the_margin() -> None:
    """With a margin each image has the scores and events of a run that was told to stop there, and no step more."""
    stopped_early = 0
    for seed in range(60):
        case = random_networks.spiking(seed)
        margin = int(np.abs(reference.run(case.network, case.bias, case.steps).scores).max()) // 8 + 1
        for image in case.bias[:, np.newaxis]:
            run = fast.compile_network(case.network).run(image, case.steps, margin=margin)
            steps = int(run.steps[0])
            expected = [reference.run(case.network, image, taken) for taken in range(1, steps + 1)]
            np.testing.assert_array_equal(run.scores, expected[-1].scores)
            assert run.layers == expected[-1].layers
            leads = [_lead(taken.scores[0]) for taken in expected]
            assert max(leads[:-1], default=-1) < margin
            assert steps == case.steps or leads[-1] >= margin
            stopped_early += steps < case.steps
    assert stopped_early > 10


def _lead(scores: Integers) -> int:
    *_, second, best = np.sort(scores)
    return int(best - second)


def test_no_state_is_left_behind() -> None:
    """An image has the same result whatever ran before it, on the same engine and in the same batch."""
    case = random_networks.spiking(7)
    engine = fast.compile_network(case.network)
    alone = [engine.run(case.bias[i : i + 1], case.steps).scores for i in range(len(case.bias))]
    engine.run(case.bias[::-1], 3, margin=1)
    np.testing.assert_array_equal(engine.run(case.bias, case.steps).scores, np.concatenate(alone))


def test_no_steps_give_no_scores() -> None:
    """A run of no steps is a run."""
    case = random_networks.spiking(3)
    assert not fast.compile_network(case.network).run(case.bias, 0).scores.any()


def test_nothing_is_compiled_twice() -> None:
    """One compilation serves every network and input, read-only ones included."""
    fast.compile_engine()
    for seed in range(3):
        case = random_networks.spiking(seed)
        case.bias.setflags(write=False)
        fast.compile_network(case.network).run(case.bias.astype(np.int32), 2, trace=True)
    assert len(fast_kernels.run.signatures) == 1  # type: ignore[attr-defined]


def test_memory_does_not_grow() -> None:
    """Thousands of inferences leave nothing behind."""
    case = random_networks.spiking(7)
    engine = fast.compile_network(case.network)
    process = psutil.Process()

    def use(runs: int) -> int:
        for _ in range(runs):
            engine.run(case.bias, 4)
        return int(process.memory_info().rss)

    assert use(5_000) - use(5_000) < 1 << 20


def test_small_networks_take_the_masks() -> None:
    """A network of LIF is not evaluated by the slow loops."""
    case = random_networks.spiking(0)
    assert isinstance(fast.compile_network(case.network)._state, MaskState)


def test_machine_code_is_kept_in_the_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder lies below what systemd sets, is named by the sources, and may be missing or read-only."""
    monkeypatch.setitem(vars(numba.config), "CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    assert fast_compile._prepare_cache()
    (folder,) = (tmp_path / "cache" / "kernels").iterdir()
    assert str(folder) == numba.config.CACHE_DIR  # type: ignore[attr-defined]
    (tmp_path / "file").touch()
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "file"))
    assert not fast_compile._prepare_cache()


def test_synapses_that_reach_nothing_are_a_network() -> None:
    """A stride can step over all inputs, so that every neuron sees padding only."""
    synapse = Conv(np.ones((3, 2, 1, 1), np.int16), stride=(3, 3), padding=(1, 1))
    network = _two_layers(synapse, (2, 1, 1), (3, 1, 1), Lif(1))
    check_agreement(network, np.full((1, 2, 1, 1), 8), 4)
