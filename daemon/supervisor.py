"""Tell the supervisor how the daemon fares: sd_notify(3), and the watchdog's pings from the event loop."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from daemon.background import repeat

MICRO = 1_000_000
# How often the status line is renewed where no watchdog asks for more.
STATUS_SECONDS = 5.0
# A start that goes on asks for this long again at each step; compiling the spiking engine takes half a minute.
STEP_SECONDS = 120


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Send a state to the supervisor, if there is one. One that does not read its socket is not waited for."""
    address = environment.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel, suppress(BlockingIOError):
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.send(state.encode(), socket.MSG_DONTWAIT)


def starting(step: str) -> None:
    """Tell what the start is doing, and that it may take a while more."""
    notify(f"STATUS=starting: {step}\nEXTEND_TIMEOUT_USEC={STEP_SECONDS * MICRO}")


def reloading() -> None:
    """Tell that the configuration is read again; the next status with READY=1 ends it."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def ping_seconds(environment: Mapping[str, str] = os.environ) -> float | None:
    """Give how often the watchdog of this process wants to hear of it: at half its patience. None without one."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    for_another = environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid())
    return None if not microseconds.isdigit() or for_another else int(microseconds) / MICRO / 2


async def watch(status: Callable[[], str], environment: Mapping[str, str] = os.environ) -> None:
    """Ping the watchdog and renew the status line until cancelled.

    This runs on the event loop, so a ping shows that the loop turns: that requests are taken and answered. A device
    that hangs does not stop it.
    """
    seconds = ping_seconds(environment)
    if "NOTIFY_SOCKET" not in environment:
        return

    def ping() -> None:
        notify(("WATCHDOG=1\n" if seconds else "") + f"STATUS={status()}", environment)

    await repeat("status", ping, seconds or STATUS_SECONDS)
