"""How the loops of the fast engine are compiled by numba, and where their machine code is kept.

The code is kept in `jouled/kernels` below `$CACHE_DIRECTORY`, which systemd sets, or `$XDG_CACHE_HOME`, or `~/.cache`.
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
    cache = os.environ.get("CACHE_DIRECTORY") or os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    folder = Path(cache, "jouled", "kernels", digest[:16])
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    vars(numba.config)["CACHE_DIR"] = str(folder)
    return os.access(folder, os.W_OK)


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
