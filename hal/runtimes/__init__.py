"""The environments in which vendors' libraries run: which there are, and where they lie once they are installed.

Each has an interpreter of its own, of the version that the vendor's last release supports, and holds what the pinned
requirements beside this file name: NumPy and the vendor's library. `hal.runtimes.install` makes them.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Written last into an environment: one without it is not whole.
MARKER = "runtime.json"


@dataclass(frozen=True)
class Runtime:
    """One vendor's environment.

    `python` is the version that its library needs, `requirements` the file that pins every package with its digests,
    `probe` a statement that loads the library.
    """

    name: str
    python: str
    requirements: Path
    probe: str

    def folder(self, directory: Path) -> Path:
        """Give where the environment lies in `directory`; other requirements make another one."""
        digest = hashlib.sha256(self.requirements.read_bytes()).hexdigest()
        return directory / f"{self.name}-{digest[:12]}"

    def installed(self, directory: Path) -> bool:
        """Tell whether the environment is there, and whole."""
        return (self.folder(directory) / MARKER).is_file()

    def interpreter(self, directory: Path) -> Path:
        """Give the environment's interpreter, which exists where `installed`."""
        return self.folder(directory) / "bin" / "python"


_HERE = Path(__file__).parent
RUNTIMES = {
    "loihi": Runtime("loihi", "3.10", _HERE / "loihi.txt", "import lava.magma.core.process.process"),
    "ncs2": Runtime("ncs2", "3.9", _HERE / "ncs2.txt", "from openvino.inference_engine import IECore; IECore()"),
}


def default_directory() -> Path:
    """Give the folder of the environments.

    It is what JOULED_RUNTIMES names, else `runtimes` in the virtual environment of the daemon, else, where the daemon
    has none, `jouled/runtimes` in the user's data folder.
    """
    if "JOULED_RUNTIMES" in os.environ:
        return Path(os.environ["JOULED_RUNTIMES"])
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "runtimes"
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "jouled" / "runtimes"
