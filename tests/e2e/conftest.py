"""The package on a booted container, and clients outside."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.container import Container, booted

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parents[2]
# The first start compiles the spiking engine.
FIRST_START_SECONDS = 300.0


@pytest.fixture(scope="session")
def package() -> Path:
    """Build the Debian package, or take the one that was just built."""
    for program in ("debootstrap", "systemd-nspawn", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if os.geteuid() != 0:
        pytest.skip("a container needs root")
    subprocess.run([TOP / "systemd" / "deb" / "build.sh"], check=True)
    (found,) = (TOP / "dist").glob("jouled_*.deb")
    return found


@pytest.fixture(scope="session")
def container(package: Path) -> Iterator[Container]:
    """Boot a container in which the package is installed and the daemon is ready."""
    with booted() as host:
        shutil.copy(package, host.root / "jouled.deb")
        host.run("dpkg", "--install", "/jouled.deb")
        host.wait_until("active", FIRST_START_SECONDS)
        yield host
