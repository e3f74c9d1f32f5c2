"""The worker: a process that holds one device for the daemon, under the interpreter that the vendor's library needs.

`hal.remote` starts it, with `hal` from the daemon's own files. It needs the standard library, NumPy and what the driver
imports. Requests and answers are frames of `hal.wire`; the first frame is the worker's, and says who it is.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from hal import wire
from hal.device import Kind
from hal.errors import ArtifactError, CapacityError, DeviceUnavailable, HalError, InputError, Reason
from hal.open import open_device

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact
    from hal.device import Device, Program

    Answer = tuple[dict[str, Any], list[NDArray[Any]]]

# The daemon has read the artifacts; this bounds what one of them may hold.
REQUEST_BYTES_LIMIT = 1 << 32
DETAIL_CHARACTERS_LIMIT = 4096
# prctl(2): the signal that the kernel sends when the parent has died.
PR_SET_PDEATHSIG = 1
FIELDS: dict[type[HalError], tuple[str, ...]] = {
    ArtifactError: ("subject", "reason"),
    CapacityError: ("subject", "figure", "limit", "unit"),
    DeviceUnavailable: ("device", "reason", "detail"),
    InputError: ("field", "reason"),
}


def main(descriptor: int) -> None:
    """Serve the device that is asked for, until the daemon closes its end of the socket or dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = wire.Channel(socket.socket(fileno=descriptor))
    worker = _Worker()
    try:
        channel.send(
            {"version": wire.VERSION, "pid": os.getpid(), "python": platform.python_version(), "numpy": np.__version__}
        )
        while True:
            header, arrays = channel.receive(REQUEST_BYTES_LIMIT)
            channel.send(*worker.answer(header, arrays))
    except wire.Closed:
        worker.close()


class _Worker:
    """The device, and what is loaded on it by its digest."""

    def __init__(self) -> None:
        self._device: Device
        self._loaded: dict[str, Artifact] = {}
        self._programs: dict[str, Program] = {}

    def answer(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> Answer:
        """Do what a request asks for. Whatever a driver raises is an answer as well."""
        try:
            if header["do"] == "run":
                return self._run(header["digest"], arrays[0], header["steps"], header["margin"])
            return getattr(self, f"_{header['do']}")(header, arrays), []
        except HalError as error:
            return pack_error(error), []
        except ImportError as error:
            return pack_error(DeviceUnavailable("", Reason.NO_RUNTIME, str(error))), []
        except Exception as error:  # noqa: BLE001 (a driver may raise anything, and the daemon has to know)
            failure = DeviceUnavailable("", Reason.FAILED, f"{type(error).__name__}: {error}")
            return pack_error(failure), []

    def _run(self, digest: str, images: NDArray[Any], steps: int, margin: int) -> Answer:
        inference = self._programs[digest](images, steps, margin)
        figures = {name: value for name, value in vars(inference).items() if name != "scores"}
        return figures, [inference.scores]

    def _open(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> dict[str, Any]:
        device = self._device = open_device(header["driver"], header["name"], **header["options"])
        return {
            "simulated": device.simulated, "provenance": device.provenance.value, "boundary": device.boundary.value,
            "kind": device.kind.value, "batch_limit": device.batch_limit, **self._state(),
        }  # fmt: skip

    def _load(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> dict[str, Any]:
        artifact = _artifact(header, arrays)
        program = self._programs[artifact.digest] = self._device.load(artifact)
        self._loaded[artifact.digest] = artifact
        points = artifact.manifest.operating_points
        costs = [vars(program.cost(point.steps, point.margin)) for point in points]
        return {"costs": costs, **self._state()}

    def _unload(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> dict[str, Any]:
        artifact = self._loaded.pop(header["digest"])
        del self._programs[artifact.digest]
        self._device.unload(artifact)
        return self._state()

    def _power(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> dict[str, Any]:
        self._device.power(header["on"])
        return self._state()

    def _telemetry(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> dict[str, Any]:
        return {"telemetry": self._device.telemetry()}

    def _close(self, header: dict[str, Any], arrays: list[NDArray[Any]]) -> dict[str, Any]:
        self._device.close()
        return self._state()

    def _state(self) -> dict[str, Any]:
        """Tell what changes with what is loaded and with the power state."""
        reopening = self._device.reopening()
        return {"static_watts": self._device.static_watts(), "reopening": vars(reopening) if reopening else None}

    def close(self) -> None:
        """Let go of the device, if it was opened."""
        if hasattr(self, "_device"):
            self._device.close()


def _artifact(header: dict[str, Any], arrays: list[NDArray[Any]]) -> Artifact:
    """Put an artifact together that the daemon took apart; it has the attributes of `hal.artifact.Artifact`."""
    contents = iter(arrays)
    plain = json.loads(next(contents).tobytes())
    manifest = SimpleNamespace(
        **{
            **plain,
            "kind": Kind(plain["kind"]),
            "input": SimpleNamespace(**{**plain["input"], "shape": tuple(plain["input"]["shape"])}),
            "labels": tuple(plain["labels"]),
            "operating_points": tuple(SimpleNamespace(**point) for point in plain["operating_points"]),
            "origin": SimpleNamespace(**plain["origin"]),
        }
    )
    files = {name: next(contents).tobytes() for name in header["files"]}
    tensors = {name: next(contents) for name in header["tensors"]}
    identity = {name: header[name] for name in ("model", "version", "variant", "digest")}
    name = f"{header['model']}/{header['variant']}"
    return cast("Artifact", SimpleNamespace(**identity, name=name, manifest=manifest, files=files, tensors=tensors))


def pack_error(error: HalError) -> dict[str, Any]:
    """Turn an error of `hal` into what JSON can hold."""
    plain = [getattr(error, field) for field in FIELDS[type(error)]]
    values = [value.value if isinstance(value, Reason) else value for value in plain]
    short = [value[:DETAIL_CHARACTERS_LIMIT] if isinstance(value, str) else value for value in values]
    return {"error": type(error).__name__, "values": short}


def unpack_error(answer: dict[str, Any], device: str) -> HalError:
    """Give the error that `pack_error` packed. Raises `KeyError`, `TypeError` or `ValueError` where it did not."""
    kinds = {kind.__name__: kind for kind in FIELDS}
    kind, values = kinds[answer["error"]], answer["values"]
    if kind is DeviceUnavailable:
        _, reason, detail = values
        return DeviceUnavailable(device, Reason(reason), str(detail))
    return kind(*values)
