"""The tutorial's commands, in order, in a new folder; a network made here stands for the one that PyTorch exports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.serving import running
from tests.models.networks import write_digits

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", re.DOTALL)
LIMIT_SECONDS = 600


@pytest.fixture(scope="module")
def blocks() -> dict[str, list[str]]:
    """Give the blocks of the tutorial that are to be run, by how they are run."""
    found: dict[str, list[str]] = {}
    for kind, content in BLOCK.findall(TUTORIAL.read_text()):
        found.setdefault(kind, []).append(content)
    return found


def test_tutorial(blocks: dict[str, list[str]], tmp_path: Path) -> None:
    """Data, compile, tune, compare, serve and ask: every command ends well, and the answers are right."""
    assert {kind: len(found) for kind, found in blocks.items()} == {
        "python": 2, "torch": 1, "sh": 2, "toml": 1, "asked": 1,
    }  # fmt: skip
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}

    def run(*command: str, **more: str) -> str:
        ended = subprocess.run(
            command, cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True, timeout=LIMIT_SECONDS,
            check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    (tmp_path / "made").mkdir()
    write_digits(tmp_path / "made", "average")[0].rename(tmp_path / "net.onnx")
    for block in blocks["python"]:
        run(sys.executable, "-c", block)
    compiled, tuned = (run("sh", "-e", "-c", block) for block in blocks["sh"])
    assert "mine/1/snn: written" in compiled
    assert "times less dynamic energy than the comparable untuned network" in tuned
    assert "published, headline, up to" in tuned
    for name in ("tune-mine-1/report.md", "tune-mine-1/pareto.html", "compared/compare.md"):
        assert (tmp_path / name).is_file()
    config = blocks["toml"][0].replace('repository = "zoo"', f'repository = "{tmp_path / "zoo"}"')
    with running(config) as daemon:
        answers = run("sh", "-e", "-c", blocks["asked"][0], RUNTIME_DIRECTORY=str(daemon.places.runtime))
    first, second = re.findall(r"seven\.png: (\d)", answers)
    assert (first, second) == ("7", "7")
    assert "snn on loihi-sim, simulated" in answers
    assert "policy exact, request 2" in answers
