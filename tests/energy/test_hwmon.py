"""Power sensors of hwmon, on fake trees."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hal.energy.epochs import Epochs, Gap
from hal.energy.hwmon import HwmonMeter, find_sensors
from hal.energy.meter import Fault, MeterBoundary, MeterError
from tests.energy.trees import MILLISECOND, SECOND, Time, chip, fails_with_eio, write


def find(sysfs: Path, time: Time) -> dict[str, HwmonMeter]:
    """Find the sensors of a tree, sampled every 100 ms."""
    return {meter.name: meter for meter in find_sensors(sysfs, time, sampling_nanoseconds=100 * MILLISECOND)}


def test_power_is_integrated_by_trapezoids(tmp_path: Path, time: Time) -> None:
    """1 W for 0.1 s, then rising to 3 W within 0.1 s, are 0.1 J and 0.2 J."""
    folder = chip(tmp_path, 0, "ina219", "1-0040", power1_input=1_000_000)
    meter = find(tmp_path, time)["hwmon:ina219@1-0040"]
    assert meter.read() == (0, 0, 0)
    time.pass_seconds(0.1)
    assert meter.read().nanojoules == 100_000_000
    write(folder, power1_input=3_000_000)
    time.pass_seconds(0.1)
    assert meter.read().nanojoules == 300_000_000


def test_rounding_does_not_add_up(tmp_path: Path, time: Time) -> None:
    """A microwatt over a thousand stretches, each of 3.33 nJ, is 3333 nJ."""
    chip(tmp_path, 0, "ina219", "1-0040", power1_input=1)
    meter = find(tmp_path, time)["hwmon:ina219@1-0040"]
    for _ in range(1001):
        nanojoules = meter.read().nanojoules
        time.now += 3_333_333
    assert nanojoules == 3333


def test_ina3221_multiplies_voltage_and_current(tmp_path: Path, time: Time) -> None:
    """Each enabled channel is a meter; shunt voltages in in4 and on are none."""
    files = {f"in{n}_input": 5000 for n in range(1, 8)} | {f"curr{n}_input": 200 for n in range(1, 5)}
    chip(tmp_path, 0, "ina3221", "2-0041", **files, in2_enable=0, in3_enable=1, update_interval=300)
    meters = find(tmp_path, time)
    assert list(meters) == ["hwmon:ina3221@2-0041/1", "hwmon:ina3221@2-0041/3"]
    meter = meters["hwmon:ina3221@2-0041/3"]
    assert meter.update_nanoseconds == 300 * MILLISECOND
    meter.read()
    time.pass_seconds(1)
    assert meter.read().nanojoules == 1 * SECOND


def test_powerz_counts_in_either_direction(tmp_path: Path, time: Time) -> None:
    """A tester that was plugged in the other way round shows negative current; its joules are the same."""
    folder = chip(tmp_path, 3, "powerz", "1-3:1.0", in0_input=5000, curr1_input=-286, in1_input=400)
    meter = find(tmp_path, time)["hwmon:powerz@1-3:1.0"]
    assert meter.boundary is MeterBoundary.USB_PORT
    meter.read()
    write(folder, curr1_input=286)
    time.pass_seconds(0.1)
    assert meter.read().nanojoules == 143_000_000


def test_an_energy_counter_is_read_as_it_is(tmp_path: Path, time: Time) -> None:
    """A chip that counts joules itself needs no integration."""
    chip(tmp_path, 0, "ina228", "1-0040", energy1_input=123, power1_input=5)
    time.pass_seconds(1)
    meter = find(tmp_path, time)["hwmon:ina228@1-0040"]
    assert meter.read() == (SECOND, 123_000, 0)
    assert meter.range_nanojoules is None


def test_other_chips_are_left_alone(tmp_path: Path, time: Time) -> None:
    """Temperatures and fans are no meters."""
    chip(tmp_path, 0, "coretemp", "coretemp.0", temp1_input=45000)
    write(tmp_path / "class" / "hwmon" / "hwmon1")
    assert find(tmp_path, time) == {}


def test_a_chip_without_a_device_is_named_by_its_folder(tmp_path: Path, time: Time) -> None:
    """Where the kernel tells no place, the folder's name has to do."""
    write(tmp_path / "class" / "hwmon" / "hwmon4", name="ina226", power1_input=1)
    assert list(find(tmp_path, time)) == ["hwmon:ina226@hwmon4"]


def test_an_odd_power_is_refused(tmp_path: Path, time: Time) -> None:
    """Power that flows backwards, or that no rail carries, is an error and counts nothing."""
    folder = chip(tmp_path, 0, "ina226", "1-0040", power1_input=1_000_000)
    meter = find(tmp_path, time)["hwmon:ina226@1-0040"]
    meter.read()
    for microwatts in (-1, 600_000_000):
        write(folder, power1_input=microwatts)
        time.pass_seconds(0.1)
        with pytest.raises(MeterError, match="are not within") as raised:
            meter.read()
        assert raised.value.fault is Fault.MALFORMED
    write(folder, power1_input=1_000_000)
    time.pass_seconds(0.1)
    assert meter.read() == (300 * MILLISECOND, 300_000_000, 0)


def test_a_short_failure_is_bridged_and_a_long_one_is_not(tmp_path: Path, time: Time) -> None:
    """Up to five samples may be missing; power over a longer time is unknown and counts nothing."""
    folder = chip(tmp_path, 0, "ina226", "1-0040", power1_input=1_000_000)
    epochs = Epochs(
        find(tmp_path, time)["hwmon:ina226@1-0040"], time, pause_nanoseconds=SECOND, patience_nanoseconds=10 * SECOND
    )
    assert epochs.advance() == []
    fails_with_eio(folder / "power1_input")
    for _ in range(3):
        time.pass_seconds(0.1)
        assert epochs.advance() == []
    (folder / "power1_input").unlink()
    write(folder, power1_input=1_000_000)
    time.pass_seconds(0.1)
    (epoch,) = epochs.advance()
    assert epoch[:3] == (0, 400 * MILLISECOND, 400_000_000)
    (folder / "power1_input").unlink()
    for _ in range(9):
        time.pass_seconds(0.1)
        assert epochs.advance() == []
    write(folder, power1_input=1_000_000)
    time.pass_seconds(0.1)
    assert epochs.advance() == [Gap(400 * MILLISECOND, 1400 * MILLISECOND, "the counter was interrupted")]
    assert epochs.resets == 1


def test_a_sensor_that_was_unplugged_comes_back_under_another_number(tmp_path: Path, time: Time) -> None:
    """The kernel numbers anew; the sensor is found by its chip and its place."""
    files = {"in0_input": 5000, "curr1_input": 100}
    folder = chip(tmp_path, 3, "powerz", "1-3:1.0", **files)
    meter = find(tmp_path, time)["hwmon:powerz@1-3:1.0"]
    meter.read()
    shutil.rmtree(folder)
    time.pass_seconds(0.1)
    with pytest.raises(MeterError, match="is not under") as raised:
        meter.read()
    assert raised.value.fault is Fault.MISSING
    chip(tmp_path, 0, "powerz", "1-4:1.0", **files)
    time.pass_seconds(0.1)
    with pytest.raises(MeterError):
        meter.read()
    chip(tmp_path, 5, "powerz", "1-3:1.0", **files)
    time.pass_seconds(0.1)
    assert meter.read() == (300 * MILLISECOND, 150_000_000, 0)


def test_suspend_counts_nothing(tmp_path: Path, time: Time) -> None:
    """Power is not integrated over the time that the host slept."""
    chip(tmp_path, 0, "ina226", "1-0040", power1_input=1_000_000)
    meter = find(tmp_path, time)["hwmon:ina226@1-0040"]
    meter.read()
    time.pass_seconds(3600)
    assert meter.read() == (3600 * SECOND, 0, 1)
