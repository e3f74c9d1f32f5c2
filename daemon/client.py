"""Connect to a daemon: the stubs of `jouled.v1` on its sockets."""

from __future__ import annotations

import os
from pathlib import Path

import grpc

from protos.jouled_pb2_grpc import ClassifierStub, ControlStub

SYSTEM_RUNTIME = Path("/run/jouled")


def default_state() -> Path:
    """Give where a daemon of this user keeps its journal."""
    if "STATE_DIRECTORY" in os.environ:
        return Path(os.environ["STATE_DIRECTORY"])
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "jouled"


def default_runtime() -> Path:
    """Give where a daemon of this host has its sockets: the system's, else the user's."""
    if "RUNTIME_DIRECTORY" in os.environ:
        return Path(os.environ["RUNTIME_DIRECTORY"])
    if SYSTEM_RUNTIME.is_dir():
        return SYSTEM_RUNTIME
    if "XDG_RUNTIME_DIR" in os.environ:
        return Path(os.environ["XDG_RUNTIME_DIR"]) / "jouled"
    return default_state() / "run"


def classifier(address: str) -> ClassifierStub:
    """Reach the inference service at HOST:PORT or unix:PATH."""
    return ClassifierStub(grpc.insecure_channel(address))


def control(runtime: Path) -> ControlStub:
    """Reach the control service of the daemon whose sockets are in `runtime`."""
    return ControlStub(grpc.insecure_channel(f"unix:{runtime / 'control' / 'control.sock'}"))
