"""Which meters account for what, on fake trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from hal.device import Boundary
from hal.energy.frontier import Account, Found, FrontierError, choose, detect
from hal.energy.meter import MeterBoundary
from tests.energy.trees import MILLISECOND, Time, chip, zone

DEVICES = {"cpu": Boundary.HOST, "stick": Boundary.ACCELERATOR}
LAPTOP = {"rapl:0": "package-0", "rapl:0:0": "core", "rapl:0:1": "uncore", "rapl:0:2": "dram", "rapl:1": "psys"}


def found(sysfs: Path, time: Time, zones: dict[str, str]) -> list[Found]:
    """Make a host with these zones and a tester in a USB line, and look at it."""
    for number, name in zones.items():
        zone(sysfs, number, name)
    chip(sysfs, 0, "powerz", "1-3:1.0", in0_input=5000, curr1_input=100)
    return detect(sysfs, time, sampling_nanoseconds=100 * MILLISECOND)


def test_packages_and_memory_account_for_the_host(tmp_path: Path, time: Time) -> None:
    """Nothing is counted twice: cores, psys and the memory mapped duplicate only cross-check, and each says why."""
    choice = choose(found(tmp_path, time, {**LAPTOP, "rapl-mmio:0": "package-0"}), DEVICES)
    assert choice.accounts == (Account(("cpu",), ("rapl:package-0", "rapl:package-0/dram")), Account(("stick",)))
    assert choice.cross_checks == (
        "rapl:package-0/core",
        "rapl:package-0/uncore",
        "rapl:psys",
        "rapl-mmio:package-0",
        "hwmon:powerz@1-3:1.0",
    )
    assert choice.reasons == (
        "cpu: rapl:package-0 + rapl:package-0/dram, which count the processors and their memory once",
        "stick: modelled, no meter accounts for it",
        "rapl:package-0/core: only cross-checks, rapl:package-0 counts its joules too",
        "rapl:package-0/uncore: only cross-checks, rapl:package-0 counts its joules too",
        "rapl:psys: only cross-checks, it counts joules of the chosen ones too, or of what is not on this frontier",
        "rapl-mmio:package-0: only cross-checks, rapl:package-0 counts its joules too",
        "hwmon:powerz@1-3:1.0: only cross-checks, nothing says what it feeds: name it in an account",
    )


def test_two_sockets_count_both(tmp_path: Path, time: Time) -> None:
    """Every package of a server is part of its host."""
    zones = {"rapl:0": "package-0", "rapl:0:0": "dram", "rapl:1": "package-1", "rapl:1:0": "dram"}
    (host, _stick) = choose(found(tmp_path, time, zones), DEVICES).accounts
    assert host.meters == ("rapl:package-0", "rapl:package-0/dram", "rapl:package-1", "rapl:package-1/dram")


def test_psys_stands_in_where_no_package_is_read(tmp_path: Path, time: Time) -> None:
    """Half of the packages would be half of the joules: psys alone is whole."""
    zone(tmp_path, "rapl:2", "package-1", wraps_at=5)
    (tmp_path / "class" / "powercap" / "intel-rapl:2" / "energy_uj").unlink()
    choice = choose(found(tmp_path, time, LAPTOP), DEVICES)
    assert choice.accounts[0] == Account(("cpu",), ("rapl:psys",))
    assert "cpu: rapl:psys, since a package cannot be read" in choice.reasons
    assert any(reason.startswith("rapl:package-1: not used, ") for reason in choice.reasons)


def test_without_meters_everything_is_modelled(tmp_path: Path, time: Time) -> None:
    """A host without any sensor says so for each device."""
    choice = choose(detect(tmp_path, time, sampling_nanoseconds=MILLISECOND), DEVICES)
    assert choice.accounts == (Account(("cpu",)), Account(("stick",)))
    assert len(choice.reasons) == 2


def test_without_host_devices_the_processors_only_cross_check(tmp_path: Path, time: Time) -> None:
    """Where nothing runs on the host's processors, their joules belong to no device."""
    choice = choose(found(tmp_path, time, LAPTOP), {"stick": Boundary.ACCELERATOR})
    assert choice.accounts == (Account(("stick",)),)
    assert "rapl:package-0" in choice.cross_checks


def test_the_operator_names_what_a_sensor_feeds(tmp_path: Path, time: Time) -> None:
    """A configured frontier is taken as it is; devices that it leaves out are modelled."""
    frontier = [Account(("stick",), ("hwmon:powerz@1-3:1.0",))]
    choice = choose(found(tmp_path, time, LAPTOP), DEVICES, frontier)
    assert choice.accounts == (*frontier, Account(("cpu",)))
    assert choice.reasons[0] == "stick: hwmon:powerz@1-3:1.0, as configured"


@pytest.mark.parametrize(
    ("frontier", "reason"),
    [
        ([Account(("cpu",), ("rapl:psys", "rapl:package-0"))], "meter rapl:psys counts the joules of rapl:package-0"),
        ([Account(("cpu",), ("rapl:psys", "rapl:package-0/dram"))], "counts the joules of rapl:package-0/dram too"),
        ([Account(("cpu",), ("rapl:psys",)), Account(("stick",), ("rapl:psys",))], "rapl:psys is named twice"),
        ([Account(("cpu",)), Account(("cpu",))], "device cpu is in two accounts"),
        ([Account(("cpu", "cpu"))], "device cpu is in two accounts"),
        ([Account(("gpu",))], "unknown device 'gpu'; did you mean 'cpu'?"),
        ([Account(("cpu",), ("rapl:package0",))], "unknown meter 'rapl:package0'; did you mean 'rapl:package-0'?"),
        ([Account(("cpu",), ("wattmeter",))], "unknown meter 'wattmeter'; known are rapl:package-0, "),
    ],
)
def test_a_frontier_that_counts_twice_is_refused(
    tmp_path: Path, time: Time, frontier: list[Account], reason: str
) -> None:
    """The message names what is counted twice, or what is not there and what it may have meant."""
    with pytest.raises(FrontierError) as raised:
        choose(found(tmp_path, time, LAPTOP), DEVICES, frontier)
    assert reason in str(raised.value)


def test_a_meter_that_cannot_be_read_is_refused(tmp_path: Path, time: Time) -> None:
    """The operator asked for it, so its failure is not passed over in silence."""
    folder = zone(tmp_path, "rapl:0", "package-0")
    (folder / "energy_uj").unlink()
    meters = detect(tmp_path, time, sampling_nanoseconds=MILLISECOND)
    with pytest.raises(FrontierError, match=r"rapl:package-0 cannot be read: .*No such file"):
        choose(meters, DEVICES, [Account(("cpu",), ("rapl:package-0",))])


def test_a_wall_meter_stands_alone(tmp_path: Path, time: Time) -> None:
    """What is measured at the wall holds everything behind it."""
    meters = found(tmp_path, time, LAPTOP)
    tester = next(entry.meter for entry in meters if entry.meter.name.startswith("hwmon:"))
    tester.boundary = MeterBoundary.WALL
    frontier = [Account(("stick",), (tester.name,)), Account(("cpu",), ("rapl:package-0",))]
    with pytest.raises(FrontierError, match="stands at the wall"):
        choose(meters, DEVICES, frontier)
    assert choose(meters, DEVICES, [Account(("cpu", "stick"), (tester.name,))]).accounts[0].meters == (tester.name,)
