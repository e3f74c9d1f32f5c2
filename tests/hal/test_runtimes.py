"""The environments of the vendors' libraries: found, made whole or not at all, and found again."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.cli.main import app
from hal.runtimes import MARKER, RUNTIMES, Runtime, default_directory
from hal.runtimes.install import InstallError, find_interpreter, install
from tests.hal.ways import interpreter

VERSION = "{}.{}".format(*sys.version_info)
BASE = Path(sys.base_prefix) / "bin" / f"python{VERSION}"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """Give a package with one module, `toy`, that asks for nothing."""
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    metadata = "toy-1.0.dist-info"
    files = {
        "toy.py": "ANSWER = 42\n",
        f"{metadata}/METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{metadata}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def toy(wheel: Path, *, digest: str = "", probe: str = "import toy; assert toy.ANSWER == 42") -> Runtime:
    """Describe a runtime of one local package."""
    digest = digest or hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements = wheel.with_name(f"toy-{digest[:8]}.txt")
    requirements.write_text(f"toy @ {wheel.as_uri()} --hash=sha256:{digest}\n")
    return Runtime("toy", VERSION, requirements, probe)


def program(path: Path, script: str) -> Path:
    """Write a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_install(wheel: Path, tmp_path: Path) -> None:
    """An environment holds what is pinned and says that it is whole; a second time it is only found.

    It takes the place of one that was interrupted, and of one with the requirements of an earlier release.
    """
    runtime, directory = toy(wheel), tmp_path / "runtimes"
    interrupted, earlier = runtime.folder(directory), directory / "toy-0123456789ab"
    for folder in (interrupted, earlier):
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").write_text("not a program")
    (earlier / MARKER).write_text("{}")
    assert not runtime.installed(directory)
    python = install(runtime, directory, python=BASE)
    assert runtime.installed(directory)
    assert python == runtime.interpreter(directory)
    answer = subprocess.run([python, "-c", "import toy; print(toy.ANSWER)"], check=True, capture_output=True, text=True)
    assert answer.stdout == "42\n"
    assert json.loads((runtime.folder(directory) / MARKER).read_text()) == {"runtime": "toy", "interpreter": str(BASE)}
    assert [path.name for path in directory.glob("toy-*")] == [interrupted.name]
    wheel.unlink()
    assert install(runtime, directory, python=tmp_path / "no python is needed") == python


@pytest.mark.parametrize("fault", ["digest", "probe"])
def test_whole_or_not_at_all(wheel: Path, tmp_path: Path, fault: str) -> None:
    """A package whose digest is not the pinned one, or a library that does not load, leaves nothing behind."""
    runtime = toy(wheel, digest="0" * 64) if fault == "digest" else toy(wheel, probe="import toy.part")
    with pytest.raises(InstallError) as caught:
        install(runtime, tmp_path / "runtimes", python=BASE)
    assert {"digest": "HASHES", "probe": "'toy.part'"}[fault] in str(caught.value)
    assert list((tmp_path / "runtimes").glob("toy-*")) == []


def test_no_place(wheel: Path, tmp_path: Path) -> None:
    """A folder that cannot be made is named."""
    (tmp_path / "runtimes").write_text("a file")
    with pytest.raises(InstallError, match="runtimes: File exists"):
        install(toy(wheel), tmp_path / "runtimes", python=BASE)


def test_first_that_runs(tmp_path: Path) -> None:
    """The first interpreter on the path that runs is taken; a shim of a version that is not chosen does not run."""
    shim = program(tmp_path / "shims" / f"python{VERSION}", "echo 'pyenv: command not found' >&2; exit 127")
    good = program(tmp_path / "good" / f"python{VERSION}", f'exec {sys.executable} "$@"')
    environment = {"PATH": f"{shim.parent}:{tmp_path / 'missing'}:relative:{good.parent}"}
    assert find_interpreter(VERSION, environment=environment) == good


def test_newest_of_pyenv(tmp_path: Path) -> None:
    """Without one on the path, the newest of pyenv is taken, by number and not by letter."""
    for patch in ("9", "13", "2-dev"):
        program(tmp_path / "versions" / f"{VERSION}.{patch}" / "bin" / "python", f'exec {sys.executable} "$@"')
    found = find_interpreter(VERSION, environment={"PATH": "", "PYENV_ROOT": str(tmp_path)})
    assert found == tmp_path / "versions" / f"{VERSION}.13" / "bin" / "python"


def test_what_was_tried(tmp_path: Path) -> None:
    """Where no interpreter is found, each that was tried is listed with what is wrong with it."""
    other = program(tmp_path / "other" / "python3.99", f'exec {sys.executable} "$@"')
    broken = program(tmp_path / "broken" / "python3.99", "exit 3")
    script = tmp_path / "script" / "python3.99"
    script.parent.mkdir()
    script.write_text("no program")
    script.chmod(0o755)
    path = ":".join(str(each.parent) for each in (other, broken, script))
    environment = {"PATH": path, "PYENV_ROOT": str(tmp_path), "UV_OFFLINE": "1"}
    with pytest.raises(InstallError) as caught:
        find_interpreter("3.99", directory=tmp_path / "runtimes", environment=environment)
    *listed, fetching = caught.value.tried
    assert listed == [
        f"{other}: is Python {VERSION}",
        f"{broken}: exit status 3",
        f"{script}: Exec format error",
        f"{tmp_path / 'versions'}: no 3.99.* in it",
    ]
    assert fetching.startswith("uv python install 3.99: ")
    with pytest.raises(InstallError, match=rf"Python 3.99: no interpreter was found; tried\n  {other}: is Python"):
        find_interpreter("3.99", other, environment=environment)


def test_fetched(tmp_path: Path) -> None:
    """What uv fetched once is found in the folder of the environments, where the daemon's user can run it."""
    name = f"cpython-{VERSION}.4-linux-{platform.machine()}-gnu"
    fetched = program(tmp_path / "python" / name / "bin" / f"python{VERSION}", f'exec {sys.executable} "$@"')
    environment = {"PATH": "", "PYENV_ROOT": str(tmp_path)}
    assert find_interpreter(VERSION, directory=tmp_path, environment=environment) == fetched


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("", None),
        ('mkdir -p "$UV_PYTHON_INSTALL_DIR"', "exit status 0"),
        ("echo 'no network' >&2; exit 2", "no network"),
    ],
)
def test_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str | None) -> None:
    """A program `uv` on the path is asked to put an interpreter there, and what it answers is told."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    place = f'"$UV_PYTHON_INSTALL_DIR/cpython-{VERSION}.4-linux/bin"'
    put = f"[ \"$*\" = 'python install --no-bin --no-config {VERSION}' ] && mkdir -p {place} && ln -s {BASE} {place}"
    program(tmp_path / "bin" / "uv", f"PATH={os.defpath}\n{script or put}")
    environment = {"PATH": str(tmp_path / "bin"), "PYENV_ROOT": str(tmp_path)}
    if problem is None:
        found = find_interpreter(VERSION, directory=tmp_path, environment=environment)
        assert found.resolve() == BASE.resolve()
        return
    with pytest.raises(InstallError) as caught:
        find_interpreter(VERSION, directory=tmp_path, environment=environment)
    assert caught.value.tried[-1] == f"uv python install {VERSION}: {problem}"


def test_without_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uv is not installed either, that is said, too."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(InstallError) as caught:
        find_interpreter("3.99", directory=tmp_path, environment={"PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path)})
    assert caught.value.tried[-1] == "uv python install 3.99: uv is not installed"


def test_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environments lie where the operator says, else beside the daemon, else in the user's data folder."""
    monkeypatch.setenv("JOULED_RUNTIMES", str(tmp_path))
    assert default_directory() == tmp_path
    monkeypatch.delenv("JOULED_RUNTIMES")
    monkeypatch.setattr(sys, "prefix", "/opt/jouled")
    assert default_directory() == Path("/opt/jouled/runtimes")
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_directory() == tmp_path / "data" / "jouled" / "runtimes"


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=list(RUNTIMES))
def test_pins(runtime: Runtime) -> None:
    """Every package of a runtime is pinned with digests, the vendor's library among them."""
    lines = runtime.requirements.read_text().splitlines()
    packages = [line.split("==")[0] for line in lines if line and not line.startswith((" ", "#"))]
    assert {"loihi": "lava-nc", "ncs2": "openvino"}[runtime.name] in packages
    for number, line in enumerate(lines):
        if "==" in line and not line.startswith("#"):
            assert lines[number + 1].strip().startswith("--hash=sha256:")


def test_commands(tmp_path: Path) -> None:
    """`jouled runtime` lists the runtimes and refuses an interpreter of the wrong version, by name."""
    runner, place = CliRunner(), ["--directory", str(tmp_path)]
    listed = runner.invoke(app, ["runtime", "list", "--json", *place])
    assert [(row["runtime"], row["python"], row["installed"]) for row in json.loads(listed.stdout)] == [
        ("loihi", "3.10", False), ("ncs2", "3.9", False),
    ]  # fmt: skip
    assert "ncs2" in runner.invoke(app, ["runtime", "list", *place]).stdout
    refused = runner.invoke(app, ["runtime", "install", "loihi", "--python", str(BASE), *place])
    assert refused.exit_code == 1
    assert refused.stderr == f"jouled: Python 3.10: no interpreter was found; tried\n  {BASE}: is Python {VERSION}\n"
    assert runner.invoke(app, ["runtime", "install", "loihi", "ncs2", "--python", "x", *place]).exit_code == 2


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=list(RUNTIMES))
def test_installed_ones_load(runtime: Runtime) -> None:
    """What `make runtimes` made is found at once, and its library loads."""
    python = interpreter(runtime.name)
    arguments = ["runtime", "install", runtime.name, "--json"]
    said = CliRunner().invoke(app, arguments)
    assert json.loads(said.stdout) == {runtime.name: python}
    assert f"{runtime.name}: " in CliRunner().invoke(app, arguments[:-1]).stdout
    ended = subprocess.run(
        [python, "-c", runtime.probe],
        check=False,
        capture_output=True,
        env={"PATH": os.defpath},
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
