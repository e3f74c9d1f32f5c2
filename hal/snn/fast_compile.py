"""How the loops of the fast engine are compiled by numba, and where their machine code is kept.

The code is kept below `$NUMBA_CACHE_DIR`, or `$CACHE_DIRECTORY`, which systemd sets, or the user's cache directory.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numba.extending

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")


def _prepare_cache() -> bool:
    """Give numba a folder for machine code below the cache directory; tell whether it can be written.

    Numba notices a change in the file of an entry, but not in what the entry calls: the folder is named after both.
    """
    here = Path(__file__).parent
    sources = [*sorted(here.glob("fast_*.py")), here / "network.py"]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    try:
        folder = _cache_directory() / "kernels" / digest[:16]
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return False
    vars(numba.config)["CACHE_DIR"] = str(folder)
    return os.access(folder, os.W_OK)


def _cache_directory() -> Path:
    for name in ("NUMBA_CACHE_DIR", "CACHE_DIRECTORY"):
        if os.environ.get(name):
            return Path(os.environ[name])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "jouled"


_CACHED = _prepare_cache()


def compiled(function: Function) -> Function:
    """Compile a function that other compiled functions call."""
    return cast("Function", numba.njit(nogil=True, error_model="numpy")(function))


def entry(function: Function) -> Function:
    """Compile a function, with all that it calls, that Python calls. The machine code is kept."""
    return cast("Function", numba.njit(nogil=True, error_model="numpy", cache=_CACHED)(function))


def intrinsic(function: Callable[..., Any]) -> Any:
    """Let compiled functions call what emits its instructions itself."""
    return numba.extending.intrinsic(function)
