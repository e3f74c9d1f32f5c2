"""What the sandbox keeps the daemon from, looked at in its own process; what a container cannot show is told so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from tests.e2e.container import Container

# In a container these are without effect, silently.
NOT_TESTABLE = ("DeviceAllow", "IPAddressDeny", "MemoryMax", "CPUQuota", "TasksMax")


@pytest.fixture
def status(container: Container) -> dict[str, str]:
    """Give what the kernel says of the daemon's process."""
    lines = Path(f"/proc/{container.main_pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def within(container: Container, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the daemon's user where the daemon is: in its mounts."""
    (inside,) = container.show("MainPID")
    enter = ["nsenter", "-t", inside, "-m", "setpriv", "--reuid=jouled", "--regid=jouled", "--clear-groups"]
    return container.run(*enter, "python3", "-c", script, check=False)


def test_it_has_no_capabilities_and_gains_none(status: dict[str, str]) -> None:
    """CapabilityBoundingSet=, NoNewPrivileges=, SystemCallFilter=, User=."""
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert set(status["Uid"].split()) != {"0"}


@pytest.mark.parametrize("path", ["/etc/jouled/x", "/usr/x", "/opt/jouled/x", "/x", "/proc/sys/kernel/hostname"])
def test_it_cannot_write(container: Container, path: str) -> None:
    """ProtectSystem=strict, ProtectKernelTunables=."""
    refused = within(container, f"open({path!r}, 'w')")
    assert "Read-only file system" in refused.stderr or "Permission denied" in refused.stderr


@pytest.mark.parametrize("path", ["/var/lib/jouled/x", "/var/cache/jouled/x", "/run/jouled/x", "/tmp/x"])  # noqa: S108
def test_it_can_write_its_own(container: Container, path: str) -> None:
    """StateDirectory=, CacheDirectory=, RuntimeDirectory=, PrivateTmp=."""
    written = within(container, f"import os; open({path!r}, 'w'); os.unlink({path!r})")
    assert written.returncode == 0, written.stderr


def test_it_sees_neither_homes_nor_other_processes(container: Container) -> None:
    """ProtectHome=, ProtectProc=."""
    assert within(container, "import os; print(os.listdir('/root'))").returncode != 0
    assert "True" not in within(container, "import os; print(os.path.exists('/proc/1/cmdline'))").stdout


def test_what_a_container_cannot_show() -> None:
    """These directives are in the unit, and are said to be untested here."""
    unit = (Path(__file__).parents[2] / "systemd" / "jouled.service").read_text()
    for directive in NOT_TESTABLE:
        if f"\n{directive}=" in unit:
            print(f"{directive}: not testable here")
    assert "\nDeviceAllow=char-usb_device rw\n" in unit
    assert "\nIPAddressDeny=any\n" in unit
