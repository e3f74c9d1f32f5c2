"""Each command against a running daemon: what people read, what programs read, and how it ends."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from daemon.repository import SHIPPED
from daemon.version import VERSION
from hal import artifact
from tests.daemon.serving import best, cheapest, may_take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Jouled
    from tests.daemon.serving import Daemon


def test_version(jouled: Jouled) -> None:
    """The release is printed without any command."""
    assert jouled("--version").out == f"{VERSION}\n"


def test_program_is_installed() -> None:
    """The program exists under its name, and its answer is the release alone."""
    program = shutil.which("jouled", path=f"{sys.prefix}/bin")
    assert program is not None
    assert subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout == f"{VERSION}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["policy", "--help"], ["classify", "--help"], []])
def test_help(jouled: Jouled, arguments: list[str]) -> None:
    """Help is there for the program and for each command, and for who says nothing."""
    said = jouled(*arguments)
    assert "Usage:" in said.out + said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["clasify"],
        ["classify", "digits"],
        ["policy", "set"],
        ["devices", "--jsn"],
        ["energy", "one"],
        ["energy", "--since", "soon"],
        ["demo", "--rate", "0"],
    ],
)
def test_wrong_usage(jouled: Jouled, arguments: list[str]) -> None:
    """A command that cannot be understood ends with 2 and says what was expected."""
    said = jouled(*arguments)
    assert (said.status, said.out) == (2, "")
    assert said.err


def test_status(jouled: Jouled) -> None:
    """The status shows the policy and the budget with units."""
    said = jouled("status")
    assert said.status == 0
    assert f"jouled {VERSION}, up " in said.out
    assert "policy accurate" in said.out
    assert "budget 1000 J in any 10 s: static " in said.out


def test_status_as_json(jouled: Jouled) -> None:
    """Whole numbers are numbers, times and energies carry their units in their names."""
    found = jouled("status", "--json").json
    assert (found["version"], found["policy"], found["journal_gaps"]) == (VERSION, "accurate", 0)
    assert found["budget"]["limit_nanojoules"] == 1000 * 10**9
    assert found["budget"]["window_seconds"] == 10.0
    assert isinstance(found["budget"]["spent_nanojoules"], int)


def test_devices(jouled: Jouled) -> None:
    """The devices are listed with what they are and what they draw."""
    said = jouled("devices")
    assert said.status == 0
    line, reason = [line for line in said.out.splitlines() if "ncs2-sim" in line]
    assert reason == "ncs2-sim: modelled, no meter accounts for it"
    assert line.split() == ["ncs2-sim", "ncs2-sim", "simulated", "up", "on", "0.496", "0", "digits/1/dnn"]


def test_devices_as_json(jouled: Jouled) -> None:
    """The same for programs."""
    found = {device["name"]: device for device in jouled("devices", "--json").json}
    assert set(found) == {"loihi-sim", "ncs2-sim", "cpu"}
    assert {name: device["simulated"] for name, device in found.items()} == {
        "loihi-sim": True, "ncs2-sim": True, "cpu": False,
    }  # fmt: skip
    assert found["loihi-sim"]["programs"] == ["digits/1/snn"]
    assert found["cpu"]["static_watts"] == 0.0


def test_policy_list(jouled: Jouled) -> None:
    """The policies are listed, the one in force is marked."""
    said = jouled("policy", "list")
    assert said.status == 0
    (marked,) = [line for line in said.out.splitlines() if "*" in line]
    assert "accurate" in marked
    (frugal,) = [line for line in said.out.splitlines() if "frugal" in line]
    assert frugal.split() == ["frugal", "saver", "50", "5", "0.9"]


def test_policy_list_as_json(jouled: Jouled) -> None:
    """The same for programs."""
    found = {policy["name"]: policy for policy in jouled("policy", "list", "--json").json}
    assert list(found) == ["accurate", "frugal", "nothing"]
    assert [name for name, policy in found.items() if policy["in_force"]] == ["accurate"]
    assert found["frugal"]["window_seconds"] == 5.0


def test_reload(jouled: Jouled) -> None:
    """The configuration is read again; where it is as it was, nothing changes."""
    assert jouled("reload").out == "policy accurate is in force\n"
    assert jouled("reload", "--json").json == {
        "policy": "accurate", "added": [], "removed": [], "changed": [], "needs_restart": [],
    }  # fmt: skip


def test_policy_show(jouled: Jouled) -> None:
    """One policy, the one in force where none is named."""
    assert [policy["name"] for policy in jouled("policy", "show", "--json").json] == ["accurate"]
    assert [policy["name"] for policy in jouled("policy", "show", "frugal", "--json").json] == ["frugal"]
    assert "frugal" in jouled("policy", "show", "frugal").out


def test_policy_show_of_an_unknown_one(jouled: Jouled) -> None:
    """A policy that does not exist is refused; those that exist are named."""
    said = jouled("policy", "show", "generous")
    assert (said.status, said.out) == (1, "")
    assert said.err == "jouled: no policy 'generous'; known are accurate, frugal, nothing\n"


@pytest.fixture
def restored(jouled: Jouled) -> Iterator[Jouled]:
    """Put the first policy back in force after the test."""
    yield jouled
    jouled("policy", "set", "accurate")


def test_policy_set(restored: Jouled, pictures: list[Path]) -> None:
    """The next answer is served under the policy that the operator put in force."""
    assert restored("policy", "set", "frugal").out == "policy frugal is in force, before it was accurate\n"
    assert restored("classify", "digits", pictures[0], "--json").json[0]["policy"] == "frugal"
    assert restored("policy", "set", "accurate", "--json").json == {"policy": "accurate", "previous": "frugal"}


def test_policy_set_of_an_unknown_one(jouled: Jouled) -> None:
    """The daemon's refusal is passed on."""
    said = jouled("policy", "set", "generous")
    assert (said.status, said.out) == (1, "")
    assert said.err == "jouled: NOT_FOUND: no policy 'generous'; known are accurate, frugal, nothing\n"


def test_classify(jouled: Jouled, daemon: Daemon, pictures: list[Path]) -> None:
    """Each image gets its label and what it cost, with how that is known."""
    point = best(daemon.points())
    said = jouled("classify", "digits", *pictures)
    assert said.status == 0
    lines = said.out.splitlines()
    assert len(lines) == 6
    for picture, label, details in zip(pictures, lines[::2], lines[1::2], strict=True):
        assert label.startswith(f"{picture}: {picture.stem} (")
        assert f"{point.variant} on {point.device}, " in details
        steps = re.search(r" (\d+) steps, policy accurate, request ", details)
        assert steps is not None
        assert may_take(point, int(steps[1]))
        assert details.endswith(f"{point.provenance}, provisional")


def test_classify_as_json(jouled: Jouled, pictures: list[Path]) -> None:
    """The same for programs, as a list even of one."""
    (found,) = jouled("classify", "digits", pictures[1], "--top", 3, "--json").json
    assert found["image"] == str(pictures[1])
    assert found["labels"][0]["name"] == pictures[1].stem
    assert len(found["labels"]) == 3
    assert found["energy"]["provenance"] in {"simulated", "modelled"}
    assert isinstance(found["energy"]["dynamic_nanojoules"], int)


def test_classify_with_constraints(jouled: Jouled, daemon: Daemon, pictures: list[Path]) -> None:
    """Allowed joules and needed accuracy reach the router."""
    point = cheapest(daemon.points())
    allowed = point.dynamic_joules * 1.0001
    (frugal,) = jouled("classify", "digits", pictures[0], "--max-energy-joules", allowed, "--json").json
    assert (frugal["device"], frugal["steps"]) == (point.device, point.steps)
    said = jouled("classify", "digits", pictures[0], "--min-accuracy", 0.9999)
    assert (said.status, said.out) == (1, "")
    assert said.err == "jouled: FAILED_PRECONDITION: no operating point meets the constraints under policy 'accurate'\n"


def test_classify_over_tcp(jouled: Jouled, daemon: Daemon, pictures: list[Path]) -> None:
    """The daemon may be reached at HOST:PORT."""
    found = jouled("classify", "digits", pictures[0], "--address", daemon.address, "--json").json
    assert found[0]["labels"][0]["name"] == "0"


def test_classify_without_a_budget(restored: Jouled, pictures: list[Path]) -> None:
    """A refusal for want of energy says so."""
    restored("policy", "set", "nothing")
    said = restored("classify", "digits", pictures[0])
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("jouled: RESOURCE_EXHAUSTED: policy 'nothing': the power budget has no room")


def test_classify_what_is_no_image(jouled: Jouled, tmp_path: Path) -> None:
    """A file that is no image is refused by the daemon, one that is not there by the command."""
    text = tmp_path / "text.png"
    text.write_text("not an image")
    said = jouled("classify", "digits", text)
    assert said.status == 1
    assert "image: is not a readable PNG or JPEG image (12 bytes)" in said.err
    missing = jouled("classify", "digits", tmp_path / "missing.png")
    assert (missing.status, missing.err) == (1, f"jouled: {tmp_path / 'missing.png'}: No such file or directory\n")


def test_classify_with_an_unknown_model(jouled: Jouled, pictures: list[Path]) -> None:
    """A model that is not served is refused by its name."""
    said = jouled("classify", "letters", pictures[0])
    assert (said.status, said.err) == (1, "jouled: NOT_FOUND: no model 'letters'; known are digits\n")


def test_energy(jouled: Jouled, pictures: list[Path]) -> None:
    """The summary has a row for each policy, variant, device and end."""
    jouled("classify", "digits", pictures[0])
    said = jouled("energy")
    assert said.status == 0
    assert [line for line in said.out.splitlines() if "accurate" in line and "digits/" in line and "ok" in line]


def test_energy_of_one_request(jouled: Jouled, pictures: list[Path]) -> None:
    """What a request cost is looked up by the number in its answer."""
    (answer,) = jouled("classify", "digits", pictures[0], "--json").json
    found = jouled("energy", answer["request_id"], "--json").json
    assert found["energy"]["dynamic_nanojoules"] == answer["energy"]["dynamic_nanojoules"]
    assert (found["energy"]["state"], answer["energy"]["state"]) == ("final", "provisional")
    assert found["row"]["policy"] == "accurate"
    assert f"digits/{answer['variant']}" in jouled("energy", answer["request_id"]).out


def test_energy_of_an_unknown_request(jouled: Jouled) -> None:
    """A number that no request has is refused."""
    said = jouled("energy", 10**12)
    assert (said.status, said.err) == (1, f"jouled: NOT_FOUND: no request {10**12} in the journal\n")


def test_energy_since(jouled: Jouled, pictures: list[Path]) -> None:
    """A sum may be limited to what was accepted lately."""
    jouled("classify", "digits", pictures[0])
    everything = jouled("energy", "--json").json["rows"]
    today = jouled("energy", "--since", "1d", "--json").json["rows"]
    assert today == everything
    assert sum(row["requests"] for row in everything) > 0
    assert jouled("energy", "--since", "0s", "--json").json["rows"] == []


def test_models_list(jouled: Jouled, daemon: Daemon) -> None:
    """The operating points are listed with their accuracy and cost."""
    steps = [point.steps for point in daemon.points() if point.variant == "snn"]
    said = jouled("models", "list")
    assert said.status == 0
    assert len([line for line in said.out.splitlines() if "digits/1/snn" in line]) == len(steps)
    assert len([line for line in said.out.splitlines() if "digits/1/dnn" in line]) == 2


def test_models_list_as_json(jouled: Jouled) -> None:
    """The same for programs."""
    (model,) = jouled("models", "list", "--json").json
    assert (model["name"], model["version"], model["problems"]) == ("digits", "1", [])
    assert {(point["variant"], point["device"]) for point in model["points"]} == {
        ("snn", "loihi-sim"), ("dnn", "ncs2-sim"), ("dnn", "cpu"),
    }  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Give a copy of the shipped repository."""
    shutil.copytree(SHIPPED, tmp_path / "zoo")
    return tmp_path / "zoo"


def test_models_inspect(jouled: Jouled, copy: Path) -> None:
    """An artifact says what it is, what it takes and where it comes from, without a daemon."""
    folder = copy / "digits" / "1" / "snn"
    said = jouled("models", "inspect", folder)
    assert said.status == 0
    assert said.out.splitlines()[0] == f"digits/1/snn: snn, digest {artifact.read(folder).digest}"
    assert "input image uint8 [8, 8]" in said.out
    found = jouled("models", "inspect", folder, "--json").json
    assert found["digest"] == artifact.read(folder).digest
    assert found["labels"] == list("0123456789")


def test_models_inspect_of_what_is_none(jouled: Jouled, copy: Path) -> None:
    """What is no artifact, or an altered one, is refused by its name and the reason."""
    said = jouled("models", "inspect", copy / "digits")
    assert (said.status, said.out) == (1, "")
    altered = copy / "digits" / "1" / "snn" / "network.json"
    altered.write_text(altered.read_text() + " ")
    said = jouled("models", "inspect", altered.parent)
    assert said.status == 1
    assert said.err.startswith("jouled: digits/1/snn: network.json has SHA-256 ")


def test_import_without_the_extra(tmp_path: Path) -> None:
    """A module that the daemon does without is named with the way to install it."""
    script = "import sys; sys.modules['h5py'] = None; from daemon.cli.main import run; run()"
    command = [sys.executable, "-c", script, "import", str(tmp_path / "toy.net"), "--out", str(tmp_path)]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith(
        "jouled: this command needs the module h5py of the extra 'compile'; in a clone: .venv/"
    )
    assert "uv sync --frozen --inexact --extra compile" in said.stderr


def test_models_verify(jouled: Jouled, copy: Path) -> None:
    """A whole repository is whole, the shipped one where none is named."""
    assert jouled("models", "verify").status == 0
    found = jouled("models", "verify", copy, "--json").json
    assert [(row["artifact"], row["problem"]) for row in found] == [("digits/1/dnn", ""), ("digits/1/snn", "")]


def test_models_verify_of_a_broken_repository(jouled: Jouled, copy: Path) -> None:
    """One flipped bit is found, named, and makes the command fail; so do an empty and a missing repository."""
    weights = copy / "digits" / "1" / "dnn" / "model.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    said = jouled("models", "verify", copy)
    assert said.status == 1
    (line,) = [line for line in said.out.splitlines() if "digits/1/dnn" in line]
    assert "model.bin has SHA-256" in line
    assert [line for line in said.out.splitlines() if "digits/1/snn" in line and "whole" in line]
    empty = copy / "empty"
    empty.mkdir()
    assert jouled("models", "verify", empty).err == f"jouled: {empty}: no artifact in it\n"
    assert jouled("models", "verify", copy / "missing").status == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"], ["devices"], ["policy", "list"], ["policy", "show"], ["policy", "set", "frugal"], ["energy"],
        ["energy", "1"], ["models", "list"], ["status", "--json"],
    ],
)  # fmt: skip
def test_no_daemon(jouled: Jouled, tmp_path: Path, arguments: list[str]) -> None:
    """Without a daemon every command ends with 3, says where it looked, and what would help."""
    said = jouled(*arguments, runtime=tmp_path)
    assert (said.status, said.out) == (3, "")
    assert said.err == f"jouled: no daemon answers at {tmp_path}; start one with: jouled serve\n"


def test_no_daemon_to_classify(jouled: Jouled, tmp_path: Path, pictures: list[Path]) -> None:
    """The same for the command that clients use."""
    said = jouled("classify", "digits", pictures[0], runtime=tmp_path)
    assert (said.status, said.out) == (3, "")
    assert said.err == f"jouled: no daemon answers at unix:{tmp_path / 'jouled.sock'}; start one with: jouled serve\n"


def test_broken_configuration_ends_serve(tmp_path: Path) -> None:
    """The daemon is started by the same program: one that cannot start is a refused command."""
    command = [sys.executable, "-m", "daemon.cli.main", "serve", "--config", str(tmp_path / "missing.toml")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"jouled: {tmp_path / 'missing.toml'}: No such file or directory\n"


def test_models_load_and_unload(jouled: Jouled) -> None:
    """A model goes and comes back; one that is not there is refused with the nearest name."""
    before = jouled("models", "list", "--json").json
    try:
        said = jouled("models", "unload", "digits")
        assert (said.status, said.out) == (0, "digits is not served any more\n")
        assert jouled("models", "list", "--json").json == []
    finally:
        said = jouled("models", "load", "digits")
    assert said.out == f"digits/1: {len(before[0]['points'])} operating points\n"
    assert jouled("models", "load", "digits", "--json").json == jouled("models", "list", "--json").json
    refused = jouled("models", "load", "digts")
    assert (refused.status, refused.out) == (1, "")
    assert "no model 'digts' in the repository; did you mean 'digits'?" in refused.err
