"""`jouled energy` by kind and over time."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Jouled
    from tests.daemon.serving import Daemon

ENERGIES = ("dynamic_nanojoules", "static_nanojoules", "requests")


@pytest.fixture(autouse=True)
def _some_requests(jouled: Jouled, pictures: list[Path]) -> None:
    """Let there be something to sum."""
    jouled("classify", "digits", *pictures)


@pytest.mark.parametrize("by", ["time", "model", "variant", "device", "policy"])
def test_parts_add_up_to_the_whole(jouled: Jouled, by: str) -> None:
    """Whatever sums are told apart by, they are of the same requests."""
    whole = jouled("energy", "--since", "1d", "--json").json["rows"]
    parts = jouled("energy", "--since", "1d", "--by", by, "--json").json["rows"]
    for field in ENERGIES:
        assert sum(row[field] for row in parts) == sum(row[field] for row in whole)
    names = [row[{"time": "begin_unix_nanoseconds"}.get(by, by)] for row in parts]
    assert len(set(names)) == len(names)


def test_bars_are_as_long_as_their_energy(jouled: Jouled) -> None:
    """The row of the most energy has the longest bar."""
    said = jouled("energy", "--by", "policy")
    assert (said.status, said.err) == (0, "")
    (row,) = [line for line in said.out.splitlines() if "accurate" in line]
    assert row.count("█") == 40


def test_steps_of_time_are_chosen_and_given(jouled: Jouled) -> None:
    """A day falls into hours unless told otherwise; a step begins at a whole multiple of its length."""
    for step, seconds in (((), 3600), (("--step", "10m"), 600), (("--step", "70s"), 70)):
        rows = jouled("energy", "--since", "1d", "--by", "time", *step, "--json").json["rows"]
        assert rows
        assert all(row["begin_unix_nanoseconds"] % (seconds * 10**9) == 0 for row in rows)


def test_csv_has_every_column(jouled: Jouled) -> None:
    """Programs read the same rows as from JSON."""
    lines = list(csv.DictReader(io.StringIO(jouled("energy", "--by", "device", "--csv").out)))
    rows = jouled("energy", "--by", "device", "--json").json["rows"]
    assert [{key: str(value) for key, value in row.items()} for row in rows] == lines


def test_the_plot_becomes_a_picture(jouled: Jouled, tmp_path: Path) -> None:
    """The picture is a PNG that shows more than its ground."""
    said = jouled("energy", "--by", "variant", "--png", tmp_path / "energy.png")
    assert said.status == 0
    picture = Image.open(tmp_path / "energy.png")
    assert picture.format == "PNG"
    assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--png", "x.png"], "--png needs --by"),
        (["--by", "device", "--step", "1h"], "--step needs --by time"),
        (["--by", "time"], "--by time needs --since"),
        (["--by", "time", "--since", "1d", "--step", "0s"], "a step is a second at least"),
        (["--by", "time", "--since", "30d", "--step", "1s"], "there are 10000 at most"),
        (["--by", "colour"], "Invalid value for '--by'"),
    ],
)
def test_wrong_usage(jouled: Jouled, arguments: list[str], complaint: str) -> None:
    """What does not go together is refused in a sentence."""
    said = jouled("energy", *arguments)
    assert said.status == 2
    assert complaint in said.err


def test_replay_under_the_policy_in_force(jouled: Jouled, daemon: Daemon) -> None:
    """What was recorded a moment ago comes out as it was; a policy of nothing answers nothing."""
    place = daemon.places
    replay = (
        "energy", "replay", "--since", "1h", "--config", place.folder / "jouled.toml", "--state-directory", place.state,
        "--json",
    )  # fmt: skip
    jouled("energy")
    found = jouled(*replay, "--policy", "accurate").json
    recorded, replayed = found["recorded"], found["replayed"]
    assert "accurate" in recorded["policies"]
    assert replayed["statuses"]["ok"] >= recorded["statuses"]["ok"] > 0
    assert replayed["joules"] == pytest.approx(recorded["joules"], rel=0.02)
    nothing = jouled(*replay, "--policy", "nothing").json["replayed"]
    assert (nothing["dynamic_joules"], nothing["statuses"].get("ok", 0)) == (0.0, 0)
    said = jouled(*replay[:-1], "--policy", "accurate")
    assert "replayed, simulated" in said.out
    said = jouled(*replay, "--policy", "acurate")
    assert (said.status, "no policy 'acurate'; did you mean 'accurate'?" in said.err) == (1, True)
