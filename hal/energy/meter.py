"""What a meter is: an energy counter with a boundary, and how reading it can fail."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Optional, Protocol

from hal.errors import HalError

if TYPE_CHECKING:
    from pathlib import Path

    from hal.device import Provenance

NANO = 1_000_000_000
# Sysfs counts energy in microjoules.
NANOJOULES_PER_MICROJOULE = 1_000

# Nanoseconds that never go back and go on during suspend (CLOCK_BOOTTIME).
Clock = Callable[[], int]


class MeterBoundary(str, Enum):
    """What a meter's joules cover, from the narrowest to the widest."""

    CHIP = "chip"
    DEVICE = "device"
    USB_PORT = "usb-port"
    HOST = "host"
    BOARD = "board"
    WALL = "wall"


class Fault(Enum):
    """Why a meter could not be read."""

    PERMISSION = "permission"
    MISSING = "missing"
    IO = "io"
    MALFORMED = "malformed"


class MeterError(HalError):
    """A meter cannot be read now. `detail` says what was tried and what the system answered."""

    def __init__(self, meter: str, fault: Fault, detail: str) -> None:
        super().__init__(f"meter {meter}: {detail}")
        self.meter = meter
        self.fault = fault
        self.detail = detail


class Reading(NamedTuple):
    """A counter's value at a time. Values compare only within a `run`: the counter lost touch between two of them."""

    at: int
    nanojoules: int
    run: int = 0


class Meter(Protocol):
    """A counter of joules.

    `range_nanojoules` is where the counter wraps, None where it does not or where that is unknown. `watts_limit` is a
    power that what it counts never draws. `update_nanoseconds` is the time between two updates, of the sensor or of
    its reader, whichever is longer. `relative_uncertainty` is the standard uncertainty of its joules. `inside` names
    the meters that count the same joules too: two of them never belong to one frontier.
    """

    name: str
    boundary: MeterBoundary
    provenance: Provenance
    range_nanojoules: Optional[int]
    watts_limit: float
    update_nanoseconds: int
    relative_uncertainty: float
    inside: frozenset[str]

    def read(self) -> Reading:
        """Read the counter; it does not decrease within a run but where it wraps or is reset. Raises `MeterError`."""
        ...


def read_text(meter: str, path: Path) -> str:
    """Read a small sysfs file. Raises `MeterError` in the name of `meter`."""
    try:
        return path.read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise MeterError(meter, Fault.PERMISSION, f"{path}: {error.strerror}") from None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MeterError(meter, Fault.MISSING, f"{path}: {error.strerror}") from None
    except OSError as error:
        raise MeterError(meter, Fault.IO, f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise MeterError(meter, Fault.MALFORMED, f"{path}: not text") from None


def read_integer(meter: str, path: Path) -> int:
    """Read a sysfs file that holds one whole number. Raises `MeterError` in the name of `meter`."""
    text = read_text(meter, path)
    try:
        return int(text)
    except ValueError:
        raise MeterError(meter, Fault.MALFORMED, f"{path}: {text[:32]!r} is not a whole number") from None
