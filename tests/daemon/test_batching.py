"""What waits together runs together: which jobs make a batch, what it passes, how long it waits, who pays what."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.budget import Reservation
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.lane import Outcome
from daemon.ledger import provisional
from daemon.tasks import Job
from hal.artifact import OperatingPoint
from hal.device import Inference
from tests.daemon.builders import Bench, ManualClock, drive, entered, hosting, make_artifact, make_point, turns

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.points import Point
    from tests.daemon.builders import Host

ROOMY = {"roomy": PolicyConfig("accuracy", 1.0)}
# Longer than any test takes: who waited for it would be seen to hang.
PATIENT = {"patient": PolicyConfig("accuracy", 1.0, batch_delay_seconds=1.0)}
TWO_WAYS = make_artifact(operating_points=(OperatingPoint(0.9, steps=4), OperatingPoint(0.8, steps=2)))


def _job(host: Host, point: Point, images: int = 1) -> Job:
    return Job(point, np.zeros((images, 1, 2), np.uint8), host.clock() + NANO, Reservation(0), 0.001)


def test_a_batch_passes_other_points(tmp_path: Path) -> None:
    """Jobs of two operating points take turns in the queue: each point runs once, the first in line first."""

    async def scenario() -> None:
        bench, landed = Bench(batch_limit=4), list[list[Job]]()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            await host.fleet.put("toy", [TWO_WAYS])
            slow, quick = host.points
            lane = host.fleet.lanes["chip"]
            done = asyncio.Event()

            def note(jobs: list[Job], _: Outcome) -> None:
                landed.append(jobs)
                if sum(map(len, landed)) == 8:
                    done.set()

            lane.landed = note
            bench.gate.clear()
            lane.submit(_job(host, slow))
            await entered(bench)
            jobs = [_job(host, point) for point in (slow, quick, slow, quick, slow)]
            large, last = _job(host, slow, images=4), _job(host, slow)
            for job in (*jobs, large, last):
                lane.submit(job)
            bench.gate.set()
            await done.wait()
            assert landed[1:] == [[jobs[0], jobs[2], jobs[4], last], [jobs[1], jobs[3]], [large]]

    clock = ManualClock()
    drive(clock, scenario())


def test_maintenance_is_passed_by_nobody(tmp_path: Path) -> None:
    """What the device is to do between two jobs, it does between them, though they could run as one."""

    async def scenario() -> None:
        bench = Bench(batch_limit=4)
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            first = host.ask()
            await entered(bench)
            before = host.ask()
            await turns()
            seen = host.fleet.lanes["chip"].call(lambda: list(bench.batches))
            after = [host.ask(), host.ask()]
            await turns()
            bench.gate.set()
            await asyncio.gather(first, before, *after)
            assert await seen == [1, 1]
            assert bench.batches == [1, 1, 2]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_a_device_waits_for_a_fuller_batch(tmp_path: Path) -> None:
    """Once requests come several at a time, the batch runs when it is full, not when it begins."""

    async def scenario() -> None:
        bench = Bench(batch_limit=2)
        async with hosting(tmp_path, clock, PATIENT, bench) as host:
            bench.gate.clear()
            first = host.ask(seconds=60)
            await entered(bench)
            others = [host.ask(seconds=60) for _ in range(2)]
            await turns()
            bench.gate.set()
            await asyncio.gather(first, *others)
            assert bench.batches == [1, 2]
            half = host.ask(seconds=60)
            await turns()
            await asyncio.gather(half, host.ask(seconds=60))
            assert bench.batches == [1, 2, 2]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


@pytest.mark.parametrize("policies", [ROOMY, {"for ever": PolicyConfig("accuracy", 1.0, batch_delay_seconds=1e6)}])
def test_who_comes_alone_does_not_wait(tmp_path: Path, policies: dict[str, PolicyConfig]) -> None:
    """Requests one after the other run at once, however long the policy would let them wait."""

    async def scenario() -> None:
        bench = Bench(batch_limit=4)
        async with hosting(tmp_path, clock, policies, bench) as host:
            for _ in range(5):
                await host.ask(seconds=1e5)
            assert bench.batches == [1] * 5
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_nobody_waits_beyond_a_deadline(tmp_path: Path) -> None:
    """The first request of a batch has no time to spare: it runs at once, and in time."""

    async def scenario() -> None:
        bench = Bench(batch_limit=4)
        async with hosting(
            tmp_path, clock, {"for ever": PolicyConfig("accuracy", 1.0, batch_delay_seconds=1e6)}, bench
        ) as host:
            bench.gate.clear()
            first = host.ask(seconds=1e5)
            await entered(bench)
            others = [host.ask(seconds=1e5) for _ in range(4)]
            await turns()
            bench.gate.set()
            await asyncio.gather(first, *others)
            assert bench.batches == [1, 4]
            await host.ask(seconds=0.004)
            assert bench.batches == [1, 4, 1]

    clock = ManualClock()
    drive(clock, scenario())


def test_nobody_makes_another_late(tmp_path: Path) -> None:
    """A request that has little time left runs with no more others than it has time for; they follow as one batch."""

    async def scenario() -> None:
        bench = Bench(batch_limit=16)
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            first = host.ask()
            await entered(bench)
            others = [host.ask(seconds=0.004), *(host.ask() for _ in range(9))]
            await turns()
            bench.gate.set()
            await asyncio.gather(first, *others)
            assert bench.batches == [1, 4, 6]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=20),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
)
def test_shares_of_a_batch_add_up(images: list[int], dynamic: int, uncertainty: int) -> None:
    """Whatever a batch cost, its requests pay exactly that together, each by its images to the nanojoule."""
    total = sum(images)
    inference = Inference(np.zeros((total, 2), np.float32), 4, 1.0, dynamic / NANO, uncertainty / NANO, 0.0)
    firsts = [sum(images[:index]) for index in range(len(images))]
    shares = [
        provisional(make_point(), inference, 0.25, first, count) for first, count in zip(firsts, images, strict=True)
    ]
    assert sum(share.dynamic_nanojoules for share in shares) == round(inference.dynamic_joules * NANO)
    assert sum(share.static_nanojoules for share in shares) == NANO // 4
    assert sum(share.uncertainty_nanojoules for share in shares) == round(inference.uncertainty_joules * NANO)
    assert all(
        abs(share.dynamic_nanojoules - dynamic * count / total) <= 1
        for share, count in zip(shares, images, strict=True)
    )
