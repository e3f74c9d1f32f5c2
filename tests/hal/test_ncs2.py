"""The driver of the stick: what the plugin's words mean, what it says without a stick, and that artifacts run there.

No stick is at hand: OpenVINO 2021.4.2 is the real one, its CPU plugin stands in for the stick.
"""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.repository import SHIPPED, scan
from hal.device import Kind
from hal.errors import DeviceUnavailable, Reason
from hal.ncs2 import Ncs2Program, reason_of
from hal.open import open_device
from models.data import digits
from tests.hal.ways import interpreter, open_way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from hal.artifact import Artifact
    from hal.device import Device

DENSE = [
    found
    for found in scan(SHIPPED).artifacts
    if found.manifest.kind is Kind.DNN and "ncs2" in (found.manifest.drivers or ("ncs2",))
]
IMAGES = 500
LEAST_EQUAL = 0.998
# A float16 has 11 significant bits, and weights may be halves in the one file and not in the other, in several layers.
ROUNDING = 4 * 2.0**-11
# What the plugin says, as found in libmyriadPlugin.so and in issues of openvinotoolkit/openvino.
SAID = {
    "Can not init Myriad device: NC_ERROR": Reason.NOT_FOUND,
    "[ GENERAL_ERROR ] myriad_plugin.cpp:165 No devices available.": Reason.NOT_FOUND,
    "Failed to find (ma2480) platform device, rc: X_LINK_DEVICE_NOT_FOUND": Reason.NOT_FOUND,
    "ncDeviceOpen: NC_DEVICE_NOT_FOUND": Reason.NOT_FOUND,
    "XLink error, rc: X_LINK_ERROR": Reason.LOST,
    "XLink error, rc: X_LINK_COMMUNICATION_NOT_OPEN": Reason.LOST,
    "Failed to allocate graph: MYRIAD device is not opened.": Reason.LOST,
    "Device didn't appear after reboot": Reason.LOST,
    "Failed to read output from FIFO: NC_ERROR": Reason.LOST,
    "XLink error, rc: X_LINK_TIMEOUT": Reason.HUNG,
    "Can not init Myriad device: NC_TIMEOUT": Reason.HUNG,
    "[REQUEST_BUSY]": Reason.HUNG,
    "Failed to get thermal stats: NC_ERROR": Reason.FAILED,
    "Can not init Myriad device: NC_MVCMD_NOT_FOUND": Reason.NO_RUNTIME,
    "Firmware not found in: /usr/lib": Reason.NO_RUNTIME,
    "Cannot load library 'libmyriadPlugin.so': libusb-1.0.so.0: cannot open shared object file": Reason.NO_RUNTIME,
}
LOAD = """
import ctypes, importlib.util, pathlib, sys
origin = importlib.util.find_spec("libusb_package").origin
ctypes.CDLL(str(pathlib.Path(origin).with_name("libusb-1.0.so")))
from openvino.inference_engine import IECore
core = IECore()
network = core.read_network(sys.stdin.buffer.read(), b"", init_from_buffer=True)
network.reshape({next(iter(network.input_info)): (1, 1, 8, 8)})
try:
    core.load_network(network, "MYRIAD", {"LOG_LEVEL": "LOG_WARNING"})
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize(("text", "reason"), SAID.items(), ids=[text[-40:] for text in SAID])
def test_words(text: str, reason: Reason) -> None:
    """Each of the plugin's texts means what it says of the device."""
    assert reason_of(text) is reason


def test_words_that_mean_the_network() -> None:
    """What the plugin says of a network is no failure of the device."""
    assert reason_of("Unsupported layer type: Erf") is None
    assert reason_of("Failed to compile layer dense0: not enough memory") is None


def test_no_stick() -> None:
    """Without a stick the device is not found, in the plugin's own words and soon, and again by the next worker."""
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(DeviceUnavailable, match="No devices available") as caught:
            open_way("ncs2 in a worker", "stick")
        assert caught.value.reason is Reason.NOT_FOUND
        assert time.monotonic() - started < 10


def test_wrong_interpreter() -> None:
    """An OpenVINO of today has nothing of what the stick needs, and neither has this interpreter of Lava."""
    for driver, module in (("ncs2", "openvino"), ("loihi-lava", "lava")):
        with pytest.raises(DeviceUnavailable, match=module) as caught:
            open_device(driver, "stray", threads=1, core_watts=1.0, time_limit_seconds=1.0)
        assert caught.value.reason is Reason.NO_RUNTIME


def test_stick_that_vanished() -> None:
    """The plugin that is to load a network onto no stick says so itself, and that is read as not found."""
    found = next(each for each in scan(SHIPPED).artifacts if each.name == "digits/dnn")
    ended = subprocess.run(
        [interpreter("ncs2"), "-c", LOAD], input=found.files["model.onnx"], capture_output=True, check=True
    )
    assert ended.stdout.decode().strip() == "Can not init Myriad device: NC_ERROR"
    assert reason_of(ended.stdout.decode()) is Reason.NOT_FOUND


def pictures(found: Artifact) -> NDArray[np.generic]:
    """Give images for an artifact: the digits it was made for, else noise of several contrasts."""
    spec = found.manifest.input
    if found.model == "digits":
        training, held_out = digits.load()
        return np.concatenate([held_out.images, training.images])[:IMAGES]
    rng = np.random.default_rng(1)
    noise = rng.random((IMAGES, *spec.shape)) * rng.random((IMAGES, *[1] * len(spec.shape)))
    return (255 * noise).astype(np.uint8) if spec.dtype == "uint8" else noise.astype(np.float32)


@pytest.fixture(scope="module")
def old() -> Iterator[Device]:
    """Give a worker that runs OpenVINO 2021.4.2."""
    device = open_way("ncs2-openvino-cpu in a worker", "old")
    yield device
    device.close()


@pytest.mark.parametrize("found", DENSE, ids=lambda found: found.name)
def test_same_answers_as_today(old: Device, found: Artifact) -> None:
    """Every shipped dense artifact loads in OpenVINO 2021.4.2 and gives there what it gives in the current release."""
    images = pictures(found)
    there, here = (device.load(found)(images, 1).scores for device in (old, open_way("cpu", "new")))
    old.unload(found)
    assert len(images) == IMAGES
    assert np.mean(there.argmax(axis=1) == here.argmax(axis=1)) >= LEAST_EQUAL
    assert np.abs(there - here).max() <= ROUNDING * np.abs(here).max()


class Stick:
    """A stand-in for the stick's own side: what its program asks of the device and of the vendor's request."""

    simulated = False
    name = "stick"
    time_limit_seconds = 2.0

    def __init__(self) -> None:
        self.requests = [self]
        self.output_blobs = {"scores": self}
        self.buffer = np.zeros((1, 3), np.float32)
        self.statuses: list[int | Exception] = []
        self.waited: list[int] = []

    def async_infer(self, inputs: dict[str, NDArray[np.float32]]) -> None:
        """Take a picture."""
        (values,) = inputs.values()
        self.buffer = values.reshape(1, -1)[:, :3] * 2

    def wait(self, milliseconds: int) -> int:
        """Answer with the next status."""
        self.waited.append(milliseconds)
        status = self.statuses.pop(0) if self.statuses else 0
        if isinstance(status, Exception):
            raise status
        return status

    def get_metric(self, name: str) -> float:
        """Tell the temperature."""
        assert name == "DEVICE_THERMAL"
        if self.statuses:
            raise RuntimeError("XLink error, rc: X_LINK_ERROR")
        return 61.5


@pytest.fixture
def stick() -> Stick:
    """Give the stand-in."""
    return Stick()


@pytest.fixture
def program(stick: Stick) -> Ncs2Program:
    """Give a network that runs on it."""
    found = next(each for each in scan(SHIPPED).artifacts if each.name == "digits/dnn")
    return Ncs2Program(stick, stick, ("image", "scores"), (1, 1, 8, 8), found.manifest)  # type: ignore[arg-type]


def test_one_image_at_a_time(stick: Stick, program: Ncs2Program) -> None:
    """Images go one after the other, within the time limit; joules are those of the model for the measured seconds."""
    stick.waited.clear()
    inference = program(np.full((3, 8, 8), 255, np.uint8), 1)
    assert stick.waited == [2000] * 3
    assert inference.scores.tolist() == [[2.0] * 3] * 3
    assert inference.dynamic_joules == pytest.approx(inference.seconds * (1.431 - 0.496))
    assert 0 < program.cost(1).dynamic_joules < program.cost(1).upper_joules == pytest.approx(2.0 * (1.431 - 0.496))


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (-9, Reason.HUNG),
        (RuntimeError("Failed to read output from FIFO: NC_ERROR"), Reason.LOST),
        (RuntimeError("something new"), Reason.FAILED),
    ],
)
def test_failure(stick: Stick, program: Ncs2Program, status: int | Exception, reason: Reason) -> None:
    """A result that does not come in time, and what the plugin raises, has its reason; so has the thermometer."""
    stick.statuses = [status]
    with pytest.raises(DeviceUnavailable) as caught:
        program(np.zeros((1, 8, 8), np.uint8), 1)
    assert caught.value.reason is reason
    assert program.telemetry() == {"temperature_celsius": 61.5, "throttling": 0.0}
    stick.statuses = [0]
    with pytest.raises(DeviceUnavailable, match="stick: lost"):
        program.telemetry()


def test_throttling(program: Ncs2Program, capsys: pytest.CaptureFixture[str]) -> None:
    """Sixteen runs that take half as long again as after loading are told once, and their end as well."""
    usual = program._usual_seconds
    program._watch([usual] * 16)
    assert capsys.readouterr().err == ""
    program._watch([2 * usual] * 16)
    program._watch([2 * usual] * 16)
    assert capsys.readouterr().err == "stick throttles: runs take 2.00 times as long as after loading\n"
    assert program.telemetry()["throttling"] == 1.0
    program._watch([usual] * 16)
    assert capsys.readouterr().err == "stick no longer throttles: runs take 1.00 times as long as after loading\n"
    assert program.telemetry()["throttling"] == 0.0
