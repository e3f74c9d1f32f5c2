"""The parameters that requests and responses of the Open Inference Protocol may have, with their meaning."""

from __future__ import annotations

from daemon.errors import InvalidRequest
from daemon.waiting import DEFAULT_PRIORITY, FIRST_PRIORITY, LAST_PRIORITY
from protos import open_inference_pb2 as pb

REQUEST = {
    "timeout": "Microseconds; the shorter one of it and the call's deadline holds.",
    "max_energy_joules": "Only operating points are taken that are expected to need no more dynamic joules.",
    "min_accuracy": "Only operating points of at least this accuracy are taken, a fraction.",
    "priority": f"Who waits is served by it, {FIRST_PRIORITY} first, {LAST_PRIORITY} last; anything else stands for "
    f"{DEFAULT_PRIORITY}.",
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


def number(request: pb.ModelInferRequest, key: str) -> float | None:
    """Read a numeric parameter of whichever type it came in. Raises `InvalidRequest`."""
    if key not in request.parameters:
        return None
    parameter = request.parameters[key]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param", "double_param"):
        raise InvalidRequest(f"parameters.{key}", "is not a number")
    return float(getattr(parameter, kind))


def priority(request: pb.ModelInferRequest) -> int:
    """Read the priority; 0, and what is beyond the last one, is the default as with Triton. Raises `InvalidRequest`."""
    given = number(request, "priority") or 0.0
    if given < 0 or not given.is_integer():
        raise InvalidRequest("parameters.priority", f"{given:g} is no whole number from 0 on")
    return int(given) if FIRST_PRIORITY <= given <= LAST_PRIORITY else DEFAULT_PRIORITY
