"""Meters are read into the books: what is lost is told, a model takes over, and what is too uncertain is not used."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from grpc_health.v1 import health_pb2

from daemon.clock import NANO
from daemon.config import AccountConfig, MetersConfig, PolicyConfig
from daemon.errors import Unavailable
from daemon.feed import UNREAD_LIMIT, Feed
from daemon.health_service import NOT_SERVING, SERVING, Health
from daemon.identity import check_identity
from hal.device import Cost
from hal.energy.frontier import FrontierError
from tests.daemon.builders import Bench, Host, ManualClock, drive, hosting, turns
from tests.energy.trees import chip, fails_with_eio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# The sensor shows 2 W, of which the device draws 0.5 W without a request.
SHOWN_WATTS, STATIC_WATTS = 2.0, 0.5
SAMPLE = NANO // 10
POLICIES = {"roomy": PolicyConfig("accuracy", 100.0)}


def _meters(folder: Path, uncertainty_limit: float = 1.0) -> MetersConfig:
    account = AccountConfig(("chip",), ("hwmon:ina219@1-0040",))
    return MetersConfig(sysfs=str(folder / "sys"), account=(account,), uncertainty_limit=uncertainty_limit)


@asynccontextmanager
async def _metered(folder: Path, clock: ManualClock, bench: Bench, limit: float = 1.0) -> AsyncIterator[Host]:
    """Start a host whose device has a sensor that is about to be read for the first time."""
    bench.during = lambda: clock.advance(SAMPLE // 2)
    async with hosting(folder, clock, POLICIES, bench, meters=_meters(folder, limit)) as host:
        await _samples(host, 3)
        yield host


async def _samples(host: Host, count: int) -> None:
    for _ in range(count):
        host.clock.advance(SAMPLE)
        await host.metering.sample()


def _mend(sensor: Path) -> None:
    sensor.unlink()
    sensor.write_text(f"{round(SHOWN_WATTS * 1e6)}\n")


@pytest.fixture
def sensor(tmp_path: Path) -> Path:
    """Give the file of a sensor's power, under a fake /sys."""
    microwatts = round(SHOWN_WATTS * 1e6)
    return chip(tmp_path / "sys", 0, "ina219", "1-0040", power1_input=microwatts) / "power1_input"


@pytest.mark.usefixtures("sensor")
def test_reservation_is_held_until_the_figure_is_final(tmp_path: Path) -> None:
    """What the meter counted above static power is the request's, and spent; what nobody asked for is spent as well."""

    async def scenario() -> None:
        async with _metered(tmp_path, clock, Bench(static_watts=STATIC_WATTS)) as host:
            budget = host.dispatcher.budget
            before = budget.spent_nanojoules(clock())
            answer = await host.ask()
            assert (answer.energy.state, answer.energy.dynamic_nanojoules) == ("provisional", 100)
            assert budget.reserved_nanojoules == 200
            await _samples(host, 1)
            assert budget.reserved_nanojoules == 0
            host.journal.move()
            row = host.journal.store.request(answer.request_id)
            assert row is not None
            # Half a sample ran, and then a whole one passed.
            dynamic = round((SHOWN_WATTS - STATIC_WATTS) * 1.5 * SAMPLE)
            assert row.energy[:2] == (dynamic, round(STATIC_WATTS * SAMPLE / 2))
            assert (row.energy.provenance, row.energy.sharing, row.energy.state) == ("measured", "shared", "final")
            assert budget.spent_nanojoules(clock()) == before + dynamic
            await _samples(host, 1)
            assert budget.spent_nanojoules(clock()) == before + dynamic + round((SHOWN_WATTS - STATIC_WATTS) * SAMPLE)
            assert host.at_rest()
        assert check_identity(tmp_path / "journal.db").violations == []

    clock = ManualClock()
    drive(clock, scenario())


@pytest.mark.parametrize("joules", [0.1, 0.5])
@pytest.mark.usefixtures("sensor")
def test_power_up_is_spent_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, joules: float) -> None:
    """The budget is charged with what the model says of powering up, and with what the meter counted only beyond it."""

    async def scenario() -> None:
        policies = {"frugal": PolicyConfig("accuracy", 100.0, power_down=("chip",)), **POLICIES}
        async with hosting(tmp_path, clock, policies, bench, meters=_meters(tmp_path)) as host:
            await _samples(host, 60)
            await switch(host, "frugal", on=False)
            await _samples(host, 3)
            budget = host.dispatcher.budget
            before = budget.spent_nanojoules(clock())
            await switch(host, "roomy", on=True)
            assert budget.spent_nanojoules(clock()) == before + round(joules * NANO)
            await _samples(host, 1)
            counted = round((SHOWN_WATTS - STATIC_WATTS) * 1.5 * SAMPLE)
            assert budget.spent_nanojoules(clock()) == before + max(counted, round(joules * NANO))
            assert host.at_rest()
        assert check_identity(tmp_path / "journal.db").violations == []

    async def switch(host: Host, policy: str, *, on: bool) -> None:
        host.dispatcher.set_policy(policy)
        await asyncio.to_thread(host.until_done)
        await turns()
        assert bench.on is on

    def power(on: bool) -> None:
        bench.on = on
        if on:
            clock.advance(SAMPLE // 2)

    clock, bench = ManualClock(), Bench(static_watts=STATIC_WATTS, reopening=Cost(joules, 2 * joules, 0.05))
    monkeypatch.setattr(bench, "power", power)
    drive(clock, scenario())


def test_meter_lost_and_back(tmp_path: Path, sensor: Path) -> None:
    """A meter that fails is an event; the model takes over under its label until the meter is back."""

    async def scenario() -> None:
        async with _metered(tmp_path, clock, Bench(static_watts=STATIC_WATTS)) as host:
            fails_with_eio(sensor)
            answer = await host.ask()
            await _samples(host, 15)
            (state,) = host.metering.states
            assert (state.up, "Input/output error" in state.detail) == (False, True)
            host.journal.move()
            row = host.journal.store.request(answer.request_id)
            assert row is not None
            assert (row.energy.dynamic_nanojoules, row.energy.provenance, row.energy.state) == (
                100, "simulated", "final",
            )  # fmt: skip
            _mend(sensor)
            await _samples(host, 2)
            assert host.metering.states[0].up
            assert not host.fleet.lanes["chip"].shed
        assert check_identity(tmp_path / "journal.db").violations == []

    clock = ManualClock()
    drive(clock, scenario())


def _seconds_by_provenance(store: Path) -> dict[str, dict[str, float]]:
    """Give for each meter over how long its ledger has which label."""
    database = sqlite3.connect(store)
    try:
        rows = database.execute(
            "SELECT name, provenance, SUM(ended - began) / 1e9 FROM ledger JOIN meters ON id = meter GROUP BY 1, 2"
        ).fetchall()
    finally:
        database.close()
    return {meter: {label: seconds for name, label, seconds in rows if name == meter} for meter, _, _ in rows}


def test_a_meter_with_a_defect_keeps_the_others_spans(tmp_path: Path, sensor: Path) -> None:
    """What no driver foresees in one meter is that meter's fault; what the others counted in that turn is not lost."""

    async def scenario() -> None:
        benches = [Bench(name, static_watts=STATIC_WATTS) for name in ("chip", "spare")]
        async with hosting(tmp_path, clock, POLICIES, *benches, meters=meters) as host:
            await _samples(host, 3)
            # More watts than a float holds.
            broken.write_text("9" * 400)
            await _samples(host, 15)
            told = {state.devices: (state.up, state.detail) for state in host.metering.states}
            assert told["chip",] == (True, "")
            assert told["spare",] == (False, "OverflowError('int too large to convert to float')")
            _mend(broken)
            await _samples(host, 2)
            assert all(state.up for state in host.metering.states)
        assert check_identity(tmp_path / "journal.db").violations == []
        seconds = _seconds_by_provenance(tmp_path / "journal.db")
        # Before its first reading no meter has counted anything.
        assert seconds["hwmon:ina219@1-0040"] == pytest.approx({"simulated": 0.1, "measured": 1.9})
        assert seconds["hwmon:ina219@1-0041"]["simulated"] == pytest.approx(1.7, abs=0.11)

    clock = ManualClock()
    broken = chip(tmp_path / "sys", 1, "ina219", "1-0041", power1_input=sensor.read_text().strip()) / "power1_input"
    accounts = (("chip", "1-0040"), ("spare", "1-0041"))
    meters = MetersConfig(
        sysfs=str(tmp_path / "sys"), uncertainty_limit=1.0,
        account=tuple(AccountConfig((device,), (f"hwmon:ina219@{place}",)) for device, place in accounts),
    )  # fmt: skip
    drive(clock, scenario())


def test_device_is_shed_where_neither_meter_nor_model_will_do(tmp_path: Path, sensor: Path) -> None:
    """The bench's model is unsure by a tenth: with a limit of a twentieth it is not used while its meter is down.

    Whoever asks for the health of the device learns of both changes.
    """

    async def scenario() -> None:
        async with _metered(tmp_path, clock, Bench(), 0.05) as host:
            health = Health()
            following = asyncio.create_task(health.follow(host.fleet, []))
            await host.ask()
            fails_with_eio(sensor)
            await _samples(host, 15)
            await turns()
            assert await status(health) == NOT_SERVING
            with pytest.raises(Unavailable):
                await host.ask()
            _mend(sensor)
            await _samples(host, 2)
            await turns()
            assert await status(health) == SERVING
            assert (await host.ask()).point.device == "chip"
            following.cancel()

    async def status(health: Health) -> int:
        reply = await health.Check(health_pb2.HealthCheckRequest(service="device/chip"), None)
        return int(reply.status)

    clock = ManualClock()
    drive(clock, scenario())


def test_unknown_meter_is_refused(tmp_path: Path) -> None:
    """A meter that is not there cannot account for anything."""

    async def scenario() -> None:
        with pytest.raises(FrontierError, match=r"unknown meter 'hwmon:ina219@1-0040'"):
            async with hosting(tmp_path, clock, POLICIES, Bench(), meters=_meters(tmp_path)):
                pass

    clock = ManualClock()
    drive(clock, scenario())


def test_quiet_ranges_are_put_together(tmp_path: Path) -> None:
    """A minute of idling is seven ranges of at most ten seconds, though it was read 600 times."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, POLICIES, Bench(static_watts=STATIC_WATTS)) as host:
            await _samples(host, 600)
        finding = check_identity(tmp_path / "journal.db")
        assert finding.violations == []
        assert finding.figures["ranges"] <= 8
        assert finding.figures["idle_nanojoules"] == pytest.approx(STATIC_WATTS * 60 * NANO, rel=0.01)

    clock = ManualClock()
    drive(clock, scenario())


def test_feed(tmp_path: Path) -> None:
    """A reader gets every final figure once, in order, until the feed ends; one that does not read is told so."""

    async def scenario() -> None:
        async with hosting(tmp_path, clock, POLICIES, Bench()) as host:
            feed = host.metering.feed
            with feed.reading() as reader, feed.reading() as idler:
                answers = []
                for _ in range(3):
                    answers.append(await host.ask())
                    await _samples(host, 1)
                feed.end()
                assert [final.row_id >> 8 async for final in reader] == [answer.request_id for answer in answers]
                for _ in range(UNREAD_LIMIT):
                    idler.tell([])
                assert (reader.overrun, idler.overrun) == (False, True)
                assert [final async for final in idler] == []

    clock = ManualClock()
    drive(clock, scenario())
    Feed().tell([])
