"""The repository keeps to its own rules, as far as the linter cannot tell."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGES = ("daemon", "hal", "models", "protos", "tests")
TOP_LEVEL = {
    *PACKAGES, "systemd", "docs", ".ci", ".gitignore",
    "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "pyproject.toml", "uv.lock",
}  # fmt: skip
MOST_LINES = 400


def written_files(*packages: str) -> Iterator[Path]:
    """Give the Python files of the packages that people wrote."""
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            if "_pb2" not in path.name:
                yield path


def called_name(node: ast.AST) -> str:
    """Give the last part of the name of what a node calls, and nothing for a node that is no call."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name
    return ""


def idle_tests(source: str) -> list[str]:
    """Name the tests of a module that can only fail by accident."""
    return [
        function.name
        for function in ast.walk(ast.parse(source))
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        and function.name.startswith("test_")
        and not any(
            isinstance(node, ast.Assert) or called_name(node).startswith(("assert_", "check_", "raises", "warns"))
            for node in ast.walk(function)
        )
    ]


def lines_that_sleep(source: str) -> list[int]:
    """Give the lines of a module that name `time.sleep`."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="time"), attr="sleep", lineno=line):
                lines.append(line)
            case ast.ImportFrom(module="time", names=names, lineno=line) if any(name.name == "sleep" for name in names):
                lines.append(line)
    return lines


def test_only_agreed_entries_lie_at_the_top() -> None:
    """Nobody adds a file or a folder at the top of the repository in passing."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    listing = subprocess.run(
        [git, "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = {path.split("/")[0] for path in listing.stdout.split("\0") if path}
    assert found <= TOP_LEVEL, f"not agreed on: {', '.join(sorted(found - TOP_LEVEL))}"


def test_files_are_short() -> None:
    """A file that grows past the limit is two ideas."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in written_files(*PACKAGES)}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_every_test_asserts() -> None:
    """A test contains an assertion, or calls a helper that is named after one."""
    idle = {str(path.relative_to(ROOT)): idle_tests(path.read_text()) for path in written_files("tests")}
    assert {name: tests for name, tests in idle.items() if tests} == {}


def test_tests_do_not_sleep() -> None:
    """Time is an argument; only a benchmark, or who watches a container from outside, may wait for it to pass."""
    waiting = (ROOT / "tests" / "bench", ROOT / "tests" / "e2e")
    paths = [path for path in written_files("tests") if not any(path.is_relative_to(folder) for folder in waiting)]
    sleeping = {str(path.relative_to(ROOT)): lines_that_sleep(path.read_text()) for path in paths}
    assert {name: lines for name, lines in sleeping.items() if lines} == {}


def test_the_rules_notice_what_they_forbid() -> None:
    """Neither an idle test nor a sleep passes, however it is written."""
    source = (
        "import time\nfrom time import sleep\ndef test_a():\n    time.sleep(1)\nasync def test_b():\n    assert True"
    )
    assert idle_tests(source) == ["test_a"]
    assert sorted(lines_that_sleep(source)) == [2, 4]
