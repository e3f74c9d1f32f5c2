"""Calibration: what it finds on meters is what the device draws, and on simulators it reproduces their model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.calibrate import Bench, Power, Resident, images_of
from daemon.repository import SHIPPED
from hal import artifact, samples
from hal.device import Boundary, Cost, Inference, Kind, Provenance
from hal.energy.hwmon import find_sensors
from hal.errors import ArtifactError, HalError
from hal.loihi_sim import LoihiSim
from tests.daemon.builders import make_artifact
from tests.energy.trees import SECOND, Time, chip

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from hal.artifact import Artifact

SAMPLING = SECOND // 100
OFF_WATTS, IDLE_WATTS, BUSY_WATTS = 0.02, 0.5, 1.5
RUN_SECONDS = 0.004


class Stick:
    """A stick in simulated time, whose sensor shows what it draws."""

    name = "stick"
    driver = "loihi-sim"
    simulated = False
    provenance = Provenance.MODELLED
    boundary = Boundary.ACCELERATOR
    kind = Kind.SNN
    batch_limit = 1

    def __init__(self, sysfs: Path, time: Time) -> None:
        self._time = time
        self._sensor = chip(sysfs, 0, "ina219", "1-0040", power1_input=round(IDLE_WATTS * 1e6)) / "power1_input"
        self.images: list[int] = []
        self._on = True

    def load(self, artifact: Artifact) -> Stick:
        """Give itself: it is its own program."""
        return self

    def unload(self, artifact: Artifact) -> None:
        """Nothing to give back."""

    def static_watts(self) -> float:
        """Claim something that no meter confirms."""
        return 9.0

    def reopening(self) -> Cost:
        """Claim something that no meter confirms."""
        return Cost(1.0, 1.0, 1.0)

    def power(self, on: bool) -> None:
        """Change the power state."""
        self._on = on

    def telemetry(self) -> dict[str, float]:
        """Tell nothing."""
        return {}

    def close(self) -> None:
        """Nothing to let go of."""

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Claim something that no meter confirms."""
        return Cost(1.0, 1.0, 1.0)

    def __call__(self, images: NDArray[np.generic], steps: int, margin: int = 0) -> Inference:
        """Draw power for a while."""
        self.images.append(int(images.sum()))
        self._show(BUSY_WATTS)
        self._time.now += round(RUN_SECONDS * SECOND)
        return Inference(np.zeros((1, 2), np.float32), steps, RUN_SECONDS, 1.0, 0.0, 0.0)

    def pause(self, seconds: float) -> None:
        """Idle."""
        self._show(IDLE_WATTS if self._on else OFF_WATTS)
        self._time.now += max(round(seconds * SECOND), 1)

    def _show(self, watts: float) -> None:
        self._sensor.write_text(f"{round(watts * 1e6)}\n")


def test_a_metered_device_is_measured(tmp_path: Path) -> None:
    """Idle power and the joules of an image come from the meter, whatever the device claims."""
    time = Time()
    stick = Stick(tmp_path, time)
    power = Power(find_sensors(tmp_path, time, sampling_nanoseconds=SAMPLING), time, SAMPLING)
    told: list[str] = []
    bench = Bench(stick, power, time, stick.pause, seconds=2.0, tell=told.append)
    pictures = np.arange(8, dtype=np.uint8).reshape(4, 1, 2)
    figures = bench.measure("loihi-sim", [Resident(make_artifact(), stick, pictures, "four images")])
    assert (figures.driver, figures.provenance, figures.meters) == ("loihi-sim", "measured", ("hwmon:ina219@1-0040",))
    states = {state: power.watts for state, power in figures.static_power.items()}
    assert states == pytest.approx({"on": IDLE_WATTS, "off": OFF_WATTS}, rel=0.05)
    (point,) = figures.points
    marginal_joules = (BUSY_WATTS - IDLE_WATTS) * RUN_SECONDS
    assert point.saturated.dynamic_joules == pytest.approx(marginal_joules, rel=0.02)
    # Half of the samples of this sensor fall into a run, half into a rest.
    assert point.half_load.dynamic_joules == pytest.approx(marginal_joules, rel=0.3)
    assert point.saturated.seconds == RUN_SECONDS
    assert point.upper_joules >= 2.5 * marginal_joules * 0.97
    assert point.saturated.images == pytest.approx(2.0 / RUN_SECONDS, abs=1)
    assert stick.images[:5] == [1, 5, 9, 13, 1]
    assert told == ["idle", "powered down", "toy/1/snn at 4 steps"]


def test_a_meter_that_says_nothing_is_an_error(tmp_path: Path) -> None:
    """No figure is made up where a meter gave none."""
    time = Time()
    stick = Stick(tmp_path, time)
    power = Power(find_sensors(tmp_path, time, sampling_nanoseconds=SAMPLING), time, SAMPLING)
    (tmp_path / "class" / "hwmon" / "hwmon0" / "power1_input").unlink()
    bench = Bench(stick, power, time, lambda seconds: _advance(time, seconds), seconds=1.0, tell=lambda _: None)
    with pytest.raises(HalError, match=r"gave no figure within 0\.\d+ s; measure for longer"):
        bench.measure("loihi-sim", [])


def _advance(time: Time, seconds: float) -> None:
    time.now += max(round(seconds * SECOND), 1)


class Ticking(Time):
    """Time that passes by a microsecond with each look at it, also where the host simulates slower than the chip."""

    def __call__(self) -> int:
        """Look at the clock."""
        self.now += SECOND // 1_000_000
        return super().__call__()


def test_a_simulator_reproduces_its_model() -> None:
    """The mean over an artifact's samples is what its model says, bound and static power are the model's."""
    time, shipped = Ticking(), artifact.read(SHIPPED / "digits" / "1" / "snn")
    chip_sim = LoihiSim("chip", pause=lambda seconds: _advance(time, seconds))
    program = chip_sim.load(shipped)
    images, inputs = images_of(shipped, {})
    bench = Bench(
        chip_sim, Power([], time, SAMPLING), time, lambda seconds: _advance(time, seconds),
        seconds=1e-6, tell=lambda _: None,
    )  # fmt: skip
    figures = bench.measure("loihi-sim", [Resident(shipped, program, images, inputs)])
    assert (figures.provenance, figures.meters, inputs) == ("simulated", (), "the artifact's samples")
    assert figures.static_power["on"].watts == chip_sim.static_watts()
    assert [(point.steps, point.margin) for point in figures.points] == [
        (point.steps, point.margin) for point in shipped.manifest.operating_points
    ]
    for point in figures.points:
        whole = program(images, point.steps, point.margin)
        assert point.saturated.dynamic_joules == pytest.approx(whole.dynamic_joules / len(images), rel=1e-9)
        expected = program.cost(point.steps, point.margin)
        # The samples are 32 of the 360 images that the manifest's mean is of.
        assert point.saturated.dynamic_joules == pytest.approx(expected.dynamic_joules, rel=0.2)
        assert point.upper_joules <= expected.upper_joules


def test_which_images_run() -> None:
    """Those given for the model come first, then the artifact's samples, then noise of the input's type."""
    toy = make_artifact()
    given = np.zeros((3, 1, 2), np.uint8)
    assert images_of(toy, {"toy": given}) == (given, "the images given")
    noise, inputs = images_of(toy, {})
    assert noise.shape == (8, 1, 2)
    assert noise.dtype == np.uint8
    assert "noise" in inputs
    carried = replace(toy, files={samples.SAMPLES: samples.pack(given)})
    assert images_of(carried, {})[1] == "the artifact's samples"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"nothing", samples.pack(np.zeros((3, 2, 2), np.uint8)), samples.pack(np.zeros((3, 1, 2), np.float32)),
        samples.pack(np.zeros((0, 1, 2), np.uint8)), samples.pack(np.zeros((65, 1, 2), np.uint8)),
    ],
)  # fmt: skip
def test_samples_that_do_not_fit_are_refused(content: bytes) -> None:
    """Wrong shape, type, number, or no array at all."""
    with pytest.raises(ArtifactError, match=r"toy/snn: samples\.npy"):
        samples.read(replace(make_artifact(), files={samples.SAMPLES: content}))
