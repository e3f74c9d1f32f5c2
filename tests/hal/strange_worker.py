"""A worker that does to its device what the first pixel of a picture says. Tests start it in an interpreter's place.

It runs the daemon's own worker, with a device of NumPy alone that scores a picture by its sums of pixels.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

WELL, ABORT, STOP, EXIT, RAISE, WRONG_SIZE, WRONG_TYPE, GARBAGE, FLOOD, CHATTER, SLEEP, NONSENSE = range(12)


class Strange:
    """A device that runs anything of either kind."""

    driver = "loihi-sim"
    simulated = True
    batch_limit = 1

    def __init__(self, name: str, descriptor: int) -> None:
        from hal.device import Boundary, Kind, Provenance

        self.name = name
        self.provenance, self.boundary, self.kind = Provenance.SIMULATED, Boundary.ACCELERATOR, Kind.SNN
        self._descriptor = descriptor

    def load(self, artifact: Any) -> Any:
        """Keep how many classes there are; the file DIE_AT_LOAD, where it exists, is the end."""
        if os.path.exists(os.environ.get("DIE_AT_LOAD", "")):  # noqa: PTH110 (a Path adds to each start)
            os.abort()
        return StrangeProgram(self._descriptor, len(artifact.manifest.labels))

    def unload(self, artifact: Any) -> None:
        """Nothing to give back."""

    def static_watts(self) -> float:
        """Give some power."""
        return 0.25

    def reopening(self) -> Any:
        """Tell that it can be switched."""
        from hal.device import Cost

        return Cost(1.0, 2.0, 3.0)

    def power(self, on: bool) -> None:
        """Say it."""
        print("power", "on" if on else "off", flush=True)

    def telemetry(self) -> dict[str, float]:
        """Give a temperature."""
        return {"temperature_celsius": 41.5}

    def close(self) -> None:
        """Say it."""
        print("closed", flush=True)


class StrangeProgram:
    """What runs on the device."""

    def __init__(self, descriptor: int, classes: int) -> None:
        self._descriptor = descriptor
        self._classes = classes

    def cost(self, steps: int, margin: int = 0) -> Any:
        """Give the cost of one image."""
        from hal.device import Cost

        return Cost(100e-9, 200e-9, 1e-4)

    def __call__(self, images: NDArray[Any], steps: int, margin: int = 0) -> Any:
        """Score each picture, unless its first pixel tells otherwise."""
        from hal.device import Inference
        from hal.errors import DeviceUnavailable, Reason

        deed = int(images.reshape(-1)[0])
        if deed in DEEDS:
            DEEDS[deed]()
        if deed == RAISE:
            raise DeviceUnavailable("inner", Reason.LOST, "X_LINK_ERROR")
        if deed == GARBAGE:
            os.write(self._descriptor, b"garbage on the socket")
        rows = 1 << 20 if deed == FLOOD else len(images)
        columns = self._classes + (deed == WRONG_SIZE)
        scores = np.zeros((rows, columns), np.float64 if deed == WRONG_TYPE else np.float32)
        if deed == NONSENSE:
            return SimpleNamespace(scores=scores, colour="green")
        scores[: len(images), 0] = images.reshape(len(images), -1).sum(1)
        return Inference(scores, steps, 1e-4, 100e-9, 10e-9, 1e-5)


def _abort() -> None:
    """Die as a C++ library dies of an exception that nobody catches."""
    print("terminate called without an active exception", flush=True)
    os.abort()


DEEDS: dict[int, Callable[[], object]] = {
    ABORT: _abort,
    STOP: lambda: os.kill(os.getpid(), signal.SIGSTOP),
    EXIT: lambda: os._exit(3),
    CHATTER: lambda: print("\n".join(f"line {number} \u00e4" for number in range(1000)), flush=True),
    SLEEP: threading.Event().wait,
}


def main() -> None:
    """Do what an interpreter would do with these arguments, but for the drivers."""
    home, descriptor = sys.argv[-2], int(sys.argv[-1])
    spec = importlib.util.spec_from_file_location("hal", home)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["hal"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    from hal import worker

    setattr(worker, "open_device", lambda _driver, name, **_options: Strange(name, descriptor))  # noqa: B010
    worker.main(descriptor)


if __name__ == "__main__":
    main()
