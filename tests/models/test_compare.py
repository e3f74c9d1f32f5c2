"""The study's table: every figure follows from the others, and stands beside its source and the published ratios."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.repository import SHIPPED
from hal import artifact
from hal.energy import ncs2
from models.data import digits

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import Result

KEYS = {
    "variant", "device", "steps", "accuracy", "latency_seconds", "static_watts", "dynamic_watts", "dynamic_joules",
    "total_joules", "provenance",
}  # fmt: skip


def _compare(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the held-out digits as a folder of pictures."""
    folder = tmp_path_factory.mktemp("data")
    _, held_out = digits.load()
    for index, (image, label) in enumerate(zip(held_out.images, held_out.labels, strict=True)):
        (folder / "test" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(image)).save(folder / "test" / str(label) / f"{index}.png")
    return folder


def _json(*arguments: object) -> Any:
    said = _compare(*arguments, "--json")
    assert (said.exit_code, said.stderr) == (0, "")
    return json.loads(said.stdout)


def test_figures_follow_from_one_another(data: Path) -> None:
    """Every row has exactly its keys, and power, time and energy agree; so do the ratios."""
    found = _json("digits", "--data", data)
    assert set(found) == {"model", "images", "rows", "ratios"}
    assert (found["model"], found["images"]) == ("digits/1", 360)
    for row in found["rows"]:
        assert set(row) == KEYS
        assert row["provenance"].startswith("simulated: ")
        assert row["dynamic_joules"] == pytest.approx(row["dynamic_watts"] * row["latency_seconds"])
        assert row["total_joules"] == pytest.approx(
            row["dynamic_joules"] + row["static_watts"] * row["latency_seconds"]
        )
    ratios = found["ratios"]
    assert ratios["energy"] == pytest.approx(ratios["power"] * ratios["latency"])
    assert ratios["power"] > 1
    assert ratios["energy"] > 1
    dense = found["rows"][-1]
    assert (dense["variant"], dense["device"], dense["static_watts"]) == ("dnn", "ncs2-sim", ncs2.IDLE_WATTS)


def test_images_confirm_the_manifest(data: Path) -> None:
    """What is run has the accuracy and energy that the manifest claims of the same images."""
    run, claimed = _json("digits", "--data", data), _json("digits")
    assert claimed["images"] == 0
    points = artifact.read(SHIPPED / "digits" / "1" / "snn").manifest.operating_points
    for one, other, point in zip(run["rows"], claimed["rows"], points, strict=False):
        assert one["accuracy"] == other["accuracy"] == point.accuracy
        assert one["dynamic_joules"] == pytest.approx(other["dynamic_joules"])
        assert one["steps"] == other["steps"] == point.steps


def test_text_and_files(tmp_path: Path) -> None:
    """People read a table, the published ratios and the reasons; the files hold the same."""
    said = _compare(SHIPPED / "digits" / "1", "--out", tmp_path / "out")
    assert said.exit_code == 0
    for words in ("published, headline, up to", "27.00", "20.64", "4.10", "the direction is as published", "SANA-FE"):
        assert words in said.stdout
    assert json.loads((tmp_path / "out/compare.json").read_text()) == _json("digits")
    text = (tmp_path / "out/compare.md").read_text()
    assert "| published, ASL digits | 20.64 | 4.10 | 0.20 |" in text
    assert "neither the host that feeds a board" in text
    assert (tmp_path / "out/compare.png").read_bytes().startswith(b"\x89PNG")


def test_refused(tmp_path: Path, data: Path) -> None:
    """A model that is not there, one without the two kinds, or images that do not fit are named."""
    said = _compare("digit")
    assert (said.exit_code, said.stderr) == (1, "jouled: digit: no such model; did you mean 'digits'?\n")
    (tmp_path / "toy" / "1").mkdir(parents=True)
    assert "toy/1: has no variant of kind snn" in _compare(tmp_path / "toy" / "1").stderr
    assert "holds no test images" in _compare("digits", "--data", tmp_path).stderr
    (data / "test" / "x").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / "test" / "x" / "0.png")
    assert "has a label 10, digits/dnn has 10 classes" in _compare("digits", "--data", data).stderr
