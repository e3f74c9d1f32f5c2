"""Whoever listens is told of each request's end once, when no attempt of it runs any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.errors import DeadlinePassed
from hal.errors import DeviceUnavailable, Reason
from tests.daemon.builders import Bench, ManualClock, drive, entered, hosting, turns

if TYPE_CHECKING:
    from pathlib import Path

ROOMY = {"roomy": PolicyConfig("accuracy", 1.0)}
MILLISECOND = NANO // 1000


def test_an_answer_is_told_with_its_times_and_its_batch(tmp_path: Path) -> None:
    """Two requests run in one batch: each has waited, and ran as long as the batch did."""

    async def scenario() -> None:
        bench = Bench(batch_limit=8)
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            first = host.ask()
            await entered(bench)
            others = [host.ask(images=1), host.ask(images=2)]
            await turns()
            clock.advance(2 * MILLISECOND)
            bench.during = lambda: clock.advance(5 * MILLISECOND)
            bench.gate.set()
            await asyncio.gather(first, *others)
            ends = host.ended[1:]
            assert [(each.model, each.version, each.policy, each.status) for each in ends] == [
                ("toy", "1", "roomy", "ok")
            ] * 2
            assert [(each.images, each.batch, each.point) for each in ends] == [
                (images, 3, host.points[0]) for images in (1, 2)
            ]
            assert [each.energy.dynamic_nanojoules for each in ends if each.energy] == [100, 200]
            assert {(each.queue_nanoseconds, each.compute_nanoseconds) for each in ends} == {
                (7 * MILLISECOND, 5 * MILLISECOND)
            }
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_an_end_is_told_when_its_attempt_has_landed(tmp_path: Path) -> None:
    """The deadline passes while the request runs: its end is told later, with what it spent."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            asked = host.ask()
            await entered(bench)
            clock.advance(NANO)
            with pytest.raises(DeadlinePassed):
                await asked
            assert host.ended == []
            bench.gate.set()
            host.until_done()
            await turns()
            assert [(each.status, each.energy and each.energy.dynamic_nanojoules) for each in host.ended] == [
                ("deadline", 100)
            ]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_a_request_that_never_ran_only_waited(tmp_path: Path) -> None:
    """What was refused on arrival has neither device nor joules."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, ROOMY, Bench()) as host:
            with pytest.raises(DeadlinePassed):
                await host.ask(seconds=0)
            (end,) = host.ended
            assert (end.status, end.point, end.energy, end.batch) == ("deadline", None, None, 0)
            assert (end.queue_nanoseconds, end.compute_nanoseconds) == (0, 0)

    clock = ManualClock()
    drive(clock, scenario())


def test_a_failed_attempt_counts_beside_the_answer(tmp_path: Path) -> None:
    """What the first device may have spent is told with the answer of the second."""

    async def scenario() -> None:
        chip, spare = Bench(), Bench("spare")
        async with hosting(tmp_path, clock, ROOMY, chip, spare) as host:
            chip.failures = [DeviceUnavailable("chip", Reason.LOST)]
            await host.ask()
            (end,) = host.ended
            assert end.point is not None
            assert end.energy is not None
            assert (end.point.device, end.energy.dynamic_nanojoules, end.failed_nanojoules) == ("spare", 100, 200)
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())
