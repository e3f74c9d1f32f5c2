"""Who may call what over the network: patterns of methods for each name in a client's certificate, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from protos import jouled_pb2, open_inference_pb2, orca_service_pb2

# The control service has a socket of its own and is not among them.
SERVICES = (
    jouled_pb2.DESCRIPTOR.services_by_name["Classifier"],
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
    orca_service_pb2.DESCRIPTOR.services_by_name["OpenRcaService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
METHODS = [f"{service.full_name}/{method.name}" for service in SERVICES for method in service.methods]


def allowed(allow: Mapping[str, Iterable[str]], names: Iterable[str], method: str) -> bool:
    """Tell whether a certificate with these names may call a method, such as `jouled.v1.Classifier/Classify`."""
    return any(fnmatchcase(method, pattern) for name in names for pattern in allow.get(name, ()))
