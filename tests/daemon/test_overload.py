"""Beyond its capacity the daemon answers as much as ever: who will not be served is told at once, and nobody later."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.errors import OverBudget, Overloaded, RequestError
from tests.daemon.builders import Bench, hosting
from tests.daemon.virtual import VirtualTime, play

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from hal.device import Cost, Inference
    from tests.daemon.builders import Host

CAPACITY = 50.0
SECONDS = 4.0
DEADLINE_SECONDS = 0.5
# An image costs a bench 100 nanojoules; twice as much is reserved until it has run.
POLICIES = {
    "device": PolicyConfig("accuracy", 1.0),
    "budget": PolicyConfig("accuracy", CAPACITY * 100 / NANO, 1.0),
    "bursts": PolicyConfig("accuracy", 1.0, burst_joules=500 / NANO, burst_watts=CAPACITY * 100 / NANO),
}
SERVICE_SECONDS = {"device": 1 / CAPACITY, "budget": 0.002, "bursts": 0.002}


class Device(Bench):
    """A device whose runs take about as long as it is told, an image after the other."""

    def __init__(self, time: VirtualTime, seconds: float, batch_limit: int) -> None:
        super().__init__(batch_limit=batch_limit)
        self._time, self._seconds, self._chance = time, seconds, random.Random(7)  # noqa: S311

    def cost(self, steps: int, margin: int = 0) -> Cost:
        """Give the cost of one image."""
        return replace(super().cost(steps), seconds=self._seconds)

    def __call__(self, images: NDArray[Any], steps: int, margin: int = 0) -> Inference:
        """Take the time, then answer."""
        for _ in images:
            self._time.sleep(round(self._seconds * self._chance.uniform(0.8, 1.2) * NANO))
        return super().__call__(images, steps, margin)


async def _send(host: Host, rate: float) -> list[tuple[type[BaseException] | None, float]]:
    """Send requests at random moments; give how each ended, and after how many seconds."""
    ends, chance = list[tuple[type[BaseException] | None, float]](), random.Random(11)  # noqa: S311

    async def one() -> None:
        sent, refused = host.clock(), None
        try:
            await host.ask(seconds=DEADLINE_SECONDS)
        except RequestError as error:
            refused = type(error)
        ends.append((refused, (host.clock() - sent) / NANO))

    loop, asked, due = asyncio.get_running_loop(), list[asyncio.Task[None]](), 0.0
    ready = loop.create_future()
    while (due := due + chance.expovariate(rate)) < SECONDS:
        loop.call_later(due, lambda: asked.append(asyncio.ensure_future(one())))
    loop.call_later(SECONDS, ready.set_result, None)
    await ready
    await asyncio.gather(*asked)
    return ends


@pytest.mark.parametrize("batch_limit", [1, 64])
@pytest.mark.parametrize("limited_by", POLICIES)
def test_refused_at_once_or_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited_by: str, batch_limit: int
) -> None:
    """At one to ten times the capacity: who is not refused on arrival is answered, and they are as many as ever."""

    async def scenario(rate: float) -> float:
        bench = Device(time, SERVICE_SECONDS[limited_by], batch_limit)
        policies = {limited_by: POLICIES[limited_by]}
        async with hosting(tmp_path / str(rate), time, policies, bench) as host:
            ends = await _send(host, rate)
            assert {seconds for error, seconds in ends if error is not None} <= {0.0}
            assert {error for error, _ in ends} <= {None, OverBudget if limited_by != "device" else Overloaded}
            assert host.at_rest()
            return sum(error is None for error, _ in ends) / SECONDS

    goodput = []
    for factor in (1, 2, 4, 10):
        time = VirtualTime()
        goodput.append(play(time, scenario(factor * CAPACITY), monkeypatch))
    assert min(goodput[1:]) >= 0.95 * CAPACITY
    assert goodput[-1] >= 0.9 * max(goodput)
