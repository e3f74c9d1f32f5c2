"""The Intel Neural Compute Stick 2 through OpenVINO 2021.4, the last with its plugin MYRIAD on the index.

Runs under the vendor's interpreter, in a worker: the plugin can end its process. One request is in flight at a time;
with four, sticks were seen to fail within minutes. The stick has no sensor of its power: joules are modelled from the
seconds measured. For tests, the same code runs on that release's CPU plugin.
"""

from __future__ import annotations

import ctypes
import importlib.util
import statistics
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from hal import usb
from hal.device import Boundary, Cost, Inference, Kind, Provenance
from hal.energy import ncs2
from hal.errors import ArtifactError, CapacityError, DeviceUnavailable, Reason
from hal.simulation import Pause, occupy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hal.artifact import Artifact, Manifest

ONNX = "model.onnx"
MYRIAD, CPU = "MYRIAD", "CPU"
# The stick runs one network at a time.
NETWORKS_LIMIT = 1
WARM_UP_RUNS = 10
# The plugin pauses between inferences when the chip is hot (NCSDK 2, ncDeviceOption_t: throttling levels 1 and 2), but
# this release does not tell the level: runs that take this much longer than after loading do.
THROTTLED, THROTTLE_RUNS = 1.5, 16
# What a stick takes to come back after a reset of the bus.
RESET_SECONDS, LOOK_SECONDS = 5.0, 0.1
# What the plugin, its firmware protocol XLink and its layer `ncAPI` say, and what it means, the first match first.
TEXTS = (
    ("Cannot load library", Reason.NO_RUNTIME),
    ("Firmware not found", Reason.NO_RUNTIME),
    ("NC_MVCMD_NOT_FOUND", Reason.NO_RUNTIME),
    ("No devices available", Reason.NOT_FOUND),
    ("X_LINK_DEVICE_NOT_FOUND", Reason.NOT_FOUND),
    ("NC_DEVICE_NOT_FOUND", Reason.NOT_FOUND),
    ("Can not init Myriad device: NC_ERROR", Reason.NOT_FOUND),
    ("X_LINK_TIMEOUT", Reason.HUNG),
    ("NC_TIMEOUT", Reason.HUNG),
    ("REQUEST_BUSY", Reason.HUNG),
    ("Device didn't appear after reboot", Reason.LOST),
    ("MYRIAD device is not opened", Reason.LOST),
    ("Failed to read output from FIFO", Reason.LOST),
    ("X_LINK_ERROR", Reason.LOST),
    ("X_LINK_COMMUNICATION_NOT_OPEN", Reason.LOST),
    ("NC_ERROR", Reason.FAILED),
)


def reason_of(text: str) -> Optional[Reason]:
    """Tell what the plugin's words say of the device, or None where they do not speak of it."""
    return next((reason for pattern, reason in TEXTS if pattern in text), None)


class Ncs2:
    """One stick, at the USB port `usb_port` where that is given; with the plugin `CPU` the host stands in for it."""

    boundary = Boundary.ACCELERATOR
    kind = Kind.DNN
    batch_limit = 1

    def __init__(
        self,
        name: str,
        *,
        plugin: str = MYRIAD,
        usb_port: str = "",
        time_limit_seconds: float,
        pause: Pause = time.sleep,
    ) -> None:
        """Look for the runtime and the stick. Raises `DeviceUnavailable`, with the plugin's own words."""
        self.name = name
        self.driver = "ncs2" if plugin == MYRIAD else "ncs2-openvino-cpu"
        self.simulated = plugin != MYRIAD
        self.provenance = Provenance.SIMULATED if self.simulated else Provenance.MODELLED
        self._time_limit_seconds = time_limit_seconds
        self._pause = pause
        self._loaded: dict[str, Ncs2Program] = {}
        self._plugin = plugin
        self._core = _open_core(name)
        # The CPU plugin computes in bfloat16 where the processor can, which is coarser than the stick's float16.
        self._settings = {"ENFORCE_BF16": "NO"}
        if plugin == MYRIAD:
            self._settings = {"DEVICE_ID": self._find(usb_port), "LOG_LEVEL": "LOG_WARNING"}

    def _find(self, usb_port: str) -> str:
        """Give the plugin's name of the stick, which is its bus and port path, such as `1.1.4-ma2480`."""
        present = [stick for stick in usb.sticks() if usb_port in ("", stick.port)]
        for stick in present:
            # Without a port of its own, it may be somebody else's.
            if stick.booted and usb_port:
                _reset(stick, self._pause)
        wanted = usb_port.replace("-", ".", 1)
        names = [name for name in self._ask("AVAILABLE_DEVICES") if wanted in ("", name.partition("-")[0])]
        if len(names) > 1:
            detail = f"{len(names)} sticks ({', '.join(names)}) and no usb_port that names one"
            raise DeviceUnavailable(self.name, Reason.NOT_FOUND, detail)
        if names:
            return str(names[0])
        hidden = [str(stick.node) for stick in present if not stick.accessible]
        if hidden:
            raise DeviceUnavailable(self.name, Reason.FAILED, f"no permission for {', '.join(hidden)}")
        self._ask("FULL_DEVICE_NAME")
        raise DeviceUnavailable(self.name, Reason.NOT_FOUND, f"no stick at {usb_port or 'any port'}")

    def _ask(self, metric: str) -> Any:
        """Ask the plugin for a figure; it speaks of no device where there is none."""
        try:
            return self._core.get_metric(self._plugin, metric)
        except RuntimeError as error:
            raise _unavailable(self.name, error) from None

    def load(self, artifact: Artifact) -> Ncs2Program:
        """Boot the stick with its firmware and the network."""
        if set(self._loaded) - {artifact.digest}:
            raise CapacityError(f"{artifact.name} on {self.name}", len(self._loaded) + 1, NETWORKS_LIMIT, "networks")
        if artifact.digest not in self._loaded:
            manifest = artifact.manifest
            network, shape = _read(self._core, artifact)
            try:
                executable = self._core.load_network(network, self._plugin, self._settings, num_requests=1)
            except RuntimeError as error:
                if reason_of(str(error)) is None:
                    raise ArtifactError(artifact.name, f"OpenVINO refuses the network: {_words(error)}") from None
                raise _unavailable(self.name, error) from None
            names = (next(iter(network.input_info)), next(iter(network.outputs)))
            self._loaded[artifact.digest] = Ncs2Program(self, executable, names, shape, manifest)
        return self._loaded[artifact.digest]

    def unload(self, artifact: Artifact) -> None:
        """Make room for another network."""
        self._loaded.pop(artifact.digest, None)

    @property
    def time_limit_seconds(self) -> float:
        """Tell after how long an image counts as lost."""
        return self._time_limit_seconds

    def occupy(self, started: float, seconds: float) -> float:
        """Keep the device occupied for the modelled time, on the CPU plugin."""
        return occupy(started, seconds, self._pause)

    def static_watts(self) -> float:
        """Tell the idle power of a stick that is plugged in, by the model."""
        return ncs2.IDLE_WATTS

    def reopening(self) -> Optional[Cost]:
        """Nothing is switched: most hubs cannot take the power from a port."""
        return None

    def power(self, on: bool) -> None:
        """Nothing to switch."""

    def telemetry(self) -> dict[str, float]:
        """Tell the chip's temperature while a network is loaded, and whether the stick throttles, 1 or 0."""
        if self.simulated:
            return {}
        return {name: figure for program in self._loaded.values() for name, figure in program.telemetry().items()}

    def close(self) -> None:
        """Let go of the stick."""
        self._loaded.clear()


class Ncs2Program:
    """A network on the stick. Images of a batch run one after the other."""

    def __init__(
        self, device: Ncs2, executable: Any, names: tuple[str, str], shape: tuple[int, ...], manifest: Manifest
    ) -> None:
        self._device = device
        self._executable = executable
        self._request = executable.requests[0]
        self._input, self._output = names
        self._shape = shape
        self._scale = np.float32(1 / 255 if manifest.input.dtype == "uint8" else 1.0)
        self._throttling = False
        self._recent: deque[float] = deque(maxlen=THROTTLE_RUNS)
        blank = np.zeros((1, *manifest.input.shape), manifest.input.dtype)
        runs = [self._run(blank)[1] for _ in range(WARM_UP_RUNS)]
        self._usual_seconds = statistics.median(runs[WARM_UP_RUNS // 2 :])
        self._modelled_seconds = ncs2.seconds(manifest.multiplies)

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Give the cost measured at load; the bound is the time limit at full power."""
        if self._device.simulated:
            joules = ncs2.dynamic_joules(self._modelled_seconds)
            return Cost(joules, joules, self._modelled_seconds)
        bound = ncs2.dynamic_joules(self._device.time_limit_seconds)
        return Cost(ncs2.dynamic_joules(self._usual_seconds), bound, self._usual_seconds)

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Classify the images."""
        started = time.perf_counter()
        answers = [self._run(images[index : index + 1]) for index in range(len(images))]
        scores = np.concatenate([answer[0] for answer in answers])
        seconds, computed = sum(answer[1] for answer in answers), 0.0
        if self._device.simulated:
            seconds = self._modelled_seconds * len(images)
            computed = self._device.occupy(started, seconds)
        else:
            self._watch([answer[1] for answer in answers])
        joules = ncs2.dynamic_joules(seconds)
        return Inference(scores, 1, seconds, joules, joules * ncs2.RELATIVE_UNCERTAINTY, computed)

    def _run(self, image: NDArray[np.generic]) -> tuple[NDArray[np.float32], float]:
        """Run one image (1, ...) and give its scores (1, classes) and the seconds that it took."""
        values = np.multiply(image, self._scale, dtype=np.float32, order="C").reshape(self._shape)
        started = time.perf_counter()
        try:
            self._request.async_infer({self._input: values})
            status = self._request.wait(int(self._device.time_limit_seconds * 1e3))
        except RuntimeError as error:
            raise _unavailable(self._device.name, error) from None
        if status != 0:
            limit = f"{self._device.time_limit_seconds:g} s"
            raise DeviceUnavailable(self._device.name, Reason.HUNG, f"no result within {limit}, status {status}")
        seconds = time.perf_counter() - started
        scores = np.array(self._request.output_blobs[self._output].buffer, np.float32).reshape(1, -1)
        return scores, seconds

    def _watch(self, runs: list[float]) -> None:
        """Say when the stick begins to throttle, and when it ceases."""
        self._recent.extend(runs)
        if len(self._recent) < THROTTLE_RUNS:
            return
        ratio = statistics.median(self._recent) / self._usual_seconds
        if (ratio > THROTTLED) != self._throttling:
            self._throttling = not self._throttling
            state = "throttles" if self._throttling else "no longer throttles"
            sys.stderr.write(f"{self._device.name} {state}: runs take {ratio:.2f} times as long as after loading\n")
            sys.stderr.flush()

    def telemetry(self) -> dict[str, float]:
        """Tell the chip's temperature, and whether the stick throttles."""
        try:
            celsius = float(self._executable.get_metric("DEVICE_THERMAL"))
        except RuntimeError as error:
            raise _unavailable(self._device.name, error) from None
        return {"temperature_celsius": celsius, "throttling": float(self._throttling)}


def _open_core(device: str) -> Any:
    """Load the vendor's library, and libusb before it, which its plugin for the stick wants and a host may lack."""
    packaged = importlib.util.find_spec("libusb_package")
    try:
        if packaged is not None and packaged.origin is not None:
            # The plugin finds what is loaded already, by the name that the library gives itself.
            ctypes.CDLL(str(Path(packaged.origin).with_name("libusb-1.0.so")))
        from openvino.inference_engine import IECore
    except (ImportError, OSError) as error:
        raise DeviceUnavailable(device, Reason.NO_RUNTIME, str(error)) from None
    return IECore()


def _read(core: Any, artifact: Artifact) -> tuple[Any, tuple[int, ...]]:
    """Read the artifact's ONNX for one image at a time; give the network and the shape of its input."""
    if ONNX not in artifact.files:
        raise ArtifactError(artifact.name, f"{ONNX} is needed")
    spec, labels = artifact.manifest.input, artifact.manifest.labels
    shape = (1, *((1, *spec.shape) if len(spec.shape) == 2 else spec.shape))
    try:
        network = core.read_network(artifact.files[ONNX], b"", init_from_buffer=True)
    except RuntimeError as error:
        raise ArtifactError(artifact.name, f"OpenVINO refuses the network: {_words(error)}") from None
    try:
        network.reshape({next(iter(network.input_info)): shape})
    except RuntimeError:
        raise ArtifactError(artifact.name, f"the manifest says {list(spec.shape)}, which the network refuses") from None
    classes = int(np.prod(next(iter(network.outputs.values())).shape[1:]))
    if classes != len(labels):
        raise ArtifactError(artifact.name, f"{classes} scores for {len(labels)} labels")
    return network, shape


def _reset(stick: usb.Stick, pause: Pause) -> None:
    """Reset a stick that still runs the firmware of a process that ended: the plugin finds only others."""
    try:
        usb.reset(stick)
    except OSError:
        return  # Not permitted: its watchdog resets it once nobody asks for it.
    waited = 0.0
    while waited < RESET_SECONDS and stick.port in {each.port for each in usb.sticks() if each.booted}:
        pause(LOOK_SECONDS)
        waited += LOOK_SECONDS


def _words(error: Exception) -> str:
    """Give the plugin's words in one line."""
    return " ".join(str(error).split())


def _unavailable(device: str, error: Exception) -> DeviceUnavailable:
    return DeviceUnavailable(device, reason_of(str(error)) or Reason.FAILED, _words(error))
