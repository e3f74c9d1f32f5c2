"""Devices are powered down and up between requests, in the budget, in the journal and on the devices themselves."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.audit import audit
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.errors import OverBudget, PolicyRefused
from daemon.health import HealthState
from daemon.history import read_journal
from daemon.identity import check_identity
from daemon.journal import Journal
from daemon.power import PowerState
from hal.device import Cost
from hal.errors import DeviceUnavailable, Reason
from tests.daemon.builders import Bench, ManualClock, drive, hosting, turns

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon.builders import Host

# Powering up costs a microjoule, two at most, and pays after ten seconds.
REOPENING = Cost(1e-6, 2e-6, 2.0)
WATTS = 1e-7
BREAK_EVEN = 10 * NANO
# Four windows hold what is on all the time and a few requests.
POLICIES = {
    "sparing": PolicyConfig("accuracy", 4 * WATTS, 10.0, power_down=("stick",)),
    "keeping": PolicyConfig("accuracy", 4 * WATTS, 10.0),
    "none": PolicyConfig("accuracy", 0.0, 10.0, power_down=("stick",)),
}


def _stick() -> Bench:
    return Bench("stick", static_watts=WATTS, reopening=REOPENING)


async def _step(host: Host) -> None:
    """Look at the power states, and wait until what is due is done."""
    host.dispatcher.switchboard.step(host.dispatcher.router.policy)
    await _done(host)


async def _done(host: Host) -> None:
    for device in host.fleet.lanes:
        await asyncio.to_thread(host.until_done, device)
    await turns()


async def _put_down(host: Host) -> None:
    """Let the stick go down, whose point is the better one."""
    next(point for point in host.points if point.device == "stick").accuracy = 0.95
    host.clock.advance(BREAK_EVEN)
    await _step(host)
    assert _state(host) is PowerState.OFF


def _state(host: Host) -> PowerState:
    return host.dispatcher.power.supplies["stick"].state


def _reigns(host: Host) -> list[tuple[str, float]]:
    """Give policy and static power of all reigns so far."""
    host.journal.move()
    found = host.journal.store._database.execute("SELECT policy, static_watts FROM reigns ORDER BY id")
    return found.fetchall()


def test_down_and_up_again(tmp_path: Path) -> None:
    """An idle device goes down, and a request that has the time brings it back and is answered by it."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, POLICIES, stick) as host:
            await _put_down(host)
            assert (stick.on, host.fleet.static_watts, host.dispatcher.budget.static_watts) == (False, 0.0, 0.0)
            clock.advance(2 * BREAK_EVEN)
            answer = await host.ask(seconds=5, value=7)
            assert answer.scores.tolist() == [[7.0, 7.0]]
            assert (stick.on, host.fleet.static_watts, _state(host)) == (True, WATTS, PowerState.ON)
            assert sorted(host.rows()) == [("maintenance", 1000), ("ok", 100)]
            assert _reigns(host) == [("sparing", WATTS), ("sparing", 0.0), ("sparing", WATTS)]
            assert host.at_rest()
        history = read_journal(tmp_path / "journal.db")
        assert history.spending.nanojoules.tolist() == [100, 1000]
        assert [finding.violations for finding in audit(history)] == [[]] * 4

    clock, stick = ManualClock(), _stick()
    drive(clock, scenario())


def test_powering_up_in_no_time(tmp_path: Path) -> None:
    """What powering up costs is no request's, however quick it is: the final figures are the model's, and add up."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, POLICIES, stick) as host:
            await _put_down(host)
            clock.advance(2 * BREAK_EVEN)
            await host.metering.sample()
            clock.advance(NANO)
            await host.ask(seconds=5)
            clock.advance(NANO)
            await host.metering.sample()
            assert sorted(host.rows()) == [("maintenance", 1000), ("ok", 100)]
        assert check_identity(tmp_path / "journal.db").violations == []

    clock, stick = ManualClock(), _stick()
    drive(clock, scenario())


def test_hurried_requests_go_elsewhere(tmp_path: Path) -> None:
    """Without the time to power a device up a request takes another; the second one like that brings it back."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, POLICIES, stick, Bench("chip")) as host:
            await _put_down(host)
            clock.advance(2 * BREAK_EVEN)
            assert (await host.ask(seconds=1)).point.device == "chip"
            await _step(host)
            assert not stick.on
            assert (await host.ask(seconds=1)).point.device == "chip"
            await _step(host)
            assert stick.on
            assert (await host.ask(seconds=1)).point.device == "stick"

    clock, stick = ManualClock(), _stick()
    drive(clock, scenario())


def test_killed_while_it_comes_up(tmp_path: Path) -> None:
    """What a daemon leaves that is killed while a device comes up is a journal without a gap."""
    state, left = tmp_path / "state", tmp_path / "left"

    async def scenario() -> None:
        async with hosting(state, clock, POLICIES, stick, Bench("chip")) as host:
            await _put_down(host)
            clock.advance(2 * BREAK_EVEN)
            for _ in range(2):
                assert (await host.ask(seconds=1)).point.device == "chip"
            stick.gate.clear()
            host.dispatcher.switchboard.step(host.dispatcher.router.policy)
            assert _state(host) is PowerState.OPENING
            assert (await host.ask(seconds=1)).point.device == "chip"
            shutil.copytree(state, left)

    clock, stick = ManualClock(), _stick()
    drive(clock, scenario())
    Journal(left, "boot", clock, clock).close()
    history = read_journal(left / "journal.db")
    assert sorted(history.requests.statuses.tolist()) == ["lost", "ok", "ok", "ok"]
    assert [finding.violations for finding in audit(history)] == [[]] * 4


def test_switch_to_a_policy_that_keeps_it_on(tmp_path: Path) -> None:
    """A policy that does not let a device be down has it back, and no request until then."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, POLICIES, stick) as host:
            await _put_down(host)
            host.dispatcher.seed([(clock(), 2500)])
            host.dispatcher.set_policy("keeping")
            await _done(host)
            assert _state(host) is PowerState.WAITING
            with pytest.raises(OverBudget):
                await host.ask(seconds=5)
            clock.advance(10 * NANO)
            await _step(host)
            assert stick.on
            assert (await host.ask(seconds=5)).policy == "keeping"
            assert [watts for _, watts in _reigns(host)] == [WATTS, 0.0, 0.0, WATTS]

    clock, stick = ManualClock(), _stick()
    drive(clock, scenario())


def test_budget_of_nothing(tmp_path: Path) -> None:
    """Under a budget of nothing what may be down goes down once it has done what it was given, without more waiting."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, POLICIES, stick) as host:
            stick.gate.clear()
            asked = host.ask(seconds=60)
            await turns()
            host.dispatcher.set_policy("none")
            await turns()
            stick.gate.set()
            await asyncio.gather(asked, return_exceptions=True)
            await _step(host)
            assert (stick.on, host.fleet.static_watts) == (False, 0.0)
            with pytest.raises(OverBudget):
                await host.ask(seconds=60)

    clock, stick = ManualClock(), _stick()
    drive(clock, scenario())


def test_does_not_come_up(tmp_path: Path) -> None:
    """A device that fails to come up is opened anew and powered down, its bound is charged, and another one answers."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, POLICIES, stick, Bench("chip")) as host:
            await _put_down(host)
            clock.advance(2 * BREAK_EVEN)
            stick.failures.append(DeviceUnavailable("stick", Reason.LOST))
            answer = await host.ask(seconds=5)
            assert answer.point.device == "chip"
            await _done(host)
            await host.until(lambda: host.fleet.lanes["stick"].state is HealthState.OFF)
            await _done(host)
            assert str(host.fleet.lanes["stick"].health.failure) == "stick: lost"
            assert (_state(host), stick.on, stick.closed) == (PowerState.OFF, False, 1)
            assert ("maintenance", 2000) in host.rows()
            assert host.at_rest()

    clock, stick = ManualClock(), _stick()
    drive(clock, scenario())


def test_does_not_go_down(tmp_path: Path) -> None:
    """A device that fails to go down stays on, whatever its driver raised."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, POLICIES, stick) as host:
            stick.failures.append(RuntimeError("stuck"))
            clock.advance(BREAK_EVEN)
            await _step(host)
            assert (_state(host), host.fleet.static_watts) == (PowerState.ON, WATTS)
            assert str(host.fleet.lanes["stick"].health.failure) == "stick: failed (RuntimeError: stuck)"

    clock, stick = ManualClock(), _stick()
    drive(clock, scenario())


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (PolicyConfig("saver", 1.0, power_down=("chip",)), "power_down: 'chip' has no power state but on"),
        (
            PolicyConfig("saver", 4e-8, power_down=("stick",)),
            "budget_watts: 4e-08 is below the static power of 0.000 W",
        ),
        (PolicyConfig("saver", 1.0, min_accuracy=0.95), "min_accuracy: 0.95 is reached by no operating point; .* 0.9"),
    ],
)
def test_refused_policies(tmp_path: Path, policy: PolicyConfig, reason: str) -> None:
    """What the host cannot keep is refused at the start; what may be down does not count into the least limit."""

    async def scenario() -> None:
        chip = Bench("chip", static_watts=5e-8)
        async with hosting(tmp_path / "good", clock, {"good": PolicyConfig("saver", 6e-8, 10.0)}, chip):
            pass
        with pytest.raises(PolicyRefused, match=rf"policy\.bad\.{reason}"):
            async with hosting(tmp_path / "bad", clock, {"bad": policy}, chip, _stick()):
                pass

    clock = ManualClock()
    drive(clock, scenario())
