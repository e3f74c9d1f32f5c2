"""`jouled top` on a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len
from rich.console import Console

from daemon.cli.top import Screen, _listen
from tests.daemon.serving import Daemon, configuration, free_port, running
from tests.monitoring.conftest import PATIENCE_SECONDS, POLICIES, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|[()][A-Z0-9])")
ROWS, COLUMNS = 40, 150


class Terminal:
    """A terminal in which `jouled top` runs."""

    def __init__(self, address: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.before = termios.tcgetattr(theirs)
        self.theirs = theirs
        command = [sys.executable, "-m", "daemon.cli.main", "top", "--address", address]
        environment = {**os.environ, "TERM": "xterm-256color"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        self._text = ""

    def wait_for(self, *words: str) -> None:
        """Read on until a picture of the screen has all these words; what was before is forgotten."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        self._text = ""
        while not all(word in self._text for word in words):
            assert time.monotonic() < deadline, f"{words} not in {self._text[-4000:]}"
            if select.select([self.ours], [], [], 0.2)[0]:
                self._text += ESCAPES.sub("", os.read(self.ours, 65536).decode(errors="replace"))

    def press(self, key: str) -> None:
        """Press a key."""
        os.write(self.ours, key.encode())

    def wait(self) -> int:
        """Wait for the end, reading on, and give the exit status."""
        while self.process.poll() is None:
            if select.select([self.ours], [], [], 0.1)[0]:
                os.read(self.ours, 65536)
        return self.process.returncode

    def close(self) -> None:
        """End what runs."""
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal(base: str) -> Iterator[Terminal]:
    """Run `jouled top` against the shared daemon."""
    opened = Terminal(base.removeprefix("http://"))
    yield opened
    opened.close()


def test_top_shows_what_the_daemon_does(terminal: Terminal, daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Policy, budget, devices, operating points and requests are there; q ends it and leaves the terminal as it was."""
    reply = daemon.classify(image)
    terminal.wait_for("policy accurate", "limit 100 W", "loihi-sim", "ncs2-sim", "simulated", "window")
    terminal.wait_for(f"digits/{reply.variant} on {reply.device}", str(reply.request_id))
    terminal.press("q")
    assert terminal.wait() == 0
    assert termios.tcgetattr(terminal.theirs) == terminal.before


def test_top_follows_the_policy_and_survives_a_restart() -> None:
    """A switch is seen, a daemon that has gone is told, and the next one is found."""
    address = f"127.0.0.1:{free_port()}"
    config = configuration(f'[metrics]\naddress = "{address}"\n{POLICIES}', start="accurate")
    terminal = None
    try:
        with running(config) as daemon:
            terminal = Terminal(address)
            terminal.wait_for("policy accurate")
            daemon.set_policy("frugal")
            terminal.wait_for("policy frugal", "is in force, before it")
        terminal.wait_for(address)
        with running(config):
            terminal.wait_for("policy accurate")
            terminal.press("q")
            assert terminal.wait() == 0
    finally:
        if terminal is not None:
            terminal.close()


def test_once_prints_and_ends(daemon: Daemon, base: str, image: NDArray[np.uint8]) -> None:
    """Without a terminal the state is printed once, for a log or a pipe."""
    number = str(daemon.classify(image).request_id)
    command = [sys.executable, "-m", "daemon.cli.main", "top", "--once", "--address", base.removeprefix("http://")]

    def said() -> str | None:
        environment = {**os.environ, "COLUMNS": str(COLUMNS)}
        text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        return text if number in text else None

    text = eventually(said)
    assert "policy accurate" in text
    assert "\x1b" not in text


def test_without_a_daemon() -> None:
    """Nobody there is an error in a sentence, with its exit status."""
    command = [sys.executable, "-m", "daemon.cli.main", "top", "--once", "--address", f"127.0.0.1:{free_port()}"]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert said.returncode == 3
    assert "no daemon answers at http://127.0.0.1:" in said.stderr


def test_all_of_it_fits_a_narrow_terminal(daemon: Daemon, base: str, image: NDArray[np.uint8]) -> None:
    """In 80 columns nothing is cut: what a wide terminal shows is there, word for word."""
    number = str(daemon.classify(image, max_energy_joules=1e-3).request_id)
    screen = Screen(base.removeprefix("http://"))

    def drawn(columns: int) -> set[str]:
        console = Console(width=columns, file=io.StringIO())
        console.print(screen.whole(columns))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(cell_len, lines)) <= columns
        return {word for word in " ".join(lines).split() if word.isascii()}

    def shown() -> set[str] | None:
        _listen(screen, lambda: screen.present is None)
        words = drawn(400)
        screen.present, present = None, screen.present
        if number not in words:
            return None
        screen.present = present
        return words

    words = eventually(shown)
    assert {"loihi-sim,", "margin", "digits/snn", "simulated", "health", number} <= words
    assert words <= drawn(80)
