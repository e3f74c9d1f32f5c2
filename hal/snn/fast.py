"""The fast engine: the numbers of `hal.snn.reference`, bit for bit, in a small part of its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

import numpy as np

from hal.energy.loihi import Events, sum_events
from hal.snn import fast_kernels as kernels
from hal.snn.fast_arrays import Filler
from hal.snn.fast_layout import BLOCK
from hal.snn.network import DELAY_LIMIT, Lif
from hal.snn.reference import Trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.snn.network import Network

    Integers = NDArray[np.int64]

MARGIN_BLOCK = 4


@dataclass(frozen=True)
class Run:
    """The result of N images: as `reference.Run`, and the `steps` (N,) that each image took."""

    scores: Integers
    events: Events
    traces: dict[str, Trace]
    layers: tuple[Events, ...]
    steps: Integers


class Engine:
    """A network ready to run. It keeps the state of one image: one thread at a time may use it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        filler = Filler(network)
        self._filler = filler
        self._arrays, self._input = filler.arrays()
        longest = max(layer.delay for layer in network.layers)
        self._block = next(block for block in (16, 8, 4, 2, 1) if longest + block <= 64)

    def run(self, bias: Integers, steps: int, *, margin: Optional[int] = None, trace: bool = False) -> Run:
        """Run N images as `reference.run` does. `bias` is (N, C, H, W), or (T, N, C, H, W) where it changes.

        With a `margin` an image ends after the first step at which its best score leads the second by that much.
        """
        least_lead = -1 if margin is None else margin
        images = bias.shape[-4]
        scores = np.zeros((images, self._network.classes), np.int64)
        used = np.zeros(images, np.int64)
        self._arrays.events[:] = 0
        traces: dict[str, Trace] = {}
        if trace or bias.ndim == 5:
            traces = self._run_stepwise(bias, steps, least_lead, scores, used, trace)
        else:
            flat = np.ascontiguousarray(bias, np.int64).reshape(images, -1)
            block = self._block if margin is None else min(self._block, MARGIN_BLOCK)
            kernels.run(self._arrays, self._input, flat, 0, steps, block, least_lead, False, scores, used)
        layers = self._events(int(used.sum()))
        return Run(scores, sum_events(layers), traces, layers, used)

    def _run_stepwise(
        self, bias: Integers, steps: int, margin: int, scores: Integers, used: Integers, trace: bool
    ) -> dict[str, Trace]:
        """Run one step at a time: for a bias that changes, and to look at the state after each step."""
        images = bias.shape[-4]
        frames = np.broadcast_to(bias, (steps, *bias.shape[-4:])).reshape(steps, images, -1)
        network = self._network
        series = [np.zeros((3, steps, images, layer.size), np.int64) for layer in network.layers] if trace else []
        for image in range(images):
            for step in range(steps):
                frame = np.ascontiguousarray(frames[step, image : image + 1], np.int64)
                at = slice(image, image + 1)
                kernels.run(self._arrays, self._input, frame, step, step + 1, 1, margin, True, scores[at], used[at])
                for index, record in enumerate(series):
                    record[:, step, image] = self._filler.state(self._arrays, index)
        if not trace:
            return {}
        return {
            layer.name: Trace(*record.reshape(3, steps, images, *layer.shape))
            for layer, record in zip(network.layers, series)
        }

    def _events(self, steps: int) -> tuple[Events, ...]:
        counts = self._arrays.events.tolist()
        layers = []
        for index, layer in enumerate(self._network.layers):
            fired = counts[index][0]
            layers.append(Events(counts[index - 1][1] if index else 0, fired, layer.size * steps - fired))
        return tuple(layers)


def compile_network(network: Network) -> Engine:
    """Prepare a network to run."""
    return Engine(network)
