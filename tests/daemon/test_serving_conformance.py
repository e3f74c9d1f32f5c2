"""An unmodified tritonclient finds here what it finds at Triton: the same statuses, the same types and shapes."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.daemon.networks import write_tiny
from tests.daemon.serving import configuration, running

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[server]
model_control = true
[policy.roomy]
strategy = "accuracy"
budget_watts = 100.0
"""
CPU = '[device.cpu]\ndriver = "cpu"\n'
LINE = re.compile(r"(?P<name>\w+)\s+(?P<outcome>OK|ERR \S+)\s+(?P<said>.*)")
# Here a deadline holds, however short it is, and a model that is not there is not an error of the server.
OTHERWISE = {
    "timeout_1us": "ERR StatusCode.DEADLINE_EXCEEDED",
    "client_deadline": "ERR StatusCode.DEADLINE_EXCEEDED",
    "load_unknown": "ERR StatusCode.NOT_FOUND",
}
# Here answers have the joules in their parameters; log, traces and shared memory are not there.
NOT_COMPARED = {"infer_params", "log", "trace", "shm"}
# What is said of an output, word for word, or up to the scores.
OUTPUTS = ("infer", "classify_resp", "classify_99")


def _read(text: str) -> dict[str, tuple[str, str]]:
    """Give outcome and words of each probe."""
    matches = [LINE.fullmatch(line) for line in text.splitlines()]
    return {match["name"]: (match["outcome"], match["said"]) for match in matches if match}


@pytest.fixture(scope="module")
def golden(vectors_folder: Path) -> dict[str, tuple[str, str]]:
    """Give what Triton 2.51 answered."""
    return _read((vectors_folder / "oip" / "golden_triton_2.51.txt").read_text())


@pytest.fixture(scope="module")
def found(
    vectors_folder: Path, tritonclient: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[str, str]]:
    """Give what this daemon answers to the same probes."""
    repository = tmp_path_factory.mktemp("repository")
    write_tiny(repository)
    probe = vectors_folder / "oip" / "golden.py"
    with running(configuration(CONFIG, start="roomy", devices=CPU, repository=repository)) as daemon:
        command = [str(tritonclient), str(probe), daemon.address]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return _read(ended.stdout)


def test_every_probe_has_triton_s_outcome(
    golden: dict[str, tuple[str, str]], found: dict[str, tuple[str, str]]
) -> None:
    """The status codes are Triton's, but where this server promises another one."""
    assert len(golden) == 36
    expected = {name: OTHERWISE.get(name, outcome) for name, (outcome, _) in golden.items()}
    differing = {
        name: (found.get(name), outcome)
        for name, outcome in expected.items()
        if name not in NOT_COMPARED and found.get(name, ("",))[0] != outcome
    }
    assert differing == {}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_have_triton_s_type_and_shape(
    golden: dict[str, tuple[str, str]], found: dict[str, tuple[str, str]], name: str
) -> None:
    """An output has the same name, datatype and shape."""
    assert found[name] == golden[name]


def test_the_model_is_described_alike(golden: dict[str, tuple[str, str]], found: dict[str, tuple[str, str]]) -> None:
    """Metadata and configuration name the same tensors."""
    _, described = golden["model_metadata"]
    tensors = described[described.index("'inputs'") : described.rindex("}")]
    assert tensors in found["model_metadata"][1]
    for part in (
        "'max_batch_size': 64",
        "'input': [{'name': 'image', 'data_type': 'TYPE_UINT8', 'dims': ['28', '28']}]",
    ):
        assert part in golden["config"][1]
        assert part in found["config"][1]


def test_classes_are_ranked_alike(golden: dict[str, tuple[str, str]], found: dict[str, tuple[str, str]]) -> None:
    """The classification extension gives as many elements of the same form."""
    form = re.compile(r"b'-?\d+\.\d{6}:(\d):digit\1'")
    assert len(form.findall(golden["classify3"][1])) == len(form.findall(found["classify3"][1])) == 3
