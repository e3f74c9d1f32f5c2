"""The calibration file: what it changes in the daemon, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from daemon import calibration
from daemon.config import DeviceConfig
from daemon.errors import ConfigError
from daemon.points import points_of
from tests.daemon.builders import Bench, make_artifact

if TYPE_CHECKING:
    from pathlib import Path

DEVICES = {"chip": DeviceConfig("loihi-sim"), "stick": DeviceConfig("ncs2-sim")}


def content(**changes: Any) -> dict[str, Any]:
    """Give the content of a file that is in order, with changes at `device/...` paths written with underscores."""
    figures = {
        "images": 100, "seconds": 2e-3, "seconds_spread": 1e-4, "dynamic_joules": 3e-7, "dynamic_joules_spread": 1e-8,
    }  # fmt: skip
    point = {
        "model": "toy", "version": "1", "variant": "snn", "digest": make_artifact().digest, "steps": 4, "margin": 0,
        "inputs": "four images", "saturated": figures, "half_load": figures, "upper_joules": 9e-7,
    }  # fmt: skip
    device = {
        "driver": "loihi-sim", "provenance": "simulated", "meters": [],
        "static_power": {"on": {"watts": 0.25, "uncertainty_watts": 0.01}}, "points": [point],
    }  # fmt: skip
    whole = {"format": 1, "tool": "test", "made_unix": 1, "host": calibration.host_mark(), "device": {"chip": device}}
    return {**whole, **changes}


def write(folder: Path, found: dict[str, Any]) -> Path:
    """Write a file."""
    path = folder / "calibration.json"
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize("soft", [False, True])
def test_figures_replace_the_models(tmp_path: Path, *, soft: bool) -> None:
    """Means and static power are the calibration's; bounds only where the operator accepts them as soft."""
    found = calibration.load(write(tmp_path, content()), DEVICES)
    bench = Bench("chip", static_watts=0.1)
    points = points_of(make_artifact(), bench, bench)
    before = points[0].upper_nanojoules
    found.apply(points, DeviceConfig("loihi-sim", calibrated_bounds=soft))
    assert points[0].dynamic_nanojoules == 300
    assert (points[0].seconds, points[0].service_seconds) == (2e-3, 2e-3)
    assert points[0].upper_nanojoules == (900 if soft else max(before, 300))
    assert found.static_watts("chip", 0.1) == 0.25
    assert found.static_watts("stick", 0.1) == 0.1


def test_another_artifact_keeps_its_figures(tmp_path: Path) -> None:
    """Figures belong to the artifact of their digest."""
    file = content()
    file["device"]["chip"]["points"][0]["digest"] = "e" * 64
    bench = Bench("chip", static_watts=0.1)
    points = points_of(make_artifact(), bench, bench)
    calibration.load(write(tmp_path, file), DEVICES).apply(points, DEVICES["chip"])
    assert points[0].dynamic_nanojoules == 100


def test_saved_is_what_is_loaded(tmp_path: Path) -> None:
    """A file that was written is read back as it was, and nothing else lies beside it."""
    path = write(tmp_path, content())
    found = calibration.load(path, DEVICES)
    calibration.save(path, found)
    assert calibration.load(path, DEVICES) == found
    assert list(tmp_path.iterdir()) == [path]


def _with_device(**changes: Any) -> dict[str, Any]:
    file = content()
    file["device"]["chip"].update(changes)
    return file


def _with_point(**changes: Any) -> dict[str, Any]:
    file = content()
    file["device"]["chip"]["points"][0].update(changes)
    return file


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (content(format=2), "format 2 is not the supported 1"),
        (content(device={"chop": content()["device"]["chip"]}), "device.chop: no such device is configured; did you"),
        (_with_device(driver="ncs2-sim"), "device.chip: calibrated with driver 'ncs2-sim', configured is 'loihi-sim'"),
        (
            _with_device(static_power={"on": {"watts": -0.1, "uncertainty_watts": 0.0}}),
            r"Expected `float` >= 0.0 - at `\$.device\[...\].static_power\[...\].watts`",
        ),
        (_with_device(static_power={}), "device.chip: static_power lacks the state 'on'"),
        (_with_point(upper_joules=1e-7), "toy/snn at 4 steps: upper_joules 1e-07 is below the mean of 3e-07"),
        (_with_point(upper_joules=-1.0), "Expected `float` >= 0.0"),
        (_with_point(colour="red"), "Object contains unknown field `colour`"),
        ({**_with_device(provenance="measured"), "host": "0" * 32}, "device.chip: calibrated on another host"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, file: dict[str, Any], reason: str) -> None:
    """The message names the file, the object and the reason."""
    path = write(tmp_path, file)
    with pytest.raises(ConfigError, match=reason) as caught:
        calibration.load(path, DEVICES)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_missing_or_no_calibration_is_refused(tmp_path: Path) -> None:
    """So are a path that leads nowhere, and text."""
    with pytest.raises(ConfigError, match="No such file"):
        calibration.load(tmp_path / "none.json", DEVICES)
    (tmp_path / "text.json").write_text("watts")
    with pytest.raises(ConfigError, match=r"text\.json: JSON is malformed"):
        calibration.load(tmp_path / "text.json", DEVICES)


def test_a_simulated_calibration_travels(tmp_path: Path) -> None:
    """What a simulator draws does not depend on the host."""
    assert calibration.load(write(tmp_path, content(host="0" * 32)), DEVICES).host == "0" * 32
