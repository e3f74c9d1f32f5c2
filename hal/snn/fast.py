"""The fast engine: the numbers of `hal.snn.reference`, bit for bit, in a small part of its time.

A layer is evaluated for sixteen steps at once: spikes are a mask of steps per neuron, and a synapse's one step is left
out. What was chosen, with the medians that decided it (one thread of a 3 GHz Sapphire Rapids, code for AVX2, 16 steps;
pilotnet_lif and the 784-512-512-10 network `mnist`, both by Intel):

- Input: what a neuron fires under a constant bias follows from the bias. A table replaces 0.63 M updates.
- A neuron that fires in most steps adds its weights once, to a sum that all steps share, and is subtracted where it is
  silent; where that pays for the input as a whole, the sums start from all its weights. The 565 k events of
  pilotnet_lif's input become 40 k, the 1,535 of mnist's 306.
- Convolutions: an event adds a contiguous row of weights to sums that lie channels last. Events are listed before, so
  that no branch depends on the data: 1.32 ms for all five layers with AVX-512, 1.64 ms straight from the bits. In
  products of 8-bit numbers (two instructions for 32) the layers would take 5 M of each at their rate of 29 %; they take
  1.3 M additions of sixteen sums.
- Dense layers: the sums of a step stay in registers while rows are added; storing takes longer than adding.
- Sums have 16 bits, of halved weights where all are even, where no sum can exceed them, else 32.
- Neurons: 32 at a time, with their voltages in registers for all steps: 3.7 ns for 16 neurons and a step, 5.5 ns with
  16 at a time. A decay takes one multiplication where its product is known to fit into 32 bits, else two.
- What vectors touch begins at a cache line: else additions take up to 1.6 times as long.

Together 2.0 ms for pilotnet_lif and 0.053 ms for mnist (`python -m tests.bench.snn`). Sigma-delta neurons, and neurons
that fire on sums beyond 2^17, go step by step in 64 bits (`hal.snn.fast_graded`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Union

import numpy as np

from hal.energy.loihi import Events, sum_events
from hal.snn.fast_graded import GradedState
from hal.snn.fast_layout import Result
from hal.snn.fast_masks import MaskState
from hal.snn.fast_tables import Tables
from hal.snn.network import Accumulator, Dense, Encoder, Layer, Lif, Network
from hal.snn.reference import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Run:
    """The result of N images: as `reference.Run`, and the `steps` (N,) that each image took."""

    scores: Integers
    events: Events
    traces: dict[str, Trace]
    layers: tuple[Events, ...]
    steps: Integers


def compile_network(network: Network) -> Engine:
    """Prepare a network to run."""
    tables = Tables(network)
    return Engine(network, MaskState(tables) if tables.fits() else GradedState(tables))


class Engine:
    """A network ready to run. It keeps the state of one image: one thread at a time may use it."""

    def __init__(self, network: Network, state: Union[MaskState, GradedState]) -> None:
        self._network = network
        self._state = state
        self._sizes = [layer.size for layer in network.layers]

    def run(self, bias: Integers, steps: int, *, margin: Optional[int] = None, trace: bool = False) -> Run:
        """Run N images as `reference.run` does. `bias` is (N, C, H, W), or (T, N, C, H, W) where it changes.

        With a `margin` an image ends after the first step at which its best score leads the second by that much.
        """
        images = bias.shape[-4]
        result = Result(
            np.zeros((images, self._network.classes), np.int64),
            np.zeros(images, np.int64),
            np.zeros((len(self._network.layers), 2), np.int64),
        )
        traces: dict[str, Trace] = {}
        if trace or bias.ndim == 5:
            traces = self._run_stepwise(bias, steps, margin, result, trace)
        else:
            self._state.advance(_rows(bias), 0, steps, margin, result, direct=False)
        layers = self._count(result)
        return Run(result.scores, sum_events(layers), traces, layers, result.steps)

    def _run_stepwise(
        self, bias: Integers, steps: int, margin: Optional[int], result: Result, trace: bool
    ) -> dict[str, Trace]:
        """Run one step at a time: for a bias that changes, and to look at the state after each step."""
        frames = np.broadcast_to(bias, (steps, *bias.shape[-4:]))
        layers, images = self._network.layers, bias.shape[-4]
        series = [np.zeros((3, steps, images, *layer.shape), np.int64) for layer in layers] if trace else []
        for image in range(images):
            one = Result(result.scores[image : image + 1], result.steps[image : image + 1], result.events)
            for step in range(steps):
                frame = _rows(frames[step, image : image + 1])
                done = self._state.advance(frame, step, step + 1, margin, one, direct=True)
                for index, record in enumerate(series):
                    record[:, step, image] = np.stack(self._state.look(index)).reshape(3, *layers[index].shape)
                if done:
                    break
        return {layer.name: Trace(*record) for layer, record in zip(layers, series)}

    def _count(self, result: Result) -> tuple[Events, ...]:
        steps = sum(result.steps.tolist())
        layers, arrived = [], 0
        for size, (fired, operations) in zip(self._sizes, result.events.tolist()):
            layers.append(Events(arrived, fired, size * steps - fired))
            arrived = operations
        return tuple(layers)


def _rows(bias: Integers) -> Integers:
    # The loops are compiled for such arrays, which can be written; `np.require` takes longer to find that one is.
    if bias.dtype != np.int64 or not bias.flags.carray:
        bias = np.require(bias, np.int64, ["C", "W"])
    return bias.reshape(len(bias), -1)


def warm_up(kind: type[Union[MaskState, GradedState]] = MaskState) -> None:
    """Load the machine code, or compile it, so that the first network need not: half a second, or twenty."""
    layers = (Layer("in", (1, 1, 1), Lif(1)), Layer("out", (1, 1, 1), Accumulator(), Dense(np.ones((1, 1), np.int16))))
    network = Network(Encoder(1.0, 0.0), layers)
    Engine(network, kind(Tables(network))).run(np.zeros((1, 1, 1, 1), np.int64), 1)


def compile_engine() -> None:
    """Compile all loops for this processor, so that no daemon has to wait for it: `python -m hal.snn.fast`."""
    warm_up(MaskState)
    warm_up(GradedState)


if __name__ == "__main__":
    compile_engine()
