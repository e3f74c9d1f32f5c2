"""Every request ends exactly once, in the journal as well, and nothing stays reserved: whatever comes in between."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.errors import (
    DeadlinePassed,
)
from daemon.journal import Journal
from tests.daemon.builders import Bench, ManualClock, drive, entered, hosting, turns

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.flight import Answer
    from tests.daemon.builders import Host

# Joules of a bench come in hundreds of nanojoules, so the budgets here are nanowatts.
ROOMY = {"roomy": PolicyConfig("accuracy", 1.0)}


def _watts(nanojoules: int) -> PolicyConfig:
    """Give a policy that allows so many nanojoules in a second."""
    return PolicyConfig("accuracy", nanojoules / NANO, 1.0)


def test_answer(tmp_path: Path) -> None:
    """An answer carries scores, policy, point and joules, and the journal has the same."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, ROOMY, Bench()) as host:
            answer = await host.ask(images=3, value=7)
            assert answer.scores.tolist() == [[7.0, 7.0]] * 3
            assert (answer.policy, answer.steps, answer.point, answer.journaled) == ("roomy", 4, host.points[0], True)
            assert answer.energy[:3] == (300, 0, 30)
            assert (answer.energy.sharing, answer.energy.state) == ("exclusive", "provisional")
            assert host.rows() == [("ok", 300)]
            assert host.dispatcher.budget.spent_nanojoules(clock()) == 300
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_batch_shares_its_joules(tmp_path: Path) -> None:
    """Requests that wait for the same point run as one batch; each gets its own scores and its share."""

    async def scenario() -> None:
        bench = Bench(batch_limit=8)
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            first = host.ask()
            await entered(bench)
            others = [host.ask(images, value=images) for images in (1, 2, 3)]
            too_many = host.ask(images=4, value=4)
            await turns()
            bench.gate.set()
            answers = await asyncio.gather(first, *others, too_many)
            assert bench.batches == [1, 6, 4]
            assert [answer.scores[:, 0].tolist() for answer in answers[1:]] == [[1.0], [2.0] * 2, [3.0] * 3, [4.0] * 4]
            assert [answer.energy.dynamic_nanojoules for answer in answers] == [100, 100, 200, 300, 400]
            sharing = [answer.energy.sharing for answer in answers]
            assert sharing == ["exclusive", "shared", "shared", "shared", "exclusive"]
            assert sum(nanojoules for _, nanojoules in host.rows()) == 1100
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_deadline_on_arrival(tmp_path: Path) -> None:
    """A request whose deadline has passed is refused and recorded under the policy in force."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, ROOMY, Bench()) as host:
            with pytest.raises(DeadlinePassed):
                await host.ask(seconds=0)
            assert host.rows() == [("deadline", 0)]
            (row,) = host.journal.store.summary(0)
            assert (row.policy, row.status, row.requests) == ("roomy", "deadline", 1)

    clock = ManualClock()
    drive(clock, scenario())


def test_deadline_in_the_queue(tmp_path: Path) -> None:
    """A request whose deadline passes in the queue never runs and costs nothing."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            running, queued = host.ask(seconds=60), host.ask(seconds=1)
            await entered(bench)
            clock.advance(NANO)
            with pytest.raises(DeadlinePassed):
                await queued
            assert host.dispatcher.budget.reserved_nanojoules == 200
            bench.gate.set()
            await running
            host.until_done()
            assert bench.batches == [1]
            assert host.rows() == [("ok", 100), ("deadline", 0)]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_deadline_while_running(tmp_path: Path) -> None:
    """A run past its deadline is not waited for: its reservation stands until it lands, then what it spent."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            asked = host.ask()
            await entered(bench)
            clock.advance(NANO)
            with pytest.raises(DeadlinePassed):
                await asked
            assert host.rows() == [("deadline", 200)]
            assert host.dispatcher.budget.reserved_nanojoules == 200
            bench.gate.set()
            host.until_done()
            await turns()
            assert host.rows() == [("deadline", 100)]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_answer_after_the_deadline(tmp_path: Path) -> None:
    """What ends after its deadline is no answer, even if it lands before the timer; its joules are recorded."""

    async def scenario() -> None:
        bench = Bench()
        bench.during = lambda: clock.advance(NANO + 1)
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            with pytest.raises(DeadlinePassed):
                await host.ask()
            assert host.rows() == [("deadline", 100)]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def _cancel(_host: Host, asked: asyncio.Task[Answer]) -> None:
    asked.cancel()


def _expire(host: Host, _asked: asyncio.Task[Answer]) -> None:
    host.clock.advance(NANO)
    host.dispatcher._expire(list(host.dispatcher._flying)[1])


@pytest.mark.parametrize(
    ("end", "status", "error"), [(_cancel, "cancelled", asyncio.CancelledError), (_expire, "deadline", DeadlinePassed)]
)
def test_end_and_landing_in_one_turn(
    tmp_path: Path, end: Callable[[Host, asyncio.Task[Answer]], None], status: str, error: type[BaseException]
) -> None:
    """A request ends in the very turn of the loop in which its batch lands: the joules count, the others go on."""

    async def scenario() -> None:
        bench = Bench(batch_limit=8)
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            first = host.ask(seconds=60)
            await entered(bench)
            asked, other = host.ask(), host.ask(seconds=60)
            await turns()
            bench.gate.set()
            host.until_done()
            end(host, asked)
            with pytest.raises(error):
                await asked
            await first
            assert (await other).energy.dynamic_nanojoules == 100
            assert bench.batches == [1, 2]
            assert host.rows() == [("ok", 100), (status, 100), ("ok", 100)]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_cancelled_in_the_queue(tmp_path: Path) -> None:
    """A cancelled request leaves the queue and gives its reservation back."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            running, queued = host.ask(), host.ask()
            await entered(bench)
            queued.cancel()
            await turns()
            assert host.dispatcher.budget.reserved_nanojoules == 200
            assert host.fleet.lanes["chip"].queued == 1
            bench.gate.set()
            await running
            host.until_done()
            assert bench.batches == [1]
            assert host.rows() == [("ok", 100), ("cancelled", 0)]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_cancelled_while_running(tmp_path: Path) -> None:
    """What a cancelled request still spends is settled and recorded when its run lands."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            asked = host.ask()
            await entered(bench)
            asked.cancel()
            await turns()
            bench.gate.set()
            host.until_done()
            await turns()
            assert asked.cancelled()
            assert host.rows() == [("cancelled", 100)]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_cancelled_after_landing(tmp_path: Path) -> None:
    """A request that is cancelled when its answer was already recorded keeps that record."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            landed = host.dispatcher._landed
            asked = host.ask()

            def land_and_cancel(*landing: object) -> None:
                landed(*landing)  # type: ignore[arg-type]
                asked.cancel()

            host.fleet.lanes["chip"].landed = land_and_cancel
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert host.rows() == [("ok", 100)]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_killed_after_a_recall(tmp_path: Path) -> None:
    """Who was taken back from a queue and waits for the budget when the daemon dies has spent nothing."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path / "live", clock, {"roomy": _watts(1000), "tight": _watts(200)}, bench) as host:
            bench.gate.clear()
            running, waiting = host.ask(), host.ask()
            await entered(bench)
            host.dispatcher.set_policy("tight")
            await turns()
            with host.journal._moving:
                shutil.copytree(tmp_path / "live", tmp_path / "killed")
            waiting.cancel()
            bench.gate.set()
            await running
        revived = Journal(tmp_path / "killed", "boot", clock, clock)
        spent = revived.store.recent("boot", clock(), clock(), 10 * NANO)
        revived.close()
        assert spent == [(clock(), 200)]

    clock = ManualClock()
    drive(clock, scenario())
