"""Make the environment of a vendor's library: find an interpreter, install what is pinned, load it once."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from hal.errors import HalError
from hal.runtimes import MARKER

if TYPE_CHECKING:
    from hal.runtimes import Runtime

# What a person would not wait for: an interpreter that answers nothing, an index that sends nothing.
ANSWER_SECONDS, INSTALL_SECONDS = 20.0, 1800.0
VERSION = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"


class InstallError(HalError):
    """A runtime cannot be installed. `tried` has a line for everything that was tried."""

    def __init__(self, subject: str, reason: str, tried: Sequence[str] = ()) -> None:
        super().__init__("\n  ".join([f"{subject}: {reason}", *tried]))
        self.subject = subject
        self.reason = reason
        self.tried = tuple(tried)


def install(runtime: Runtime, directory: Path, *, python: Optional[Path] = None) -> Path:
    """Make the environment in `directory` and give its interpreter; where it is whole already, only that.

    `python` is the interpreter to make it with, else one is looked for. Raises `InstallError`; then nothing is left.
    """
    folder = runtime.folder(directory)
    with _locked(directory):
        if runtime.installed(directory):
            return runtime.interpreter(directory)
        base = find_interpreter(runtime.python, python, directory=directory)
        # What is there without its marker was interrupted, what has another digest belongs to an earlier release.
        earlier = [path for path in directory.glob(f"{runtime.name}-*") if path.is_dir()]
        try:
            _remove([folder])
            _run(runtime, [base, "-m", "venv", folder])
            pip = [
                runtime.interpreter(directory),
                "-I",
                "-m",
                "pip",
                "--disable-pip-version-check",
                "--no-input",
                "install",
            ]
            strict = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-r", runtime.requirements]
            _run(runtime, [*pip, *strict])
            _run(runtime, [runtime.interpreter(directory), "-I", "-c", runtime.probe])
            (folder / MARKER).write_text(json.dumps({"runtime": runtime.name, "interpreter": str(base)}) + "\n")
        except BaseException:
            _remove([folder])
            raise
        _remove(path for path in earlier if path != folder)
    return runtime.interpreter(directory)


def find_interpreter(
    version: str,
    configured: Optional[Path] = None,
    *,
    directory: Optional[Path] = None,
    environment: Mapping[str, str] = os.environ,
) -> Path:
    """Find an interpreter of `version`, such as 3.10, that runs and can make environments.

    Only `configured` where it is given, else the first on the path, else the newest of pyenv, else, with a `directory`
    to keep it in, one that `uv` fetches. Raises `InstallError` that says what was tried.
    """
    tried: list[str] = []
    for candidate in [configured] if configured else _candidates(version, directory, environment):
        problem = _check(candidate, version)
        if problem is None:
            return candidate
        tried.append(f"{candidate}: {problem}")
    if configured is None and not _of_pyenv(version, environment):
        tried.append(f"{_pyenv(environment)}: no {version}.* in it")
    if configured is None and directory is not None:
        problem = _fetch(version, directory, environment)
        if problem is None:
            return _fetched(version, directory)[0]
        tried.append(f"uv python install {version}: {problem}")
    raise InstallError(f"Python {version}", "no interpreter was found; tried", tried)


def _candidates(version: str, directory: Optional[Path], environment: Mapping[str, str]) -> Iterator[Path]:
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder) / f"python{version}"
        # A shim of pyenv is on the path and may still not run: whoever asks runs it.
        if path.is_absolute() and os.access(path, os.X_OK):
            yield path
    yield from _of_pyenv(version, environment)
    yield from _fetched(version, directory) if directory else ()


def _pyenv(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"


def _of_pyenv(version: str, environment: Mapping[str, str]) -> list[Path]:
    found = [path for path in _pyenv(environment).glob(f"{version}.*") if path.name.replace(".", "").isdigit()]
    newest_first = sorted(found, key=lambda path: int(path.name.split(".")[2]), reverse=True)
    return [path / "bin" / "python" for path in newest_first]


def _fetched(version: str, directory: Path) -> list[Path]:
    return sorted((directory / "python").glob(f"cpython-{version}.*/bin/python{version}"))


def _check(interpreter: Path, version: str) -> Optional[str]:
    """Run an interpreter and give what is wrong with it, if anything."""
    try:
        ended = subprocess.run(
            [interpreter, "-I", "-c", VERSION], check=False, capture_output=True, text=True, timeout=ANSWER_SECONDS
        )
    except OSError as error:
        return str(error.strerror)
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWER_SECONDS:g} s"
    if ended.returncode != 0:
        return _first_line(ended.stderr) or f"exit status {ended.returncode}"
    found = ended.stdout.strip()
    return None if found == version else f"is Python {found}"


def _fetch(version: str, directory: Path, environment: Mapping[str, str]) -> Optional[str]:
    """Let `uv` fetch an interpreter into `directory`, where the daemon's user can run it, or give what is wrong."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv", path=environment.get("PATH"))
    if uv is None:
        return "uv is not installed"
    # A project may forbid downloads in passing; this one was asked for.
    settings = {**environment, "UV_PYTHON_DOWNLOADS": "manual", "UV_PYTHON_INSTALL_DIR": str(directory / "python")}
    ended = subprocess.run(
        [uv, "python", "install", "--no-bin", "--no-config", version], check=False, capture_output=True, text=True,
        env=settings,
    )  # fmt: skip
    if ended.returncode == 0 and _fetched(version, directory):
        return None
    return _first_line(ended.stderr) or f"exit status {ended.returncode}"


def _run(runtime: Runtime, command: Sequence[object]) -> None:
    words = [str(word) for word in command]
    try:
        ended = subprocess.run(words, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise InstallError(runtime.name, f"{' '.join(words)} did not end within {INSTALL_SECONDS:g} s") from None
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).strip().splitlines()[-5:]
        raise InstallError(runtime.name, f"{' '.join(words)} ended with {ended.returncode}:", said)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let one process at a time install into `directory`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise InstallError(str(directory), str(error.strerror)) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
