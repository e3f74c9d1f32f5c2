"""An unmodified tritonclient, from an environment of its own, is served."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.oip import EXTENSIONS
from daemon.version import VERSION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.serving import Daemon

SESSION = Path(__file__).with_name("tritonclient_session.py")


@pytest.fixture(scope="module")
def session(
    tritonclient: Path, daemon: Daemon, image: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Give what the client got."""
    file = tmp_path_factory.mktemp("tritonclient") / "image"
    file.write_bytes(image.tobytes())
    ended = subprocess.run([tritonclient, SESSION, daemon.address, file], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def test_it_runs_apart(tritonclient: Path) -> None:
    """The client is not that of this environment, in which it is not installed."""
    assert tritonclient != Path(sys.executable)
    assert not list(Path(sys.prefix).glob("lib/python*/site-packages/tritonclient"))


def test_readiness(session: dict[str, Any]) -> None:
    """Server and model are ready, an unknown model is not."""
    states = {key: session[key] for key in ("live", "ready", "model_ready", "unknown_ready")}
    assert states == {"live": True, "ready": True, "model_ready": True, "unknown_ready": False}


def test_metadata(session: dict[str, Any]) -> None:
    """The client understands what the server and the model say of themselves."""
    assert session["server"] == {"name": "jouled", "version": VERSION, "extensions": EXTENSIONS}
    assert session["model"]["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": ["-1", "8", "8"]}]
    assert session["model"]["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": ["-1", "10"]}]


def test_classifies_a_digit(session: dict[str, Any]) -> None:
    """The client gets the label, its own request's name, and the joules."""
    assert (session["label"], session["shape"], session["id"]) == (0, [1, 10], "mine")
    assert session["energy_joules"] > 0


def test_config_and_index(session: dict[str, Any]) -> None:
    """The client reads the model's configuration, and the index of models."""
    assert session["config"]["max_batch_size"] == 64
    assert session["config"]["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["8", "8"]}]
    assert {"name": "digits", "version": "1", "state": "READY"} in session["index"]


def test_streams(session: dict[str, Any]) -> None:
    """The client gets the same label over a stream."""
    assert session["streamed"] == session["label"]


def test_classification_extension(session: dict[str, Any]) -> None:
    """The client gets ranked labels."""
    ranked = [text.split(":") for text in session["ranked"]]
    assert ranked[0][1] == "0"
    assert all(index == label for _, index, label in ranked)
    assert [float(score) for score, _, _ in ranked] == sorted((float(score) for score, _, _ in ranked), reverse=True)


@pytest.mark.parametrize(
    ("call", "status"),
    [
        ("unknown_model", "NOT_FOUND"),
        ("unknown_version", "NOT_FOUND"),
        ("wrong_shape", "INVALID_ARGUMENT"),
        ("wrong_type", "INVALID_ARGUMENT"),
        ("wrong_name", "INVALID_ARGUMENT"),
        ("wrong_output", "INVALID_ARGUMENT"),
        ("large_batch", "INVALID_ARGUMENT"),
        ("no_input", "INVALID_ARGUMENT"),
        ("timeout", "DEADLINE_EXCEEDED"),
        ("client_timeout", "DEADLINE_EXCEEDED"),
    ],
)
def test_refusals(session: dict[str, Any], call: str, status: str) -> None:
    """The client gets the status that its call deserves."""
    assert session[call] == f"StatusCode.{status}"
