"""A device in a worker process, seen from the daemon: the same interface, and no way to take the daemon down.

The worker runs `hal` from this very folder under the interpreter that it is given. Whatever it does wrong (it dies, it
does not answer in time, it answers nonsense) ends the worker and is a `DeviceUnavailable` with its reason; whoever
holds the device opens another one then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, Optional, cast

import msgspec
import numpy as np

from hal import wire
from hal.artifact import TENSORS_SUFFIX
from hal.device import Boundary, Cost, Inference, Kind, Provenance, limit_seconds
from hal.errors import DeviceUnavailable, Reason
from hal.worker import unpack_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact

# Loads `hal` by its place, so that nothing else of the daemon's environment can be imported.
BOOT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("hal", sys.argv[1])
sys.modules["hal"] = hal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hal)
from hal.worker import main
main(int(sys.argv[2]))
"""
HELLO_SECONDS = 20.0
# To open and to load: the first time on a host, the spiking engine is compiled.
PREPARE_SECONDS = 120.0
CLOSE_SECONDS = 2.0
TELEMETRY_LIMIT = 64
LINE_BYTES_LIMIT = 1000
LINES_PER_SECOND = 50
Say = Callable[[str], None]


class RemoteDevice:
    """The device `name` with `driver`, in a process of its own."""

    def __init__(
        self,
        driver: str,
        name: str,
        *,
        python: str = sys.executable,
        time_limit_seconds: float,
        say: Say,
        **options: Any,
    ) -> None:
        """Start the worker under the interpreter `python` and let it open the device with `options`.

        `say` gets what the worker writes, line by line, from a thread. Raises `DeviceUnavailable`.
        """
        self.name, self.driver = name, driver
        self.time_limit_seconds = time_limit_seconds
        self._dead = False
        self._last_words: deque[str] = deque(maxlen=3)
        ours, theirs = socket.socketpair()
        self._channel = wire.Channel(ours)
        with theirs:
            self._process = self._start(python, theirs)
        self._listener = threading.Thread(target=self._listen, args=(say,), name=f"{name} log", daemon=True)
        self._listener.start()
        try:
            self._greet(python)
            self._open({**options, "time_limit_seconds": time_limit_seconds})
        except DeviceUnavailable:
            self._bury()
            raise

    def _open(self, options: dict[str, Any]) -> None:
        request = {"do": "open", "driver": self.driver, "name": self.name, "options": options}
        answer = self._ask(request, PREPARE_SECONDS)
        with self._understanding():
            self.simulated = bool(answer["simulated"])
            self.provenance = Provenance(answer["provenance"])
            self.boundary = Boundary(answer["boundary"])
            self.kind = Kind(answer["kind"])
            self.batch_limit = int(answer["batch_limit"])
            self._note_state(answer)

    def _start(self, python: str, theirs: socket.socket) -> subprocess.Popen[bytes]:
        home = str(Path(__file__).with_name("__init__.py"))
        # Signals of the terminal and of the service manager are for the daemon, and so is its word with the latter.
        environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
        try:
            return subprocess.Popen(
                [python, "-I", "-B", "-c", BOOT, home, str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._channel.close()
            raise DeviceUnavailable(self.name, Reason.NO_RUNTIME, f"{python}: {error.strerror}") from None

    def _greet(self, python: str) -> None:
        """Hear who the worker is. One that ends before it can tell lacks what it needs."""
        try:
            hello, _ = self._channel.receive(0, time.monotonic() + HELLO_SECONDS)
        except wire.Closed:
            self._fail(Reason.NO_RUNTIME, f"{python}: {self._epitaph()}")
        except wire.TimedOut:
            self._fail(Reason.HUNG, f"{python}: no greeting within {HELLO_SECONDS:g} s")
        except wire.WireError as error:
            self._fail(Reason.FAILED, f"{python}: its greeting is no frame: {error}")
        if hello.get("version") != wire.VERSION:
            self._fail(Reason.FAILED, f"{python}: its worker speaks {hello.get('version')}, not {wire.VERSION}")

    @property
    def pid(self) -> int:
        """Tell the worker's process."""
        return self._process.pid

    def alive(self) -> bool:
        """Tell whether the worker lives, as far as the kernel knows."""
        return not self._dead and self._process.poll() is None

    def load(self, artifact: Artifact) -> RemoteProgram:
        """Send an artifact to the worker, its tensors as such; see `Device.load`."""
        files = {name: content for name, content in artifact.files.items() if not name.endswith(TENSORS_SUFFIX)}
        manifest = json.dumps(_plain(artifact.manifest)).encode()
        contents = [np.frombuffer(content, np.uint8) for content in (manifest, *files.values())]
        request = {
            "do": "load", "model": artifact.model, "version": artifact.version, "variant": artifact.variant,
            "digest": artifact.digest, "files": list(files), "tensors": list(artifact.tensors),
        }  # fmt: skip
        answer = self._ask(request, PREPARE_SECONDS, [*contents, *artifact.tensors.values()])
        points = artifact.manifest.operating_points
        with self._understanding():
            costs = [Cost(**cost) for cost in answer["costs"]]
            by_way = {(point.steps, point.margin): cost for point, cost in zip(points, costs)}
            self._note_state(answer)
        return RemoteProgram(self, artifact.digest, len(artifact.manifest.labels), by_way)

    def unload(self, artifact: Artifact) -> None:
        """Let the worker give back what `load` took."""
        answer = self._ask({"do": "unload", "digest": artifact.digest}, PREPARE_SECONDS)
        with self._understanding():
            self._note_state(answer)

    def static_watts(self) -> float:
        """Tell what the worker told last."""
        return self._static_watts

    def reopening(self) -> Optional[Cost]:
        """Tell what the worker told last."""
        return self._reopening

    def power(self, on: bool) -> None:
        """Let the worker power the device down or up."""
        answer = self._ask({"do": "power", "on": on}, PREPARE_SECONDS)
        with self._understanding():
            self._note_state(answer)

    def telemetry(self) -> dict[str, float]:
        """Ask the worker."""
        answer = self._ask({"do": "telemetry"}, self.time_limit_seconds)
        with self._understanding():
            return {str(name): float(value) for name, value in list(answer["telemetry"].items())[:TELEMETRY_LIMIT]}

    def close(self) -> None:
        """Let the worker close the device and end; one that does not is killed."""
        if self._dead:
            return
        with contextlib.suppress(DeviceUnavailable):
            answer = self._ask({"do": "close"}, CLOSE_SECONDS)
            with self._understanding():
                self._note_state(answer)
            self._channel.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_SECONDS)
        self._bury()

    def run(
        self, digest: str, images: NDArray[np.generic], steps: int, margin: int, seconds: float, classes: int
    ) -> Inference:
        """Run a loaded artifact on images, within so many seconds."""
        bound = len(images) * classes * np.dtype(np.float32).itemsize
        request = {"do": "run", "digest": digest, "steps": steps, "margin": margin}
        answer, arrays = self._exchange(request, [images], seconds, bound)
        with self._understanding():
            (scores,) = arrays
            if scores.shape != (len(images), classes) or scores.dtype != np.float32:
                raise ValueError(f"{scores.dtype} scores of shape {scores.shape} for {(len(images), classes)} float32")
            return Inference(scores=scores, **answer)

    def _ask(self, request: dict[str, Any], seconds: float, arrays: Sequence[NDArray[Any]] = ()) -> dict[str, Any]:
        """Exchange a request for an answer without arrays."""
        return self._exchange(request, arrays, seconds, 0)[0]

    def _exchange(
        self, request: dict[str, Any], arrays: Sequence[NDArray[Any]], seconds: float, bytes_limit: int
    ) -> tuple[dict[str, Any], list[NDArray[Any]]]:
        """Send a request and receive its answer. Raises what the driver raised, or why there is no answer."""
        if self._dead:
            raise DeviceUnavailable(self.name, Reason.LOST, "its worker has ended")
        deadline = time.monotonic() + seconds
        try:
            self._channel.send(request, arrays, deadline)
            answer, given = self._channel.receive(bytes_limit, deadline)
        except wire.TimedOut:
            self._fail(Reason.HUNG, f"no answer to {request['do']!r} within {seconds:g} s")
        except wire.Closed:
            self._fail(Reason.LOST, self._epitaph())
        except wire.WireError as error:
            self._fail(Reason.FAILED, f"the answer to {request['do']!r} is no frame: {error}")
        if "error" in answer:
            with self._understanding():
                failure = unpack_error(answer, self.name)
            raise failure
        return answer, given

    @contextlib.contextmanager
    def _understanding(self) -> Any:
        """End the worker when its answer is not what it should be."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            self._fail(Reason.FAILED, f"its worker answers nonsense: {type(error).__name__}: {error}")

    def _note_state(self, answer: dict[str, Any]) -> None:
        self._static_watts = float(answer["static_watts"])
        reopening = answer["reopening"]
        self._reopening = None if reopening is None else Cost(**reopening)

    def _fail(self, reason: Reason, detail: str) -> NoReturn:
        """End the worker and say why."""
        self._bury()
        raise DeviceUnavailable(self.name, reason, detail) from None

    def _bury(self) -> None:
        """Kill what is left of the worker and of the processes that it started."""
        self._dead = True
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._listener.join(CLOSE_SECONDS)

    def _epitaph(self) -> str:
        """Tell how the worker ended, with its last words."""
        try:
            status = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            return "its worker closed the socket"
        self._listener.join(CLOSE_SECONDS)
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        words = " / ".join(self._last_words)
        return f"its worker {how}" + (f": {words}" if words else "")

    def _listen(self, say: Say) -> None:
        """Pass on what the worker writes, within bounds."""
        second, lines = 0, 0
        with cast("IO[bytes]", self._process.stdout) as written:
            while raw := written.readline(LINE_BYTES_LIMIT):
                line = raw.decode(errors="replace").strip()
                if not line:
                    continue
                self._last_words.append(line)
                if int(time.monotonic()) != second:
                    second, lines = int(time.monotonic()), 0
                lines += 1
                if lines <= LINES_PER_SECOND:
                    say(line)
                elif lines == LINES_PER_SECOND + 1:
                    say("it writes more than is passed on")


class RemoteProgram:
    """An artifact that is resident on a device in a worker."""

    def __init__(self, device: RemoteDevice, digest: str, classes: int, costs: dict[tuple[int, int], Cost]) -> None:
        self._device = device
        self._digest = digest
        self._classes = classes
        self._costs = costs

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Give the cost that the worker told when it loaded the artifact."""
        return self._costs[steps, margin]

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Classify the images in the worker; see `Program`."""
        device, each = self._device, self.cost(steps, margin).seconds
        seconds = limit_seconds(device.time_limit_seconds, device.batch_limit, len(images), each)
        return device.run(self._digest, images, steps, margin, seconds, self._classes)


def _plain(value: Any) -> Any:
    """Turn a part of a manifest into what JSON can hold, defaults included."""
    if isinstance(value, msgspec.Struct):
        return {field: _plain(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.value if isinstance(value, Enum) else value
