"""A restart is no fresh window: what was off stays off until there is room, and what loading took is spent."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from daemon.audit import audit
from daemon.clock import NANO
from daemon.config import AccountConfig, MetersConfig, PolicyConfig
from daemon.history import read_journal
from daemon.power import PowerState
from hal.device import Cost
from tests.daemon.builders import Bench, ManualClock, drive, hosting, turns
from tests.energy.trees import chip

if TYPE_CHECKING:
    from pathlib import Path

    from tests.daemon.builders import Host

WATTS, WINDOW = 1e-7, 10 * NANO
# A window holds four times what the stick draws in it. A request takes 100 nanojoules and reserves 200.
SPARING = PolicyConfig("accuracy", 4 * WATTS, 10.0, power_down=("stick",))
KEEPING = PolicyConfig("accuracy", 4 * WATTS, 10.0)


def _stick() -> Bench:
    return Bench("stick", static_watts=WATTS, reopening=Cost(1e-7, 2e-7, 0.0))


async def _step(host: Host) -> None:
    host.dispatcher.switchboard.step(host.dispatcher.router.policy)
    await asyncio.to_thread(host.until_done, "stick")
    await turns()


def _live_and_be_killed(folder: Path, clock: ManualClock) -> Path:
    """Let a daemon power the stick down, fill the window without it, and die; give what it leaves."""
    state, left, stick = folder / "state", folder / "left", _stick()

    async def scenario() -> None:
        async with hosting(state, clock, {"sparing": SPARING}, stick, Bench("chip")) as host:
            clock.advance(WINDOW)
            await _step(host)
            assert not stick.on
            next(point for point in host.points if point.device == "stick").accuracy = 0.1
            clock.advance(WINDOW)
            for _ in range(38):
                assert (await host.ask()).point.device == "chip"
            host.journal.move()
            with host.journal._moving:
                shutil.copytree(state, left)

    drive(clock, scenario())
    return left


@pytest.mark.parametrize("policy", [SPARING, KEEPING], ids=["may be down", "kept on"])
def test_what_was_off_stays_off_until_there_is_room(tmp_path: Path, policy: PolicyConfig) -> None:
    """Right after a burst a restart powers down again what was down before, and what is to be on when it fits."""

    async def scenario() -> None:
        async with hosting(left, clock, {"again": policy}, stick, Bench("chip")) as host:
            host.dispatcher.recover(host.journal.store, "boot")
            await _step(host)
            await _step(host)
            state = host.dispatcher.power.supplies["stick"].state
            assert (stick.on, state) == (False, PowerState.OFF if policy is SPARING else PowerState.WAITING)
            clock.advance(WINDOW)
            await _step(host)
            assert stick.on is (policy is KEEPING)
            clock.advance(WINDOW)
        assert [finding.violations for finding in audit(read_journal(left / "journal.db"))] == [[]] * 4

    clock, stick = ManualClock(), _stick()
    left = _live_and_be_killed(tmp_path, clock)
    drive(clock, scenario())


def test_what_fits_is_left_on(tmp_path: Path) -> None:
    """Once the burst has passed there is room for all devices, and they stay as they were opened."""

    async def scenario() -> None:
        async with hosting(left, clock, {"again": SPARING}, stick, Bench("chip")) as host:
            host.dispatcher.recover(host.journal.store, "boot")
            await _step(host)
            assert stick.on

    clock, stick = ManualClock(), _stick()
    left = _live_and_be_killed(tmp_path, clock)
    clock.advance(WINDOW)
    drive(clock, scenario())


def test_what_loading_took_is_spent(tmp_path: Path) -> None:
    """What a meter counted above static power while devices were opened is in the window of the first request."""
    chip(tmp_path / "sys", 0, "ina219", "1-0040", power1_input=2_000_000)
    account = AccountConfig(("chip",), ("hwmon:ina219@1-0040",))
    meters = MetersConfig(sysfs=str(tmp_path / "sys"), account=(account,), uncertainty_limit=1.0)

    async def scenario() -> None:
        bench, policies = Bench(static_watts=0.5), {"roomy": PolicyConfig("accuracy", 100.0)}
        async with hosting(tmp_path / "state", clock, policies, bench, meters=meters, readings=4) as host:
            budget = host.dispatcher.budget
            assert budget.spent_nanojoules(clock()) == 0
            host.dispatcher.recover(host.journal.store, "boot")
            # Of four readings three epochs of a tenth of a second, in which the sensor shows 2 W.
            assert budget.spent_nanojoules(clock()) == pytest.approx(0.3 * 2.0 * NANO)
            host.dispatcher.recover(host.journal.store, "boot")
            assert budget.spent_nanojoules(clock()) == pytest.approx(0.3 * 2.0 * NANO)

    clock = ManualClock()
    drive(clock, scenario())
