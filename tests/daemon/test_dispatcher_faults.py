"""Failing devices, policy switches, waiting for the budget: each request still ends exactly once."""

from __future__ import annotations

import asyncio
import random
import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.audit import audit
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.errors import (
    DeadlinePassed,
    NoCandidate,
    NotFound,
    OverBudget,
    Overloaded,
    PolicyRefused,
    RequestError,
    Unavailable,
)
from daemon.history import read_journal
from daemon.journal import Journal
from hal.errors import DeviceUnavailable, Reason
from tests.daemon.builders import Bench, ManualClock, drive, entered, hosting, turns

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.flight import Answer
    from daemon.journal_sums import SummaryRow
    from tests.daemon.builders import Host

# Joules of a bench come in hundreds of nanojoules, so the budgets here are nanowatts.
ROOMY = {"roomy": PolicyConfig("accuracy", 1.0)}


def _watts(nanojoules: int) -> PolicyConfig:
    """Give a policy that allows so many nanojoules in a second."""
    return PolicyConfig("accuracy", nanojoules / NANO, 1.0)


def test_killed_after_a_failure(tmp_path: Path) -> None:
    """A daemon that dies in the second attempt is charged for the first as well."""

    async def scenario() -> None:
        chip, spare = Bench(), Bench("spare")
        async with hosting(tmp_path / "live", clock, ROOMY, chip, spare) as host:
            chip.failures = [DeviceUnavailable("chip", Reason.LOST)]
            spare.gate.clear()
            asked = host.ask()
            await entered(spare)
            with host.journal._moving:
                shutil.copytree(tmp_path / "live", tmp_path / "killed")
            spare.gate.set()
            await asked
        revived = Journal(tmp_path / "killed", "boot", clock, clock)
        assert revived.store.recent("boot", clock(), clock(), NANO) == [(clock(), 200), (clock(), 200)]
        revived.close()

    clock = ManualClock()
    drive(clock, scenario())


def test_killed_between_attempts(tmp_path: Path) -> None:
    """A daemon that dies while a request waits for its second attempt is charged for the first, once."""

    async def scenario() -> None:
        chip = Bench()
        async with hosting(tmp_path / "live", clock, {"small": _watts(300)}, chip, Bench("spare")) as host:
            chip.failures = [DeviceUnavailable("chip", Reason.FAILED)]
            asked = host.ask(seconds=2.0)
            await host.until(lambda: host.fleet.lanes["chip"].lost)
            await turns()
            with host.journal._moving:
                shutil.copytree(tmp_path / "live", tmp_path / "killed")
            asked.cancel()
            await turns()
        revived = Journal(tmp_path / "killed", "boot", clock, clock)
        spent = revived.store.recent("boot", clock(), clock(), NANO)
        revived.close()
        assert spent == [(clock(), 200)]

    clock = ManualClock()
    drive(clock, scenario())


def test_every_device_fails(tmp_path: Path) -> None:
    """With no device left the request is refused; what its attempts may have spent is recorded."""

    async def scenario() -> None:
        chip, spare = Bench(), Bench("spare")
        async with hosting(tmp_path, clock, ROOMY, chip, spare) as host:
            for bench in (chip, spare):
                bench.failures = [DeviceUnavailable(bench.name, Reason.FAILED, "secret of the inside")]
                bench.loadable.clear()
            with pytest.raises(Unavailable) as caught:
                await host.ask()
            assert "secret" not in str(caught.value)
            with pytest.raises(Unavailable):
                await host.ask()
            assert host.rows() == [("unavailable", 0), ("unavailable", 0)]
            assert host.attempts() == [(1, 1, 200), (1, 2, 200)]
            assert host.dispatcher.budget.spent_nanojoules(clock()) == 400
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_deadline_while_failing(tmp_path: Path) -> None:
    """A run that fails after its request ended is recorded at its bound."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            bench.failures = [DeviceUnavailable("chip", Reason.HUNG)]
            asked = host.ask()
            await entered(bench)
            clock.advance(NANO)
            with pytest.raises(DeadlinePassed):
                await asked
            bench.gate.set()
            host.until_done()
            await turns()
            assert (host.rows(), host.attempts()) == ([("deadline", 0)], [(1, 1, 200)])
            assert host.dispatcher.budget.spent_nanojoules(clock()) == 200
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_switch_recalls_what_is_queued(tmp_path: Path) -> None:
    """A policy switch decides again what is queued; what runs keeps its policy."""

    async def scenario() -> None:
        chip, spare = Bench(), Bench("spare")
        policies = {"first": PolicyConfig("pin", 1.0, pin="chip"), "second": PolicyConfig("pin", 1.0, pin="spare")}
        async with hosting(tmp_path, clock, policies, chip, spare) as host:
            chip.gate.clear()
            running, *queued = [host.ask(value=value) for value in range(4)]
            await entered(chip)
            assert host.dispatcher.set_policy("second") == "first"
            answers = await asyncio.gather(*queued)
            assert [answer.policy for answer in answers] == ["second"] * 3
            assert [answer.point.device for answer in answers] == ["spare"] * 3
            assert [answer.scores[0, 0] for answer in answers] == [1.0, 2.0, 3.0]
            chip.gate.set()
            assert (await running).policy == "first"
            assert [row.policy for row in _summary(host)] == ["first", "second"]
            assert chip.batches == [1]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def _summary(host: Host) -> list[SummaryRow]:
    """Give the summary of the journal with all that was recorded so far."""
    host.journal.move()
    return host.journal.store.summary(0)


def test_unknown_policy(tmp_path: Path) -> None:
    """An unknown policy is refused by name and changes nothing."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, ROOMY, Bench()) as host:
            with pytest.raises(NotFound, match="no policy 'rumy'; did you mean 'roomy'"):
                host.dispatcher.set_policy("rumy")
            assert host.dispatcher.router.name == "roomy"

    clock = ManualClock()
    drive(clock, scenario())


def test_limit_below_static_power(tmp_path: Path) -> None:
    """A limit that static power alone breaks is refused at the start, one of zero is not."""

    async def scenario() -> None:
        policies = {"roomy": PolicyConfig("accuracy", 1.0), "none": PolicyConfig("accuracy", 0.0)}
        async with hosting(tmp_path, clock, policies, Bench(static_watts=0.5)) as host:
            host.dispatcher.set_policy("none")
            with pytest.raises(OverBudget) as caught:
                await host.ask()
            assert caught.value.retry_seconds == 10.0
            assert host.rows() == [("over_budget", 0)]
        policies["low"] = PolicyConfig("accuracy", 0.4)
        with pytest.raises(PolicyRefused, match=r"policy\.low\.budget_watts: 0\.4 is below the static power of 0\.500"):
            async with hosting(tmp_path, clock, policies, Bench(static_watts=0.5)):
                pass

    clock = ManualClock()
    drive(clock, scenario())


@pytest.mark.parametrize(
    ("seconds", "wanted", "error", "status"),
    [
        (1.0, {"min_accuracy": 0.99}, NoCandidate, "no_candidate"),
        (1e-4, {}, DeadlinePassed, "deadline"),
        (1.0, {"images": 6}, OverBudget, "over_budget"),
    ],
)
def test_refusals(
    tmp_path: Path, seconds: float, wanted: dict[str, float], error: type[RequestError], status: str
) -> None:
    """What cannot be served is refused with its reason, and recorded."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, {"small": _watts(1000)}, Bench()) as host:
            with pytest.raises(error):
                await host.ask(seconds=seconds, **wanted)  # type: ignore[arg-type]
            assert host.rows() == [(status, 0)]
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_wait_for_the_window(tmp_path: Path) -> None:
    """A request waits for room in the window as long as its deadline allows."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, {"small": _watts(1000)}, Bench()) as host:
            host.dispatcher.seed([(clock() - NANO // 2, 900)])
            asked = host.ask(seconds=2)
            await turns()
            assert not asked.done()
            clock.advance(NANO // 2 - 1)
            await turns()
            assert not asked.done()
            clock.advance(1)
            answer = await asked
            assert answer.queue_seconds == 0.5
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_settling_wakes_all_that_now_fit(tmp_path: Path) -> None:
    """When a run costs less than it reserved, all who wait and now fit go on, in their order."""

    async def scenario() -> None:
        bench = Bench(batch_limit=8)
        async with hosting(tmp_path, clock, {"small": _watts(1000)}, bench) as host:
            bench.gate.clear()
            large = host.ask(images=5, seconds=3)
            await entered(bench)
            waiting = [host.ask(seconds=3, value=value) for value in range(4)]
            await turns()
            assert len(host.dispatcher._waiting) == 4
            bench.gate.set()
            await large
            answers = await asyncio.gather(*waiting[:3])
            assert [answer.scores[0, 0] for answer in answers] == [0.0, 1.0, 2.0]
            assert (await waiting[3]).queue_seconds == 0.0
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


@pytest.mark.parametrize("end", ["cancelled", "refused"])
def test_a_wasted_turn_is_passed_on(tmp_path: Path, end: str) -> None:
    """Who is woken first but no longer needs its turn lets the next one have it."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, {"small": _watts(400)}, bench) as host:
            host.dispatcher.seed([(clock() - NANO // 2, 50)])
            bench.gate.clear()
            large = host.ask(seconds=3)
            await entered(bench)
            first = host.ask(seconds=1.2 if end == "refused" else 3.0)
            second = host.ask(seconds=3)
            await turns()
            assert len(host.dispatcher._waiting) == 2
            bench.gate.set()
            host.until_done()
            if end == "cancelled":
                first.cancel()
            else:
                host.fleet.models["toy"]["1"].points[0].service_seconds = 2.0
            answers = await asyncio.gather(large, first, second, return_exceptions=True)
            assert isinstance(answers[1], asyncio.CancelledError if end == "cancelled" else Overloaded)
            assert not isinstance(answers[2], BaseException)
            assert answers[2].queue_seconds == 0.0
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_switch_wakes_everyone(tmp_path: Path) -> None:
    """A policy switch decides again at once for all who wait."""

    async def scenario() -> None:
        policies = {"none": PolicyConfig("accuracy", 200 / NANO, 1.0), "roomy": PolicyConfig("accuracy", 1.0)}
        async with hosting(tmp_path, clock, policies, Bench()) as host:
            host.dispatcher.seed([(clock(), 1)])
            waiting = [host.ask(seconds=5) for _ in range(5)]
            await turns()
            assert len(host.dispatcher._waiting) == 5
            host.dispatcher.set_policy("roomy")
            answers = await asyncio.gather(*waiting)
            assert {answer.policy for answer in answers} == {"roomy"}
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_seed_fills_the_window(tmp_path: Path) -> None:
    """What was spent before the start leaves no room for more."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, {"small": _watts(1000)}, Bench()) as host:
            host.dispatcher.seed([(clock() - NANO // 4, 500), (clock(), 400)])
            with pytest.raises(OverBudget) as caught:
                await host.ask(seconds=0.7)
            assert caught.value.retry_seconds == 0.75

    clock = ManualClock()
    drive(clock, scenario())


@pytest.mark.parametrize("failures", [0, 1])
@pytest.mark.parametrize("seed", range(10))
def test_storm(tmp_path: Path, seed: int, failures: int) -> None:
    """Cancellations, deadlines, failures and policy switches in any order: every request ends once, no joule is lost.

    Without failures the audit of the journal finds no window over its limit; with them it cannot tell when within a
    request's row the failed attempt spent its part.
    """
    chance = random.Random(seed)  # noqa: S311

    async def scenario() -> None:
        benches = [Bench(batch_limit=4), Bench("spare"), Bench("third")]
        for bench in benches:
            bench.during = lambda: clock.advance(1000)
        policies = {"a": _watts(6000), "b": _watts(3000), "c": PolicyConfig("pin", 4e-6, 1.0, pin="spare")}
        async with hosting(tmp_path, clock, policies, *benches) as host:
            asked: list[asyncio.Task[Answer]] = []
            for _ in range(150):
                _stir(chance, host, benches, asked, failures)
                await turns(chance.randrange(4))
            for bench in benches:
                bench.gate.set()
            for _ in range(20):
                clock.advance(NANO)
                for bench in benches:
                    host.until_done(bench.name)
                await turns()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert all(not isinstance(each, Exception) or isinstance(each, RequestError) for each in answers)
            assert host.at_rest()
            rows = host.rows()
            # One that is cancelled before it has begun was never accepted.
            assert len(asked) >= len(rows) == host.journal.next_request_id() - 1 > len(asked) // 2
            assert {status for status, _ in rows} <= {
                "ok", "deadline", "cancelled", "unavailable", "over_budget", "overloaded", "no_candidate",
            }  # fmt: skip
            totals = host.dispatcher.budget._totals
            spent = sum(nanojoules for _, nanojoules in rows) + sum(nanojoules for *_, nanojoules in host.attempts())
            assert spent == totals[-1] - totals[0]
        for finding in audit(read_journal(tmp_path / "journal.db")):
            assert finding.violations == []

    clock = ManualClock()
    drive(clock, scenario())


def _stir(
    chance: random.Random, host: Host, benches: list[Bench], asked: list[asyncio.Task[Answer]], failures: int
) -> None:
    """Do one thing at random."""
    action = chance.choices(["ask", "cancel", "pass", "gate", "fail", "switch"], [10, 3, 4, 3, failures, 1])[0]
    bench = chance.choice(benches)
    if action == "ask":
        asked.append(host.ask(chance.randint(1, 3), seconds=chance.choice([0.002, 0.1, 2.0, 10.0])))
    elif action == "cancel" and asked:
        chance.choice(asked).cancel()
    elif action == "pass":
        host.clock.advance(chance.randrange(NANO // 5))
    elif action == "gate":
        (bench.gate.clear if bench.gate.is_set() else bench.gate.set)()
    elif action == "fail":
        bench.failures.append(DeviceUnavailable(bench.name, Reason.FAILED))
    elif action == "switch":
        host.dispatcher.set_policy(chance.choice(list(host.dispatcher.policies)))
