"""Tuning finds less energy for as much accuracy, goes on where it stopped, and writes nothing when it fails."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from daemon.cli.main import app
from hal import artifact
from hal.loihi_sim import LoihiSim
from models.data import calibration
from tests.models.networks import write_digits

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

TRIALS = 8
STEPS_OF_THE_REPORT = [
    "untuned: percentile, potentials at 0", "1: thresholds, potentials and biases", "2: fewest time steps", "search",
]  # fmt: skip


def _run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a network, and tune it in two runs, the first of which ends early."""
    folder = tmp_path_factory.mktemp("tune")
    network, data = write_digits(folder, "average")
    said = _run("compile", network, "--calibration", data, "--out", folder / "zoo", "--steps", 16, "--images", 300)
    assert said.exit_code == 0, said.stderr
    for trials, version in ((TRIALS // 2, 2), (TRIALS, 3)):
        said = _tune(folder, version, trials)
        assert said.exit_code == 0, said.stderr
    (folder / "said.json").write_text(said.stdout)
    return folder


def _tune(folder: Path, version: int, trials: int, *arguments: object) -> Result:
    places = ("--report", folder / "report", "--out", folder / f"zoo/digits/{version}")
    effort = ("--trials", trials, "--images", 300, "--max-loss", 2)
    data = folder / "digits.npz"
    return _run("tune", folder / "zoo/digits/1", "--calibration", data, *places, *effort, "--json", *arguments)


def test_report(place: Path) -> None:
    """The report has the steps, all trials of both runs, and a plot as a picture and in a page."""
    said: Any = json.loads((place / "said.json").read_text())
    assert [row["step"] for row in said["rows"]] == STEPS_OF_THE_REPORT
    assert len(said["trials"]) == TRIALS
    assert said["energy_ratio"] == pytest.approx(said["rows"][0]["dynamic_joules"] / said["rows"][-1]["dynamic_joules"])
    for row in said["rows"]:
        assert row["total_joules"] == pytest.approx(
            row["dynamic_joules"] + row["static_watts"] * row["latency_seconds"]
        )
        assert row["dynamic_watts"] == pytest.approx(row["dynamic_joules"] / row["latency_seconds"])
    assert any(trial["best"] for trial in said["trials"])
    del said["artifacts"]
    assert json.loads((place / "report/report.json").read_text()) == said
    assert "| search |" in (place / "report/report.md").read_text()
    assert (place / "report/pareto.png").read_bytes().startswith(b"\x89PNG")
    page = (place / "report/pareto.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


def test_energy_falls(place: Path) -> None:
    """The search takes no more dynamic energy than the fewest steps without it, and stays as accurate."""
    rows = json.loads((place / "said.json").read_text())["rows"]
    assert rows[-1]["dynamic_joules"] <= rows[2]["dynamic_joules"]
    assert rows[-1]["accuracy"] > rows[2]["accuracy"] - 0.02


def test_claims_of_the_tuned_artifact(place: Path) -> None:
    """The simulated chip is as accurate as each operating point that was written; dense variants are copies."""
    tuned = artifact.read(place / "zoo/digits/3/snn")
    held_out = calibration.load(place / "digits.npz", (1, 8, 8)).held_out
    chip = LoihiSim("chip", pause=lambda _seconds: None).load(tuned)
    for point in tuned.manifest.operating_points:
        scores = chip(held_out.pixels.reshape(-1, 8, 8), point.steps, point.margin).scores
        assert float(np.mean(scores.argmax(axis=1) == held_out.labels)) == point.accuracy
    searched = json.loads((place / "said.json").read_text())["rows"][-1]
    assert (searched["steps"], searched["margin"]) in {
        (point.steps, point.margin) for point in tuned.manifest.operating_points
    }
    for name in ("dnn", "dnn-int8"):
        assert (
            artifact.read(place / "zoo/digits/3" / name).digest == artifact.read(place / "zoo/digits/1" / name).digest
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--report", "other", "--min-accuracy", "1.0"], "accuracy: 100.00 % on the calibration images is not reached"),
        (["--longest", "15"], "holds the search of another network, data set or limit; name another folder"),
        (["--out", "zoo/digits/1"], "exists already"),
    ],
)  # fmt: skip
def test_refused(place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    """An accuracy that cannot be met, a search for something else, or a version that exists: nothing is written."""
    monkeypatch.chdir(place)
    said = _tune(place, 9, 2, *arguments)
    assert (said.exit_code, said.stdout) == (1, "")
    assert message in said.stderr
    assert sorted(path.name for path in (place / "zoo/digits").iterdir()) == ["1", "2", "3"]
