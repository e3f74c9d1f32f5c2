"""Simulate the daemon's core from a seed: arrivals, faults, policy switches, kills and restarts, in virtual time.

    python -m tests.soak.core [--seeds N] [--first SEED]

All that decides is the daemon's own: dispatcher, router, budget, power states, lanes, health, journal, meters' books.
Devices are made up, their requests take time and joules at random; they fail, hang and come back. A killed daemon
leaves its journal as it was at that moment, and the next one starts from it. `tests.bench.simulation` has a dispatcher
of its own, so that it can answer millions of requests; this one answers few, and leaves nothing out.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from daemon.audit import ANSWERED, audit
from daemon.background import repeat
from daemon.clock import NANO
from daemon.config import DeviceConfig, PolicyConfig
from daemon.errors import RequestError
from daemon.history import History, read_journal
from daemon.identity import check_identity
from daemon.waiting import DEFAULT_PRIORITY, FIRST_PRIORITY, LAST_PRIORITY
from hal.artifact import OperatingPoint
from hal.device import Cost, Inference
from hal.errors import DeviceUnavailable, Reason
from tests.daemon.builders import Bench, Host, hosting, make_artifact
from tests.daemon.virtual import VirtualTime, play

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daemon.flight import Answer

ARTIFACT = make_artifact(
    operating_points=(OperatingPoint(0.9, steps=8), OperatingPoint(0.85, steps=4), OperatingPoint(0.7, steps=2))
)
TIME_LIMIT_SECONDS = 0.3
HANG_SECONDS = 0.8
# Requests per second, in each of which a device is given a few hundred nanojoules.
RATE = 60.0
DEMAND_WATTS = RATE * 1000 / NANO
WINDOWS_SECONDS = (0.5, 1.0, 3.0)
DEADLINES_SECONDS = (0.0005, 0.02, 0.2, 0.2, 1.0, 4.0)
PRIORITIES = (FIRST_PRIORITY, DEFAULT_PRIORITY, DEFAULT_PRIORITY, LAST_PRIORITY)
LIVES = (1, 2, 3)
LIFE_SECONDS = (0.5, 4.0)
# How often each happens, against the others.
DEEDS = {"ask": 300, "burst": 8, "cancel": 20, "switch": 6, "fail": 2, "hang": 1, "lull": 1}
METERS_SECONDS = 0.25
PATIENCE_SECONDS = 10.0
# A journal that is written to memory is as good here, and quick.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108


class Device(Bench):
    """A device whose runs take time and joules at random, each within its bound."""

    def __init__(self, name: str, time: VirtualTime, seed: str) -> None:
        self._chance = random.Random(seed)  # noqa: S311
        chance = self._chance
        static_watts = chance.choice([0.0, 0.2, 1.0]) * DEMAND_WATTS
        joules = static_watts * chance.choice([0.5, 5.0])
        reopening = Cost(joules, joules * 1.3, chance.choice([0.0, 0.05, 0.3])) if static_watts else None
        super().__init__(name, batch_limit=chance.choice([1, 1, 4, 8]), static_watts=static_watts, reopening=reopening)
        self.hangs = 0
        self._time = time
        self._each = Cost(chance.uniform(20e-9, 200e-9), 200e-9 * chance.uniform(1.0, 2.0), chance.uniform(1e-4, 3e-3))

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Give what one image takes, on average and at most."""
        each = self._each
        return Cost(each.dynamic_joules * steps, each.upper_joules * steps, each.seconds * steps)

    def power(self, on: bool) -> None:
        """Take the time that powering up takes, then follow, or fail."""
        if on and self._reopening:
            self._time.sleep(round(self._reopening.seconds * NANO))
        super().power(on)

    def __call__(self, images: NDArray[Any], steps: int, margin: int = 0) -> Inference:
        """Take time, hang or fail, or answer."""
        count, cost = len(images), self.cost(steps)
        seconds = count * cost.seconds * self._chance.uniform(0.5, 1.5)
        if self.hangs:
            self.hangs -= 1
            seconds += HANG_SECONDS
        self._time.sleep(round(seconds * NANO))
        answer = super().__call__(images, steps, margin)
        joules = count * min(cost.dynamic_joules * self._chance.uniform(0.7, 1.3), cost.upper_joules)
        return Inference(answer.scores, steps, seconds, joules, joules / 10, 0.0)


@dataclass
class Run:
    """A simulation: the replies that clients got, over all lives, and how everything ended."""

    seed: int
    folder: Path
    time: VirtualTime = field(default_factory=VirtualTime)
    ends: Counter[str] = field(default_factory=Counter)
    replies: set[int] = field(default_factory=set)
    kills: int = 0

    def __post_init__(self) -> None:
        chance = self._chance = random.Random(self.seed)  # noqa: S311
        names = ["chip", "spare", "third"][: chance.randint(1, 3)]
        self._devices = [Device(name, self.time, f"{self.seed} {name}") for name in names]
        self._configs = dict.fromkeys(names, DeviceConfig("loihi-sim", time_limit_seconds=TIME_LIMIT_SECONDS))
        self._policies = {f"policy-{number}": self._policy() for number in range(4)}
        self._asked: list[asyncio.Task[Answer]] = []

    def _policy(self) -> PolicyConfig:
        chance = self._chance
        static_watts = sum(device.static_watts() for device in self._devices)
        watts = static_watts + chance.choice([0.15, 0.5, 1.2, 5.0]) * DEMAND_WATTS
        strategy = chance.choice(["accuracy", "balanced", "saver", "latency", "pin"])
        burst = chance.random() < 0.25
        return PolicyConfig(
            strategy,
            chance.choices([watts, 0.0], [7, 1])[0],
            chance.choice(WINDOWS_SECONDS),
            min_accuracy=chance.choice([0.0, 0.8]),
            pin=chance.choice([device.name for device in self._devices]) if strategy == "pin" else "",
            burst_joules=watts * 0.2 if burst else 0.0,
            burst_watts=watts * 1.1 if burst else 0.0,
            power_down=tuple(each.name for each in self._devices if each.reopening() and chance.random() < 0.5),
        )

    async def play(self) -> None:
        """Let the daemon live, end or be killed, and live again."""
        for life in range(lives := self._chance.choice(LIVES)):
            folder = self.folder
            for device in self._devices:
                device.on, device.hangs = True, 0
                device.failures.clear()
            async with hosting(
                folder, self.time, self._policies, *self._devices, devices=self._configs, artifact=ARTIFACT
            ) as host:
                host.dispatcher.recover(host.journal.store, "boot")
                beside = [
                    asyncio.create_task(host.dispatcher.watch_power()),
                    asyncio.create_task(repeat("meters", host.metering.sample, METERS_SECONDS)),
                ]
                await self._live(host, self._chance.uniform(*LIFE_SECONDS))
                if life < lives - 1 and self._chance.random() < 0.6:
                    self._kill(host, folder.with_name(f"{folder.name}-{life}"))
                await self._drain(host, beside, killed=self.folder != folder)

    def _kill(self, host: Host, folder: Path) -> None:
        """Keep what a daemon that dies now leaves; what it does from here on never happened."""
        self._note()
        with host.journal._moving:
            shutil.copytree(self.folder, folder)
        self.folder = folder
        self.kills += 1

    def _note(self) -> None:
        """Count how requests ended, as their clients saw it."""
        for task in self._asked:
            if not task.done():
                continue
            if task.cancelled():
                self.ends["cancelled"] += 1
            elif (error := task.exception()) is None:
                self.ends[ANSWERED] += 1
                self.replies.add(task.result().request_id)
            else:
                assert isinstance(error, RequestError), f"a client saw {error!r}"
                self.ends[type(error).__name__] += 1

    async def _live(self, host: Host, seconds: float) -> None:
        until = self.time() + round(seconds * NANO)
        while self.time() < until:
            await asyncio.sleep(self._chance.expovariate(RATE))
            deed = self._chance.choices(list(DEEDS), list(DEEDS.values()))[0]
            await self._do(deed, host)

    async def _do(self, deed: str, host: Host) -> None:
        chance, device = self._chance, self._chance.choice(self._devices)
        if deed == "ask":
            self._ask(host)
        elif deed == "burst":
            for _ in range(30):
                self._ask(host)
        elif deed == "cancel" and self._asked:
            chance.choice(self._asked[-20:]).cancel()
        elif deed == "switch":
            host.dispatcher.set_policy(chance.choice(list(self._policies)))
        elif deed == "fail":
            reason = chance.choice([Reason.FAILED, Reason.LOST])
            device.failures += [DeviceUnavailable(device.name, reason)] * chance.randint(1, 3)
        elif deed == "hang":
            device.hangs += 1
        elif deed == "lull":
            await asyncio.sleep(chance.uniform(1.0, 8.0))

    def _ask(self, host: Host) -> None:
        chance = self._chance
        wanted: dict[str, Any] = {"min_accuracy": 0.8} if chance.random() < 0.1 else {}
        # In every other seed, so that the others stay as they were.
        if self.seed % 2:
            wanted["priority"] = chance.choice(PRIORITIES)
        self._asked.append(host.ask(chance.randint(1, 3), seconds=chance.choice(DEADLINES_SECONDS), **wanted))

    async def _drain(self, host: Host, beside: list[asyncio.Task[Any]], *, killed: bool) -> None:
        """Let everything come to its end; where the daemon was not killed nothing is left behind."""
        await asyncio.gather(*self._asked, return_exceptions=True)
        beside[0].cancel()
        async with asyncio.timeout(PATIENCE_SECONDS):
            # A device with work left ends it in time that passes only so.
            while self.time.sleeping or any(lane._tasks._arrived.qsize() for lane in host.fleet.lanes.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        beside[1].cancel()
        for task in beside:
            with suppress(asyncio.CancelledError):
                await task
        if not killed:
            _check_rest(host)
            self._note()
        self._asked = []


def _check_rest(host: Host) -> None:
    """Check that nothing is queued, dispatched or waiting, and nothing reserved but for devices about to come up."""
    dispatcher, supplies = host.dispatcher, host.dispatcher.power.supplies.values()
    reserved = sum(each.reservation.nanojoules for each in supplies if each.reservation)
    held = dispatcher.budget.reserved_nanojoules - reserved
    queued = {lane.name: lane.queued for lane in host.fleet.lanes.values() if lane.queued or lane.backlog_seconds}
    flying, waiting = len(dispatcher._flying), len(dispatcher._waiting)
    assert (held, queued, flying, waiting) == (0, {}, 0, 0), f"{held} nJ reserved, {queued=}, {flying=}, {waiting=}"


def simulate(seed: int, folder: Path) -> tuple[Run, History]:
    """Play a seed and check every promise on the journal that it leaves. Raises `AssertionError`."""
    run = Run(seed, folder / "state")
    with pytest.MonkeyPatch.context() as patch:
        play(run.time, run.play(), patch)
    history = read_journal(run.folder / "journal.db")
    findings = [*audit(history), check_identity(run.folder / "journal.db")]
    broken = [f"{finding.invariant}: {violation}" for finding in findings for violation in finding.violations]
    recorded = set(history.requests.numbers[history.requests.statuses == ANSWERED].tolist())
    broken += [f"reply {number} is not recorded" for number in sorted(run.replies - recorded)]
    assert not broken, f"seed {seed}: {'; '.join(broken)}"
    return run, history


def main() -> None:
    """Play as many seeds as the command line says; name those that break a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    failed, ends, kills = [], Counter[str](), 0
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory(prefix="jouled-core-", dir=MEMORY) as folder:
            try:
                run, _ = simulate(seed, Path(folder))
            except Exception as error:  # noqa: BLE001 (whatever it is, the seed is worth keeping)
                failed.append(seed)
                print(f"seed {seed}: {error!r}", flush=True)
            else:
                ends += run.ends
                kills += run.kills
    print(f"{options.seeds} seeds from {options.first} on, {kills} kills, requests {dict(ends)}, failed seeds {failed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
