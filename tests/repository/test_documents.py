"""The commands in the documents are run, but for those that are listed here with where they are, or why they cannot."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.daemon.serving import START_SECONDS, STOP_SECONDS, free_port
from tests.repository.commands import DOCUMENTS, ROOT, commands, complaint, meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from playwright.sync_api import Browser

LIMIT_SECONDS = 120
MOST_LINES = 100
README = (ROOT / "README.md").read_text()
# The first entry that begins a command tells where it runs instead, or why it does not.
ELSEWHERE = {
    "jouled audit JOURNAL": "run as `jouled audit ~/.local/state/jouled`",
    "jouled calibrate": "takes a minute, with no daemon beside it: tests/cli/test_calibrate.py does so for shorter",
    "jouled compare mnist": "takes minutes with a data set: tests/models/test_compare.py",
    "jouled compile": "takes minutes: tests/cli/test_tutorial.py, on smaller data",
    "jouled energy --follow": "test_final_figures_are_followed",
    "jouled import": "test_a_network_of_lava",
    "jouled runtime install": "needs the package index: .ci/run, as make runtimes",
    "jouled serve": "runs while the others do",
    "jouled top": "goes on until it is ended: tests/monitoring/test_top.py",
    "jouled trace": "test_a_network_of_lava",
    "jouled tune": "takes minutes: tests/cli/test_tutorial.py, on smaller data",
    "envoy": "tests/daemon/test_envoy.py",
    "journalctl": "needs systemd: tests/e2e",
    "make": ".ci/run; bench, soak and versions take longer than it may",
    "npm": "tests/daemon/test_clients.py",
    "pip": "needs the package index",
    "prometheus": "goes on until it is ended: tests/monitoring/test_prometheus.py",
    "promtool": "tests/monitoring/test_prometheus.py",
    "pytest": "this suite",
    "python": "test_options_of_modules_are_there: it measures or trains for minutes",
    "ssh": "needs another host",
    "systemctl": "needs systemd: tests/e2e",
    "uv": "needs the package index",
}


def elsewhere(command: str) -> str:
    """Tell why a command of the documents is not run here, nothing for one that is."""
    words = re.sub(r"^\S*bin/", "", command)
    return next((why for beginning, why in ELSEWHERE.items() if f"{words} ".startswith(f"{beginning} ")), "")


@cache
def documented() -> list[str]:
    """List the commands of all documents; one that lacks an argument only names a command.

    The tutorial is run by tests/cli/test_tutorial.py.
    """
    texts = [document.read_text() for document in DOCUMENTS if document.name != "tutorial.md"]
    found = dict.fromkeys(command for text in texts for command in commands(text))
    return [command for command in found if "Missing" not in (complaint(command) if is_ours(command) else "")]


def is_ours(command: str) -> bool:
    """Tell whether a command calls `jouled`."""
    return Path(command.partition(" ")[0]).name == "jouled"


class Scratch:
    """A folder with what a clone holds, and a home, in which commands are run as a reader would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("docs", "models", "protos"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        shutil.copytree(ROOT / "models" / "zoo", folder / "zoo")
        (folder / "systemd").mkdir()
        shipped = (ROOT / "systemd" / "jouled.toml").read_text()
        # The shipped ports may be taken.
        shipped = shipped.replace('# tcp_address = "127.0.0.1:8001"', f'tcp_address = "127.0.0.1:{free_port()}"')
        self.page_port = free_port()
        (folder / "systemd" / "jouled.toml").write_text(shipped.replace(":9464", f":{self.page_port}"))
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("STATE_DIRECTORY", "XDG_STATE_HOME")},
            "HOME": str(folder), "RUNTIME_DIRECTORY": str(folder / "run"), "COLUMNS": "200",
            "XDG_CACHE_HOME": str(Path("~/.cache").expanduser()),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            ["env", "--default-signal=INT", "bash", "-c", command], cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, command: str) -> tuple[int, str]:
        """Run a command; give its exit status and what it said."""
        process = self.start(command)
        said = process.communicate(timeout=LIMIT_SECONDS)
        return process.returncode, "".join(said)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Scratch]:
    """Give a scratch folder; its path is short, as a Unix socket's has to be."""
    with tempfile.TemporaryDirectory(prefix="jouled-") as name:
        yield Scratch(Path(name))


@pytest.fixture(scope="module")
def served(scratch: Scratch) -> Iterator[Scratch]:
    """Serve as the README says, and end it as the README says."""
    serve = commands(README)[2]
    process = scratch.start(f"exec {serve} 2>log")
    deadline = time.monotonic() + START_SECONDS
    try:
        while scratch.run(".venv/bin/jouled status")[0] != 0:
            assert process.poll() is None, (scratch.folder / "log").read_text()
            assert time.monotonic() < deadline, "the daemon did not start"
        yield scratch
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=STOP_SECONDS)
    assert process.returncode == 0


def test_a_budget_is_switched_on_the_page(served: Scratch, browser: Browser) -> None:
    """The README's first steps: while a terminal asks, a click puts a policy in force, and answers follow."""
    assert served.run("jouled policy set balanced")[0] == 0
    (load,) = re.findall(r"^(while .*?)\s+#", README, re.MULTILINE)
    (address,) = re.findall(r"<(http://127.0.0.1:\d+/)>", README)
    loading = served.start(load)
    assert loading.stdout
    try:
        page = browser.new_page()
        page.goto(address.replace("9464", str(served.page_port)))
        _read_until("policy balanced,", loading.stdout)
        assert page.locator("#locked").is_hidden()
        page.get_by_role("button", name="tight").click()
        page.wait_for_selector("body[data-policy='tight']")
        page.wait_for_selector("[data-device='ncs2-sim'][data-power='off']")
        _read_until("policy tight,", loading.stdout)
    finally:
        os.killpg(loading.pid, signal.SIGTERM)
        loading.communicate(timeout=STOP_SECONDS)
    events = page.locator("#events").inner_text().splitlines()
    assert "policy tight is in force, before it was balanced" in events
    assert "ncs2-sim is powered down" in events


def _read_until(words: str, lines: Iterable[str]) -> None:
    """Read answers until one of them has these words."""
    assert any(words in line for line in islice(lines, MOST_LINES))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_understood(document: Path) -> None:
    """No command, option or argument that does not exist; a command may be named without all of its arguments."""
    ours = [command for command in commands(document.read_text()) if is_ours(command)]
    wrong = {command: why for command in ours if (why := complaint(command)) and "Missing" not in why}
    assert wrong == {}


def test_commands_are_run(served: Scratch) -> None:
    """What is not listed as elsewhere ends well, in the order of the documents, beside the daemon of the README."""
    found = documented()
    unlisted = [command for command in found if not is_ours(command) and not elsewhere(command)]
    assert unlisted == []
    here = [command for command in found if not elsewhere(command)]
    assert len(here) >= 20
    failed = {}
    for command in here:
        status, said = served.run(meant(command))
        if status:
            failed[meant(command)] = said
    assert failed == {}


def test_final_figures_are_followed(served: Scratch) -> None:
    """`jouled energy --follow` tells what a request cost once it is final, and ends when interrupted."""
    following = served.start("exec jouled energy --follow")
    assert following.stdout
    while not select.select([following.stdout], [], [], 0.1)[0]:
        assert served.run("jouled classify digits docs/seven.png")[0] == 0
    assert re.match(r"request \d+: .* dynamic, .* static, \+- .*; simulated, exclusive", following.stdout.readline())
    following.send_signal(signal.SIGINT)
    following.communicate(timeout=STOP_SECONDS)
    assert following.returncode == 0


def test_a_network_of_lava(scratch: Scratch, vectors_folder: Path) -> None:
    """The commands for networks that were trained for Lava, with one of those that Lava itself ran."""
    (scratch.folder / "network.net").write_bytes((vectors_folder / "netx" / "tinynet" / "network.net").read_bytes())
    np.save(scratch.folder / "picture.npy", np.zeros((3, 16, 16), np.uint8))
    found = [command for command in documented() if re.match(r"jouled (import network|trace models)", command)]
    assert len(found) == 2
    for command in found:
        status, said = scratch.run(command.replace("models/zoo", "zoo"))
        assert status == 0, said
    assert (scratch.folder / "trace.npz").is_file()


MODULES = sorted({command for command in documented() if re.match(r"\S*python -m (tests|models)", command)})


@pytest.mark.parametrize("command", MODULES)
def test_options_of_modules_are_there(command: str) -> None:
    """A module that takes long to run is there, and so are the options that the documents give it."""
    module, *arguments = command.split()[2:]
    file = ROOT / f"{module.replace('.', '/')}.py"
    sources = "".join(path.read_text() for path in file.parent.glob("*.py"))
    assert file.is_file()
    assert [word for word in arguments if word.startswith("--") and f'"{word}"' not in sources] == []


def test_the_list_is_of_what_the_documents_hold() -> None:
    """Nothing is listed that no document has any more, and what has moved to another test is there."""
    stale = [
        beginning for beginning in ELSEWHERE
        if not any(elsewhere(command) == ELSEWHERE[beginning] for command in documented())
    ]  # fmt: skip
    assert stale == []
    named = [path for why in ELSEWHERE.values() for path in re.findall(r"tests/[\w/]+(?:\.py)?", why)]
    assert [path for path in named if not (ROOT / path).exists()] == []
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {command.split()[1] for command in documented() if command.startswith("make ")} <= targets


def test_what_is_wrong_is_noticed() -> None:
    """A command and an option that do not exist, found in a block and in a sentence."""
    text = """Call
```
$ .venv/bin/jouled energy --since 1d \\
  --by colour
jouled fly away   # from here
```
or `jouled status
--json`, `jouled`.
"""
    found = [".venv/bin/jouled energy --since 1d --by colour", "jouled fly away", "jouled status --json"]
    assert commands(text) == found
    assert [bool(complaint(command)) for command in found] == [True, True, False]
