"""The parameters that requests and responses of the Open Inference Protocol may have, with their meaning."""

from __future__ import annotations

REQUEST = {
    "timeout": "Microseconds; the shorter one of it and the call's deadline holds.",
    "max_energy_joules": "Only operating points are taken that are expected to need no more dynamic joules.",
    "min_accuracy": "Only operating points of at least this accuracy are taken, a fraction.",
    "priority": "Accepted without effect: requests are served in the order in which they come.",
    "sequence_id": "Accepted without effect.",
    "sequence_start": "Accepted without effect.",
    "sequence_end": "Accepted without effect.",
}
RESPONSE = {
    "energy_joules": "What the request added: its dynamic energy.",
    "energy_static_joules": "Its share of what the device draws anyway.",
    "energy_uncertainty_joules": "The standard uncertainty of the dynamic energy.",
    "energy_provenance": "`measured`, `modelled` or `simulated`.",
    "energy_sharing": "`exclusive` or `shared`.",
    "energy_state": "`provisional` or `final`.",
    "device": "The device that answered.",
    "variant": "The artifact that answered, such as `snn`.",
    "policy": "The policy under which it was decided.",
    "simulated": "Whether the device is a simulator.",
    "steps": "The time steps that a spiking network took, 0 for a dense one.",
    "fallback_of": "The device that is lost and in whose place this one answered; absent otherwise.",
}
