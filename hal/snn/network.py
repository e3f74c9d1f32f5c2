"""A spiking network as data: the layers, their synapses and neurons, and the limits of the numbers in them.

Arithmetic is the integer arithmetic of Loihi as Lava 0.10 computes it; `hal.snn.reference` gives it its meaning.
All tensors of images and activations are in (C, H, W) order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Union

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Field widths of Loihi, from Lava 0.10 (lava/proc/lif/models.py).
DECAY_UNITY = 1 << 12
THRESHOLD_LIMIT = (1 << 17) - 1
THRESHOLD_SHIFT = 6
SYNAPSE_SHIFT = 6
STATE_LIMIT = (1 << 23) - 1
BIAS_LIMIT = 1 << 12
BIAS_EXPONENT_LIMIT = 7
WEIGHT_MIN, WEIGHT_MAX = -256, 255
DELAY_LIMIT = 62
# Fields of the sigma-delta neurons (lava/proc/sdn/models.py).
GRADED_BIAS_LIMIT = 1 << 15
EXPONENT_LIMIT = 7


@dataclass(frozen=True)
class Lif:
    """Leaky integrate and fire.

    A neuron fires when its voltage exceeds `threshold << 6`. The decays are fractions of 4096 per step:
    `current_decay` 4096 forgets the current of the last step (Lava's du is one less), `voltage_decay` 0 keeps the
    voltage. `reset` is `zero` as on the chip, or `subtract` (soft reset, two compartments per neuron on Loihi 1).
    Voltages start at `initial_voltage`, in units of the state, not of the threshold.
    """

    threshold: int
    current_decay: int = DECAY_UNITY
    voltage_decay: int = 0
    bias_exponent: int = 6
    reset: str = "zero"
    initial_voltage: int = 0


@dataclass(frozen=True)
class Accumulator:
    """A neuron that never fires: its value is the sum of all that arrived and of its bias at every step."""


@dataclass(frozen=True)
class Delta:
    """A sigma-delta input: it sends the changes of its input, as graded spikes.

    A change is sent once its magnitude reaches `threshold`, in units of the input; smaller ones are kept and added up.
    The state has `spike_exponent + state_exponent` fractional bits, a spike `spike_exponent`.
    """

    threshold: int
    spike_exponent: int = 6
    state_exponent: int = 6


@dataclass(frozen=True)
class SigmaDelta:
    """A sigma-delta neuron: it sums what arrives, adds the bias, rectifies, and sends the changes as `Delta` does."""

    threshold: int
    spike_exponent: int = 6
    state_exponent: int = 6


@dataclass(frozen=True)
class Sigma:
    """A sigma-delta output: its value is the sum of all that arrived. It leads to no further layer."""


@dataclass(frozen=True)
class Dense:
    """All to all. `weight` is (out, in) int16, applied to the flattened (C, H, W) input."""

    weight: NDArray[np.int16]


@dataclass(frozen=True)
class Conv:
    """Cross-correlation. `weight` is (O, I / groups, kH, kW) int16; pairs are (y, x)."""

    weight: NDArray[np.int16]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class SumPool:
    """The sum over windows of `kernel`, each input weighted by `weight`."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    weight: int = 1


Neuron = Union[Lif, Accumulator, Delta, SigmaDelta, Sigma]
Synapse = Union[Dense, Conv, SumPool]


@dataclass(frozen=True)
class Encoder:
    """Turns a picture p in [0, 1] into bias currents of the input layer: trunc(scale * (2 p - 1) + offset)."""

    scale: float
    offset: float


@dataclass(frozen=True)
class Layer:
    """One layer: the synapses that lead to it and its neurons.

    `shape` is (C, H, W) of its neurons; a dense layer is (N, 1, 1). `bias` is int32 of `shape`, or None. `delay` is in
    steps, beyond the one step that every synapse takes and that a feed-forward evaluation leaves out.
    """

    name: str
    shape: tuple[int, int, int]
    neuron: Neuron
    synapse: Optional[Synapse] = None
    bias: Optional[NDArray[np.int32]] = None
    delay: int = 0

    @property
    def size(self) -> int:
        """Count the layer's neurons."""
        channels, height, width = self.shape
        return channels * height * width


@dataclass(frozen=True)
class Network:
    """A feed-forward network. The first layer has no synapses: the encoded picture is its bias.

    The first layer is of `Lif` or `Delta`, the last may also be an `Accumulator` or `Sigma`.
    """

    encoder: Encoder
    layers: tuple[Layer, ...]

    @property
    def classes(self) -> int:
        """Count the neurons of the last layer."""
        return self.layers[-1].size
