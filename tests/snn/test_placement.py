"""Where layers go on the chip, which limits they meet, and what the placement does to time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from hal.energy import loihi
from hal.errors import CapacityError
from hal.snn.network import Conv, Dense, Encoder, Layer, Lif, Network, SumPool, Synapse
from hal.snn.placement import place
from models import netx

if TYPE_CHECKING:
    from pathlib import Path

Shape = tuple[int, int, int]
ONE_TO_ONE = SumPool((1, 1), (1, 1))


def network(*layers: tuple[Shape, Synapse | None], reset: str = "zero") -> Network:
    """Give a network of LIF layers, named by their number."""
    built = [Layer(str(i), shape, Lif(1, reset=reset), synapse) for i, (shape, synapse) in enumerate(layers)]
    return Network(Encoder(1.0, 0.0), tuple(built))


def dense(outputs: int, inputs: int) -> tuple[Shape, Synapse]:
    """Give a dense layer."""
    return (outputs, 1, 1), Dense(np.zeros((outputs, inputs), np.int16))


def cores(*layers: tuple[Shape, Synapse | None], reset: str = "zero", chips: int = 1) -> list[int]:
    """Count the cores of each layer."""
    return [layer.cores for layer in place(network(*layers, reset=reset), chips).layers]


def test_compartments_fill_a_core() -> None:
    """1,024 neurons fit a core, one more does not; with soft reset half as many."""
    assert cores(((1, 32, 32), None), dense(2, 1024)) == [1, 1]
    assert cores(((1025, 1, 1), None), dense(2, 1025)) == [2, 1]
    assert cores(((1, 32, 32), None), dense(2, 1024), reset="subtract") == [2, 1]


def test_dense_weights_fill_a_core() -> None:
    """128 KiB of weights fit a core."""
    assert cores(((1024, 1, 1), None), dense(128, 1024)) == [1, 1]
    assert cores(((1024, 1, 1), None), dense(129, 1024)) == [1, 2]


def test_axons_out_spread_a_layer() -> None:
    """Each neuron needs an axon for each core behind it: 1,024 neurons to 5 cores do not fit one core."""
    assert cores(((1024, 1, 1), None), dense(512, 1024)) == [1, 4]
    assert cores(((1024, 1, 1), None), dense(640, 1024)) == [2, 5]


def test_a_dense_layer_with_too_many_inputs_is_refused() -> None:
    """A neuron cannot be cut: its inputs must all reach one core."""
    with pytest.raises(CapacityError, match=r"^1: 4900 axons into one core exceed the limit of 4096$"):
        place(network(((1, 70, 70), None), dense(2, 4900)))


def test_a_kernel_that_no_core_holds_is_refused() -> None:
    """The weights of one output channel must fit a core."""
    kernel = Conv(np.zeros((1, 600, 15, 15), np.int16))
    with pytest.raises(
        CapacityError, match=r"^1: 135000 bytes of synaptic memory on one core exceed the limit of 131072"
    ):
        place(network(((600, 15, 15), None), ((1, 1, 1), kernel)), chips=8)


def test_a_network_larger_than_the_chip_is_refused() -> None:
    """The error names the layer at which the cores run out."""
    with pytest.raises(
        CapacityError, match=r"^2: 144 cores for this layer and those before it exceed the limit of 128"
    ):
        place(network(((64, 32, 32), None), ((64, 32, 32), ONE_TO_ONE), ((64, 16, 16), SumPool((2, 2), (2, 2)))))
    with pytest.raises(CapacityError, match=r"^0: 256 cores or more exceed the limit of 128$"):
        place(network(((256, 32, 32), None), ((256, 4, 4), SumPool((8, 8), (8, 8)))))


def test_blocks_of_a_convolution_share_inputs() -> None:
    """A grid is chosen whose blocks take in fewest neurons, and stays within 4,096 axons into a core."""
    kernel = Conv(np.zeros((64, 64, 3, 3), np.int16), padding=(1, 1))
    placement = place(network(((64, 16, 16), None), ((64, 16, 16), kernel)))
    channels, rows, columns = placement.layers[1].grid
    taken = 64 * (-(-16 // rows) + 2) * (-(-16 // columns) + 2)
    assert channels == 1
    assert taken <= 4096


def test_pilotnet_needs_two_chips(vectors_folder: Path) -> None:
    """The 158,000 neurons of pilotnet_lif take 165 cores; mnist takes 8."""
    pilotnet = netx.read(vectors_folder / "netx" / "pilotnet_lif" / "network.net")
    placement = place(pilotnet, chips=2)
    assert (placement.cores, placement.chips) == (165, 2)
    with pytest.raises(CapacityError, match=r"^02-conv: 143 cores for this layer and those before it exceed the limit"):
        place(pilotnet)
    mnist = netx.read(vectors_folder / "netx" / "mnist" / "network.net")
    assert [layer.cores for layer in place(mnist).layers] == [1, 4, 2, 1]


def test_the_busiest_core_decides_the_time() -> None:
    """Work on other cores costs energy and no time; more cores for the busiest layer make it faster."""
    busy, idle = loihi.Events(1000, 0, 100), loihi.Events(10, 0, 100)
    alone = loihi.seconds([busy, loihi.Events(0, 0, 0)], [1, 1], 4)
    assert loihi.seconds([busy, idle], [1, 1], 4) == alone
    work = loihi.work_seconds(busy)
    assert alone - loihi.seconds([busy, idle], [2, 1], 4) == pytest.approx(work / 2)
    assert alone == pytest.approx(work + 5 * 113e-9)


def test_a_total_is_spread_over_layers() -> None:
    """Where only sums are known, synapses and neurons say which layer works how much."""
    total = loihi.Events(300, 30, 60)
    layers = loihi.spread(total, [0, 200, 100], [10, 10, 10])
    assert [layer.synaptic_operations for layer in layers] == [0, 200, 100]
    assert loihi.sum_events(layers) == total
