"""`jouled calibrate`, and the daemon that uses what it wrote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.daemon.serving import configuration, places, refuses_to_start, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Jouled

DEVICES = """
[device.chip]
driver = "loihi-sim"
calibrated_bounds = true
[device.stick]
driver = "ncs2-sim"
"""
POLICY = """
[policy.plain]
strategy = "accuracy"
budget_watts = 10.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a configuration of two simulators."""
    path = tmp_path / "jouled.toml"
    path.write_text(configuration(POLICY, start="plain", devices=DEVICES))
    return path


def test_the_daemon_uses_what_was_calibrated(jouled: Jouled, file: Path, tmp_path: Path) -> None:
    """Figures and bounds of the file are those by which the daemon decides."""
    out = tmp_path / "calibration.json"
    arguments = ("calibrate", "--config", file, "--out", out, "--seconds", 0.01)
    said = jouled(*arguments, "--json", runtime=tmp_path / "run")
    assert said.json == json.loads(out.read_text())
    figures = said.json["device"]
    assert {name: each["provenance"] for name, each in figures.items()} == {"chip": "simulated", "stick": "simulated"}
    calibrated = f'calibration = "{out}"\n' + file.read_text()
    with running(calibrated) as daemon:
        known = {(point.device, point.steps, point.margin): point for point in daemon.points()}
        for device, each in figures.items():
            for point in each["points"]:
                served = known[device, point["steps"], point["margin"]]
                assert served.dynamic_joules == pytest.approx(point["saturated"]["dynamic_joules"], abs=1e-9)
                if device == "chip":
                    assert served.upper_joules == pytest.approx(point["upper_joules"], abs=1e-9)


def test_one_device_keeps_the_figures_of_the_other(jouled: Jouled, file: Path, tmp_path: Path) -> None:
    """Calibrating one device anew leaves what the file says of the others, and prints a table."""
    out = tmp_path / "calibration.json"
    arguments = ("calibrate", "--config", file, "--out", out, "--seconds", 0.01)
    first = jouled(*arguments, "--device", "stick", runtime=tmp_path / "run")
    assert (first.status, "stick: 0.496 W +- 0 W when idle, simulated" in first.out) == (0, True)
    before = json.loads(out.read_text())["device"]
    assert jouled(*arguments, "--device", "chip", runtime=tmp_path / "run").status == 0
    after = json.loads(out.read_text())["device"]
    assert (list(before), after["stick"]) == (["stick"], before["stick"])
    assert set(after) == {"chip", "stick"}


def test_an_unknown_device_is_refused(jouled: Jouled, file: Path, tmp_path: Path) -> None:
    """The nearest name is suggested, nothing is written."""
    said = jouled("calibrate", "--config", file, "--out", tmp_path / "c.json", "--device", "stik", runtime=tmp_path)
    assert (said.status, said.err) == (1, f"jouled: {file}: no device 'stik'; did you mean 'stick'?\n")
    assert not (tmp_path / "c.json").exists()


def test_it_keeps_off_a_running_daemon(jouled: Jouled, file: Path) -> None:
    """The requests of a daemon would be measured too."""
    with running(file.read_text()) as daemon:
        said = jouled("calibrate", "--config", file, runtime=daemon.places.runtime)
    assert said.status == 1
    assert "another daemon has its sockets here" in said.err


def test_a_daemon_refuses_the_calibration_of_another_device(jouled: Jouled, file: Path, tmp_path: Path) -> None:
    """It does not start, and says which device and why."""
    out = tmp_path / "calibration.json"
    assert jouled(
        "calibrate", "--config", file, "--out", out, "--seconds", 0.01, "--device", "chip", runtime=tmp_path / "run"
    ).status == 0  # fmt: skip
    swapped = f'calibration = "{out}"\n' + file.read_text().replace('"loihi-sim"', '"ncs2-sim"')
    with places() as place:
        said = refuses_to_start(swapped, place)
    assert said.endswith(f"{out}: device.chip: calibrated with driver 'loihi-sim', configured is 'ncs2-sim'")
