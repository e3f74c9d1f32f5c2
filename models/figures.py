"""What a network costs on a device, by the models of `hal.energy`: latency, power and joules of one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hal.energy import loihi, ncs2
from hal.energy.loihi import Events, sum_events
from hal.snn import reference
from hal.snn.placement import place
from models import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hal.snn.network import Network
    from models.measure import Outcome

# Nahuku, the largest board of Loihi 1, has 32 chips.
CHIPS_LIMIT = 32


@dataclass(frozen=True)
class Figures:
    """Means over images, one at a time. Static power is what the device draws without any image."""

    accuracy: float
    latency_seconds: float
    static_watts: float
    dynamic_watts: float
    dynamic_joules: float
    total_joules: float


def build(accuracy: float, seconds: float, static_watts: float, dynamic_joules: float) -> Figures:
    """Give the figures that follow from a time, an idle power and the joules above it."""
    total = dynamic_joules + static_watts * seconds
    return Figures(accuracy, seconds, static_watts, dynamic_joules / seconds, dynamic_joules, total)


class Chip:
    """A network placed on Loihi 1, on as many chips as it needs. Raises `CapacityError` where it cannot be placed."""

    def __init__(self, network: Network) -> None:
        placement = place(network, CHIPS_LIMIT)
        self.chips = placement.chips
        self.cores: Sequence[int] = [layer.cores for layer in placement.layers]
        self.static_watts = loihi.static_watts(self.chips, placement.cores)
        pairs = zip(network.layers, network.layers[1:], strict=False)
        self._synapses = [0, *(int(reference.fan_out(b.synapse, a.shape).sum()) for a, b in pairs)]
        self._neurons = [layer.size for layer in network.layers]

    def estimate(self, total: Events, steps: float, accuracy: float) -> Figures:
        """Price mean counts of which only the sum over the layers is known, as the daemon does before a request."""
        layers = loihi.spread(total, self._synapses, self._neurons)
        seconds = loihi.seconds(layers, self.cores, steps)
        return build(accuracy, seconds, self.static_watts, loihi.dynamic_joules(total))

    def figures(self, outcome: Outcome, labels: NDArray[np.int64]) -> Figures:
        """Price what the network did with the images of these labels."""
        images = len(labels)
        seconds = loihi.seconds(outcome.layers, self.cores, int(outcome.steps.sum()), images) / images
        joules = loihi.dynamic_joules(sum_events(outcome.layers)) / images
        return build(measure.accuracy(outcome.scores, labels), seconds, self.static_watts, joules)


def stick(accuracy: float, multiplies: int) -> Figures:
    """Price a dense network of that many multiply-accumulates on the NCS2."""
    seconds = ncs2.seconds(multiplies)
    return build(accuracy, seconds, ncs2.IDLE_WATTS, ncs2.dynamic_joules(seconds))
