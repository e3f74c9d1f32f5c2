"""The unit and the users that come with the daemon are what systemd accepts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[2] / "systemd"
UNIT = SYSTEMD / "jouled.service"
EXECUTABLE = "/opt/jouled/bin/jouled"
# On systemd's scale of tenths from 0 (locked in) to 100 (unconfined); most of the rest is the network, which the
# daemon serves, and the machine code that OpenVINO writes at run time.
MOST_EXPOSURE = 20


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of systemd's own programs; the test skips where it is not installed."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return subprocess.run([path, *arguments], check=False, capture_output=True, text=True)


@pytest.fixture
def installed_unit(tmp_path: Path) -> Path:
    """Give a copy of the unit whose daemon exists: verification refuses a program that is not installed."""
    executable = tmp_path / "jouled"
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(EXECUTABLE, str(executable)))
    return unit


def test_systemd_accepts_the_unit_without_a_remark(installed_unit: Path) -> None:
    """Every directive is known and has a legal value."""
    verified = run("systemd-analyze", "verify", "--recursive-errors=no", installed_unit)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_systemd_remarks_on_a_misspelt_directive(installed_unit: Path) -> None:
    """The verification that the unit passes is one that finds mistakes."""
    installed_unit.write_text(installed_unit.read_text().replace("UMask=", "Umask="))
    verified = run("systemd-analyze", "verify", "--recursive-errors=no", installed_unit)
    assert "Umask" in verified.stderr


def test_systemd_accepts_the_drop_in_for_mutual_tls(installed_unit: Path) -> None:
    """The unit that is reached over the network is taken without a remark, too."""
    folder = installed_unit.with_name("jouled.service.d")
    folder.mkdir()
    shutil.copy(SYSTEMD / "drop-ins" / "mtls.conf", folder)
    verified = run("systemd-analyze", "verify", "--recursive-errors=no", installed_unit)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_the_sandbox_leaves_little_exposed() -> None:
    """The unit's exposure by systemd's own reckoning stays below a limit."""
    gate = f"--threshold={MOST_EXPOSURE}"
    judged = run("systemd-analyze", "security", "--offline=true", gate, "--no-pager", UNIT)
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a folder that takes the place of a host's root, with the users that come with the daemon."""
    (tmp_path / "etc").mkdir()
    made = run("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "jouled.sysusers")
    assert made.returncode == 0, made.stderr
    return tmp_path


def entries(file: Path) -> dict[str, list[str]]:
    """Read a file such as /etc/passwd: the fields of each line by the first of them."""
    return {line.split(":")[0]: line.split(":") for line in file.read_text().splitlines()}


def test_sysusers_makes_the_user_and_both_groups(root: Path) -> None:
    """The daemon's user cannot log in and is no member of the group that controls it."""
    users, groups = entries(root / "etc/passwd"), entries(root / "etc/group")
    assert users.keys() == {"jouled"}
    assert groups.keys() == {"jouled", "jouled-admin"}
    assert users["jouled"][3] == groups["jouled"][2]
    assert users["jouled"][5:] == ["/var/lib/jouled", "/usr/sbin/nologin"]
    assert groups["jouled-admin"][3] == ""
