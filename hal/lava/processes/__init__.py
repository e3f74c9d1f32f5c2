"""Two processes that Lava 0.10 does not have: a neuron that is reset by subtraction, and a counter of spikes.

They have a folder of their own since Lava, in search of models, runs every file that lies beside a process.
"""

# mypy: disable-error-code="misc, no-untyped-call, untyped-decorator"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.models import AbstractPyLifModelFixed, PyLifModelBitAcc
from lava.proc.lif.process import LIF

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SoftResetLif(LIF):
    """Leaky integrate and fire; a neuron that fires loses its threshold and keeps what is above it."""


@implements(proc=SoftResetLif, protocol=LoihiProtocol)
@requires(CPU)
@tag("bit_accurate_loihi", "fixed_pt")
class PySoftResetLif(AbstractPyLifModelFixed):
    """Lava's own model of a LIF but for the reset, put together anew: a model may not be derived from a model."""

    s_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    vth: Any = LavaPyType(int, np.int32, precision=17)
    scale_threshold = PyLifModelBitAcc.scale_threshold
    spiking_activation = PyLifModelBitAcc.spiking_activation

    def reset_voltage(self, spike_vector: NDArray[np.bool_]) -> None:
        """Take the threshold from the voltage of those that fired."""
        self.v[spike_vector] -= self.effective_vth


class Tally(AbstractProcess):
    """Counts what arrives: how many neurons fired in each of the last `history` steps, and at how many synapses.

    `fan_out` counts the synapses that leave each neuron. `spikes` holds what arrived in the last step.
    """

    def __init__(self, *, fan_out: NDArray[np.int64], history: int) -> None:
        super().__init__()
        self.s_in = InPort(shape=fan_out.shape)
        self.fan_out = Var(shape=fan_out.shape, init=fan_out)
        self.fired = Var(shape=(history,), init=0)
        self.operations = Var(shape=(history,), init=0)
        self.spikes = Var(shape=fan_out.shape, init=0)


@implements(proc=Tally, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyTally(PyLoihiProcessModel):
    """Counts on the CPU."""

    s_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    fan_out: Any = LavaPyType(np.ndarray, np.int64, precision=32)
    fired: Any = LavaPyType(np.ndarray, np.int64, precision=32)
    operations: Any = LavaPyType(np.ndarray, np.int64, precision=32)
    spikes: Any = LavaPyType(np.ndarray, np.int64, precision=32)

    def run_spk(self) -> None:
        """Count one step."""
        self.spikes[...] = self.s_in.recv()
        place = (self.time_step - 1) % len(self.fired)
        self.fired[place] = np.count_nonzero(self.spikes)
        self.operations[place] = self.fan_out[self.spikes != 0].sum()
