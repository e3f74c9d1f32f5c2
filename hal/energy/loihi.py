"""Joules and seconds of Loihi from counted events.

Sources: M. Davies et al., "Loihi: A Neuromorphic Manycore Processor with On-Chip Learning", IEEE Micro 38(1), 2018,
table 1 (pre-silicon simulation at 0.75 V) for events; static power as regressed on silicon boards by SANA-FE
(`arch/loihi.yaml`) and published per-board measurements. Modelled figures: the silicon at hand may differ by a third.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SYNAPTIC_OPERATION_JOULES = 23.6e-12
ACTIVE_UPDATE_JOULES = 81e-12
INACTIVE_UPDATE_JOULES = 52e-12
SYNAPTIC_OPERATION_SECONDS = 3.5e-9
ACTIVE_UPDATE_SECONDS = 8.4e-9
INACTIVE_UPDATE_SECONDS = 5.3e-9
# Barrier synchronisation of one time step over 1 to 32 tiles of four cores.
BARRIER_SECONDS_ONE_TILE = 113e-9
BARRIER_SECONDS_ALL_TILES = 465e-9
CORES_PER_TILE = 4
TILES_PER_CHIP = 32
STATIC_WATTS_PER_CHIP = 0.104
STATIC_WATTS_PER_CORE = 0.9e-3
# The event model is held against pilotnet_lif on silicon (docs/spiking.md): predicted 1.29 mJ, measured 1.0935 mJ.
RELATIVE_UNCERTAINTY = 0.25


@dataclass(frozen=True)
class Events:
    """What happened during an inference, for one image or summed over a batch.

    An update is active when its neuron fired in that step.
    """

    synaptic_operations: float
    active_updates: float
    inactive_updates: float


def sum_events(parts: Iterable[Events]) -> Events:
    """Add up the events of layers or images."""
    counts = [(part.synaptic_operations, part.active_updates, part.inactive_updates) for part in parts]
    return Events(*(sum(column) for column in zip(*counts)))


def dynamic_joules(events: Events) -> float:
    """Price the events."""
    return (
        events.synaptic_operations * SYNAPTIC_OPERATION_JOULES
        + events.active_updates * ACTIVE_UPDATE_JOULES
        + events.inactive_updates * INACTIVE_UPDATE_JOULES
    )


def seconds(layers: Sequence[Events], cores: Sequence[int], steps: float, images: int = 1) -> float:
    """Give the time of `images` inferences, `steps` in all, with the events of each layer and its number of cores.

    A step lasts as long as its busiest core and the barrier after it. The events of a layer are taken as spread
    evenly over its cores, steps and images. The last spike of the input takes a further step from layer to layer.
    """
    busiest = max(work_seconds(events) / count for events, count in zip(layers, cores))
    barriers = steps + images * (len(layers) - 1)
    return busiest + barriers * barrier_seconds(sum(cores))


def work_seconds(events: Events) -> float:
    """Give the time that one core needs for the events."""
    return (
        events.synaptic_operations * SYNAPTIC_OPERATION_SECONDS
        + events.active_updates * ACTIVE_UPDATE_SECONDS
        + events.inactive_updates * INACTIVE_UPDATE_SECONDS
    )


def spread(total: Events, synapses: Sequence[int], neurons: Sequence[int]) -> list[Events]:
    """Guess the events of each layer where only their sum is known: in proportion to its synapses and neurons."""
    all_synapses, all_neurons = max(sum(synapses), 1), sum(neurons)
    return [
        Events(
            total.synaptic_operations * incoming / all_synapses,
            total.active_updates * count / all_neurons,
            total.inactive_updates * count / all_neurons,
        )
        for incoming, count in zip(synapses, neurons)
    ]


def barrier_seconds(cores: int) -> float:
    """Interpolate the time of one barrier between one tile and all tiles of a chip."""
    tiles = min(-(-cores // CORES_PER_TILE), TILES_PER_CHIP)
    share = (tiles - 1) / (TILES_PER_CHIP - 1)
    return BARRIER_SECONDS_ONE_TILE + share * (BARRIER_SECONDS_ALL_TILES - BARRIER_SECONDS_ONE_TILE)


def static_watts(chips: int, cores: int) -> float:
    """Give the power of the chips and their used cores without any event."""
    return chips * STATIC_WATTS_PER_CHIP + cores * STATIC_WATTS_PER_CORE
