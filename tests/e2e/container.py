"""A minimal Debian under real systemd, in a container without a network.

Made by debootstrap once and kept in the cache; each run boots a copy. Needs root, debootstrap and systemd-nspawn.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(__file__).parents[2] / ".cache" / "e2e"
SUITE = "bookworm"
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "udev")
BOOT_SECONDS = 60.0
STOP_SECONDS = 30.0
# How a container's init is told to power off, see systemd(1).
POWER_OFF = signal.SIGRTMIN + 4


def base() -> Path:
    """Give the root of a minimal Debian, made on first use."""
    root = CACHE / "root"
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        making = CACHE / "making"
        shutil.rmtree(making, ignore_errors=True)
        include = ",".join(PACKAGES)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={include}", SUITE, making], check=True)
        making.rename(root)
    return root


@dataclass(frozen=True)
class Container:
    """A booted container; `leader` is its first process as the host numbers it."""

    root: Path
    leader: int

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p"]
        ended = subprocess.run([*enter, *command], check=False, capture_output=True, text=True)
        assert not check or ended.returncode == 0, f"{' '.join(command)}: {ended.stdout}{ended.stderr}"
        return ended

    def show(self, *properties: str, unit: str = "jouled.service") -> list[str]:
        """Ask systemd for properties of a unit."""
        said = self.run("systemctl", "show", unit, *(f"--property={name}" for name in properties)).stdout
        values = dict(line.split("=", 1) for line in said.splitlines())
        return [values[name] for name in properties]

    def path(self, inside: str) -> Path:
        """Give the host's path to a file of the container, sockets and mounts included."""
        return Path(f"/proc/{self.leader}/root{inside}")

    @property
    def runtime(self) -> Path:
        """Give the folder of the daemon's sockets."""
        return self.path("/run/jouled")

    @property
    def main_pid(self) -> int:
        """Give the daemon's process as the host numbers it."""
        (inside,) = self.show("MainPID")
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
                numbers = fields.get("NSpid", "").split()
                if len(numbers) > 1 and numbers[-1] == inside and _leader_of(int(status.parent.name), self.leader):
                    return int(status.parent.name)
        raise AssertionError(f"no process {inside} in the container")

    def wait_until(self, state: str, seconds: float) -> None:
        """Wait until the daemon's unit is in a state such as `active`, `failed`."""
        deadline = time.monotonic() + seconds
        while (now := self.show("ActiveState")[0]) != state:
            assert time.monotonic() < deadline, f"{now} after {seconds} s, not {state}:\n{self.log()}"
            time.sleep(0.02)

    def ready_after(self, moment: float, seconds: float) -> float:
        """Wait for the next time that the daemon becomes ready after `moment`; give how long it took."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state, entered = self.show("ActiveState", "ActiveEnterTimestampMonotonic")
            if state == "active" and int(entered) / 1e6 > moment:
                return int(entered) / 1e6 - moment
            time.sleep(0.02)
        raise AssertionError(f"not ready again within {seconds} s:\n{self.log()}")

    def log(self) -> str:
        """Give the end of the daemon's log."""
        return self.run("journalctl", "-u", "jouled", "-n", "40", "--no-pager", check=False).stdout


def _leader_of(process: int, leader: int) -> bool:
    return Path(f"/proc/{process}/ns/pid").readlink() == Path(f"/proc/{leader}/ns/pid").readlink()


@contextlib.contextmanager
def booted() -> Iterator[Container]:
    """Boot a copy of the base until the end of the block."""
    with tempfile.TemporaryDirectory(prefix="jouled-e2e-", dir=CACHE if CACHE.exists() else None) as name:
        root = Path(name) / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", base(), root], check=True)
        command = [
            "systemd-nspawn", "-q", "-D", str(root), "--register=no", "--keep-unit", "-b", "--private-network",
            "--console=pipe",
        ]  # fmt: skip
        with (Path(name) / "console").open("wb") as console:
            nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        leader = 0
        try:
            leader = _leader(nspawn, Path(name) / "console")
            container = Container(root, leader)
            _wait_for_boot(container)
            yield container
        finally:
            if leader:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(leader, POWER_OFF)
            with contextlib.suppress(subprocess.TimeoutExpired):
                nspawn.wait(STOP_SECONDS)
            nspawn.kill()
            nspawn.wait()


def _leader(nspawn: subprocess.Popen[bytes], console: Path) -> int:
    children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline and nspawn.poll() is None:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        time.sleep(0.05)
    raise AssertionError(f"the container did not start: {console.read_text(errors='replace').strip()}")


def _wait_for_boot(container: Container) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        said = container.run("systemctl", "is-system-running", check=False).stdout.strip()
        if said in {"running", "degraded"}:
            return
        time.sleep(0.1)
    raise AssertionError(f"the container is still {said!r}")
