"""A device behind a worker: whatever the worker does, the daemon's side survives it and says what happened."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from hal import artifact, remote, wire, worker
from hal.artifact import Artifact
from hal.device import Cost, limit_seconds
from hal.errors import ArtifactError, CapacityError, DeviceUnavailable, InputError, Reason
from hal.remote import RemoteDevice, RemoteProgram
from hal.runtimes import RUNTIMES, Runtime, default_directory
from tests.hal import strange_worker, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

SNN = Path(artifact.__file__).parents[1] / "models" / "zoo" / "digits" / "1" / "snn"


@pytest.fixture(scope="module")
def digits() -> Artifact:
    """Give a spiking artifact."""
    return artifact.read(SNN)


@pytest.fixture
def lines() -> list[str]:
    """Give the list to which the workers of a test write."""
    return []


@pytest.fixture
def start(tmp_path: Path, lines: list[str]) -> Iterator[Callable[..., RemoteDevice]]:
    """Start strange devices, whose workers end with the test."""
    devices: list[RemoteDevice] = []

    def opened(python: str = "", **options: Any) -> RemoteDevice:
        given = {"time_limit_seconds": 20.0, "say": lines.append, **options}
        devices.append(RemoteDevice("loihi-sim", "odd", python=python or workers.strange(tmp_path), **given))
        return devices[-1]

    yield opened
    for device in devices:
        device.close()


def _picture(deed: int) -> NDArray[np.uint8]:
    """Give a picture whose first pixel tells the worker what to do."""
    picture = np.ones((1, 8, 8), np.uint8)
    picture[0, 0, 0] = deed
    return picture


def test_life(start: Callable[..., RemoteDevice], digits: Artifact, lines: list[str]) -> None:
    """A device behind a worker is what it is in the worker, runs, is switched, and ends in order."""
    device = start()
    assert (device.name, device.driver, device.simulated, device.batch_limit) == ("odd", "loihi-sim", True, 1)
    assert (device.provenance.value, device.boundary.value, device.kind.value) == ("simulated", "accelerator", "snn")
    assert (device.static_watts(), device.reopening()) == (0.25, Cost(1.0, 2.0, 3.0))
    program = device.load(digits)
    assert program.cost(4) == Cost(100e-9, 200e-9, 1e-4)
    inference = program(_picture(strange_worker.WELL), 4)
    assert inference.scores.tolist() == [[63.0] + [0.0] * 9]
    assert (inference.steps, inference.seconds, inference.dynamic_joules) == (4, 1e-4, 100e-9)
    assert device.telemetry() == {"temperature_celsius": 41.5}
    device.power(False)
    device.unload(digits)
    with pytest.raises(DeviceUnavailable, match=r"odd: failed \(KeyError"):
        program(_picture(strange_worker.WELL), 4)
    assert device.alive()
    device.close()
    device.close()
    assert not device.alive()
    assert lines == ["power off", "closed", "closed"]


FAULTS = {
    "abort": (strange_worker.ABORT, Reason.LOST, r"its worker was ended by SIGABRT: terminate called"),
    "exit": (strange_worker.EXIT, Reason.LOST, r"its worker ended with status 3"),
    "wrong size": (strange_worker.WRONG_SIZE, Reason.FAILED, r"44 bytes of arrays exceed the limit of 40"),
    "wrong type": (strange_worker.WRONG_TYPE, Reason.FAILED, r"80 bytes of arrays exceed the limit of 40"),
    "flood": (strange_worker.FLOOD, Reason.FAILED, r"41943040 bytes of arrays exceed the limit of 40"),
    "garbage": (strange_worker.GARBAGE, Reason.FAILED, r"the answer to 'run' is no frame: it begins with b'garb'"),
    "nonsense": (strange_worker.NONSENSE, Reason.FAILED, r"its worker answers nonsense: .*colour"),
}


@pytest.mark.parametrize(("deed", "reason", "told"), FAULTS.values(), ids=FAULTS)
def test_fault(start: Callable[..., RemoteDevice], digits: Artifact, deed: int, reason: Reason, told: str) -> None:
    """A worker that dies or answers nonsense is ended, and the reason is told; later calls say that it is gone."""
    device = start()
    program = device.load(digits)
    with pytest.raises(DeviceUnavailable, match=told) as caught:
        program(_picture(deed), 4)
    assert (caught.value.device, caught.value.reason) == ("odd", reason)
    assert not device.alive()
    for call in (lambda: program(_picture(strange_worker.WELL), 4), device.telemetry, lambda: device.load(digits)):
        with pytest.raises(DeviceUnavailable, match=r"odd: lost \(its worker has ended\)"):
            call()


@pytest.mark.parametrize("deed", [strange_worker.STOP, strange_worker.SLEEP], ids=["stopped", "asleep"])
def test_hang(start: Callable[..., RemoteDevice], digits: Artifact, deed: int) -> None:
    """A worker that does not answer within the device's time limit is killed."""
    device = start(time_limit_seconds=0.05)
    program = device.load(digits)
    with pytest.raises(DeviceUnavailable, match=r"odd: hung \(no answer to 'run' within 0.05 s\)") as caught:
        program(_picture(deed), 4)
    assert caught.value.reason is Reason.HUNG
    assert not device.alive()


def test_driver_raises(start: Callable[..., RemoteDevice], digits: Artifact) -> None:
    """What a driver raises arrives as it is, under the daemon's name of the device, and the worker lives on."""
    device = start()
    program = device.load(digits)
    with pytest.raises(DeviceUnavailable, match=r"odd: lost \(X_LINK_ERROR\)"):
        program(_picture(strange_worker.RAISE), 4)
    assert program(_picture(strange_worker.WELL), 4).scores[0, 0] == 63


def test_killed_between_runs(start: Callable[..., RemoteDevice], digits: Artifact) -> None:
    """A worker that is killed while it has nothing to do is missed by whoever looks, and by the next run."""
    device = start()
    program = device.load(digits)
    os.kill(device.pid, signal.SIGKILL)
    with pytest.raises(DeviceUnavailable, match=r"odd: lost \(its worker was ended by SIGKILL\)"):
        program(_picture(strange_worker.WELL), 4)
    another = start()
    os.kill(another.pid, signal.SIGKILL)
    os.waitid(os.P_PID, another.pid, os.WEXITED | os.WNOWAIT)
    assert not another.alive()


def test_chatter_is_bounded(start: Callable[..., RemoteDevice], digits: Artifact, lines: list[str]) -> None:
    """What the vendor's library writes is passed on line by line, up to so many a second."""
    device = start()
    assert device.load(digits)(_picture(strange_worker.CHATTER), 4).scores[0, 0] == 63 + strange_worker.CHATTER
    device.close()
    assert lines[:2] == ["line 0 ä", "line 1 ä"]
    assert "it writes more than is passed on" in lines
    assert len(lines) <= 4 * (remote.LINES_PER_SECOND + 1)


HELLO = f"""exec {sys.executable} -c 'import os, sys; os.write(int(sys.argv[-1]), b"hello there")' "$@" """


@pytest.mark.parametrize(
    ("script", "reason", "told"),
    [
        ("exec /nowhere/python", Reason.NO_RUNTIME, "its worker ended with status 12[67]: .*nowhere"),
        ("echo No module named numpy >&2; exit 1", Reason.NO_RUNTIME, "ended with status 1: No module named numpy"),
        (HELLO, Reason.FAILED, "its greeting is no frame: it begins with b'hell'"),
    ],
    ids=["no interpreter", "no numpy", "another language"],
)
def test_no_greeting(
    start: Callable[..., RemoteDevice], tmp_path: Path, script: str, reason: Reason, told: str
) -> None:
    """An interpreter that cannot run a worker is told with its own words."""
    with pytest.raises(DeviceUnavailable, match=told) as caught:
        start(workers.program(tmp_path, script))
    assert caught.value.reason is reason


def test_interpreter_that_is_not_there(start: Callable[..., RemoteDevice]) -> None:
    """A missing interpreter is a missing runtime, told with its path."""
    with pytest.raises(DeviceUnavailable, match=r"odd: no_runtime \(/nowhere/python: No such file") as caught:
        start("/nowhere/python")
    assert caught.value.reason is Reason.NO_RUNTIME


def test_silent_interpreter(
    start: Callable[..., RemoteDevice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter that does not greet in time is killed, with whatever it started."""
    monkeypatch.setattr(remote, "HELLO_SECONDS", 0.05)
    with pytest.raises(DeviceUnavailable, match=r"odd: hung \(.*no greeting within 0.05 s\)"):
        start(workers.program(tmp_path, "sleep 600"))


def test_another_version(start: Callable[..., RemoteDevice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of other files than the daemon's, as after an upgrade on disk, is not spoken to."""
    monkeypatch.setattr(wire, "VERSION", 99)
    with pytest.raises(DeviceUnavailable, match=r"its worker speaks 1, not 99"):
        start(workers.strange(tmp_path))


def test_dies_at_load(
    start: Callable[..., RemoteDevice], digits: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that dies as it loads an artifact is lost, not the daemon."""
    monkeypatch.setenv("DIE_AT_LOAD", str(tmp_path))
    device = start()
    with pytest.raises(DeviceUnavailable, match=r"odd: lost \(its worker was ended by SIGABRT"):
        device.load(digits)


def test_device_that_cannot_be_opened(lines: list[str]) -> None:
    """What keeps the driver from opening the device is told, and its worker does not stay."""
    before = _children()
    with pytest.raises(DeviceUnavailable, match=r"odd: failed \(ValueError: unknown driver 'toaster'"):
        RemoteDevice("toaster", "odd", time_limit_seconds=1.0, say=lines.append, threads=1, core_watts=1.0)
    assert _children() == before


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES)
def test_under_a_vendors_interpreter(
    start: Callable[..., RemoteDevice], digits: Artifact, tmp_path: Path, runtime: Runtime
) -> None:
    """The worker runs under the Python and the NumPy of each vendor's environment."""
    if not runtime.installed(default_directory()):
        pytest.skip(f"run jouled runtime install {runtime.name}")
    device = start(workers.strange(tmp_path, str(runtime.interpreter(default_directory()))))
    assert device.load(digits)(_picture(strange_worker.WELL), 4).scores.tolist() == [[63.0] + [0.0] * 9]


def test_errors_travel() -> None:
    """Each error of the layer is the same one on the other side, its texts cut to what a frame holds."""
    for error in (
        ArtifactError("digits/snn", "too strange"), CapacityError("conv3", 5120, 1024, "neurons"),
        InputError("image", "is empty"), DeviceUnavailable("chip", Reason.HUNG, "no answer"),
    ):  # fmt: skip
        arrived = worker.unpack_error(worker.pack_error(error), "chip")
        assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))
    long = worker.unpack_error(worker.pack_error(ArtifactError("x", "y" * 100_000)), "chip")
    assert len(str(long)) < 5000


def test_unknown_error_is_nonsense() -> None:
    """An error of no known kind is not taken for one."""
    with pytest.raises(KeyError):
        worker.unpack_error({"error": "SystemExit", "values": []}, "chip")


def test_artifact_in_the_worker(digits: Artifact) -> None:
    """The artifact that a driver gets in a worker has all that the daemon's has, without its parser."""
    names = list(digits.files)
    contents = [np.frombuffer(digits.files[name], np.uint8) for name in names]
    manifest = np.frombuffer(json.dumps(remote._plain(digits.manifest)).encode(), np.uint8)
    header = {
        "model": "digits", "version": "1", "variant": "snn", "digest": digits.digest, "files": names,
        "tensors": list(digits.tensors),
    }  # fmt: skip
    arrived = worker._artifact(header, [manifest, *contents, *digits.tensors.values()])
    assert (arrived.name, arrived.digest, arrived.files) == (digits.name, digits.digest, digits.files)
    assert arrived.tensors.keys() == digits.tensors.keys()
    assert remote._plain(digits.manifest) == _plain(arrived.manifest)
    assert arrived.manifest.kind is digits.manifest.kind
    assert arrived.manifest.input.shape == digits.manifest.input.shape
    assert arrived.manifest.operating_points[0].steps == digits.manifest.operating_points[0].steps


def _plain(value: Any) -> Any:
    if hasattr(value, "__dict__") and not isinstance(value, str):
        return {name: _plain(each) for name, each in vars(value).items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else getattr(value, "value", value)


def test_time_limit() -> None:
    """The limit is for what a device takes at once; what is known to take long may do so."""
    assert limit_seconds(0.5, 64, 64, 0.001) == 0.5
    assert limit_seconds(0.5, 1, 3, 0.001) == 1.5
    assert limit_seconds(0.5, 64, 3, 1.0) == 12.0
    assert limit_seconds(0.5, 64, 65, 0.001) == 1.0


def test_no_descriptor_and_no_process_stays(start: Callable[..., RemoteDevice], digits: Artifact) -> None:
    """Workers that come and go, in whatever way, leave neither a descriptor nor a thread nor a process behind."""
    start().close()
    children = _children()
    before = (len(list(Path("/proc/self/fd").iterdir())), threading.active_count())
    for deed in (strange_worker.WELL, strange_worker.ABORT, strange_worker.GARBAGE):
        device = start()
        program: RemoteProgram = device.load(digits)
        try:
            program(_picture(deed), 4)
        except DeviceUnavailable:
            assert deed != strange_worker.WELL
        device.close()
    assert (len(list(Path("/proc/self/fd").iterdir())), threading.active_count()) == before
    assert _children() == children


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}
