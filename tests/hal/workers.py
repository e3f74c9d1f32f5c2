"""Interpreters for workers of the tests: programs that are started as an interpreter is, and behave otherwise."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def program(folder: Path, script: str, name: str = "python") -> str:
    """Write a shell script that gets an interpreter's arguments; give its path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def strange(folder: Path, python: str = sys.executable) -> str:
    """Give an interpreter that runs `strange_worker` whatever it is told to run."""
    worker = Path(__file__).with_name("strange_worker.py")
    return program(folder, f'exec {shlex.quote(python)} {shlex.quote(str(worker))} "$@"', "strange")
