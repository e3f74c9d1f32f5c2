"""What a vendor's interpreter loads of `hal` keeps to the syntax of Python 3.9."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import pytest

import hal
from hal.runtimes.install import InstallError, find_interpreter

SOURCES = sorted(Path(hal.__path__[0]).rglob("*.py"))
COMPILE = "import sys; [compile(open(path, encoding='utf-8').read(), path, 'exec') for path in sys.argv[1:]]"
# What needs the standard library and NumPy only; artifacts are read and verified by the daemon.
PURE = [
    "hal.errors",
    "hal.device",
    "hal.simulation",
    "hal.energy.loihi",
    "hal.energy.ncs2",
    "hal.snn.network",
    "hal.open",
    "hal.runtimes.install",
    "hal.usb",
]
IMPORT = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


def _interpreter(version: str) -> Path:
    """Find an interpreter on the path or among pyenv's."""
    try:
        return find_interpreter(version)
    except InstallError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(hal.__path__[0])))
def test_parses(path: Path) -> None:
    """The grammar of Python 3.9 accepts every file, and annotations are not evaluated."""
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert "__future__" in imported or not any(isinstance(node, ast.AnnAssign | ast.arg) for node in ast.walk(tree))


@pytest.mark.needs_host
@pytest.mark.parametrize("version", ["3.9", "3.10"])
def test_compiles(version: str) -> None:
    """An old interpreter compiles every file and imports what needs no third party."""
    python = _interpreter(version)
    for program, arguments in ((COMPILE, [str(path) for path in SOURCES]), (IMPORT, PURE)):
        ended = subprocess.run(
            [python, "-B", "-c", program, *arguments],
            cwd=Path(hal.__path__[0]).parent,
            env={"PATH": os.defpath},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
