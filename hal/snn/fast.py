"""The fast engine: the numbers of `hal.snn.reference`, bit for bit, in a small part of its time."""

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
        counts, steps = result.events.tolist(), int(result.steps.sum())
        arrived = [0, *(operations for _, operations in counts)]
        return tuple(
            Events(operations, fired, layer.size * steps - fired)
            for layer, operations, (fired, _) in zip(self._network.layers, arrived, counts)
        )


def _rows(bias: Integers) -> Integers:
    # The loops are compiled for arrays that can be written.
    return np.require(bias, np.int64, ["C", "W"]).reshape(len(bias), -1)


def compile_engine() -> None:
    """Compile the loops for this processor, unless their machine code is kept: `python -m hal.snn.fast`.

    That takes some 20 seconds, for which no daemon should have to wait.
    """
    layers = (Layer("in", (1, 1, 1), Lif(1)), Layer("out", (1, 1, 1), Accumulator(), Dense(np.ones((1, 1), np.int16))))
    tables = Tables(Network(Encoder(1.0, 0.0), layers))
    for state in (MaskState(tables), GradedState(tables)):
        Engine(tables.network, state).run(np.zeros((1, 1, 1, 1), np.int64), 1)


if __name__ == "__main__":
    compile_engine()
