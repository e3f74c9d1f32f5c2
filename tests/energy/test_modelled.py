"""Modelled meters, and the CPU time that the host's is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from hal.device import Provenance
from hal.energy.cputime import TICK_NANOSECONDS, CpuTime
from hal.energy.epochs import Epochs
from hal.energy.modelled import ModelledDevice, ModelledHost
from tests.energy.trees import SECOND, Time, write


def stick(time: Time) -> ModelledDevice:
    """Make a stick that draws half a watt."""
    return ModelledDevice(
        "stick", time, provenance=Provenance.SIMULATED, static_watts=0.5, update_nanoseconds=SECOND // 10
    )


def test_a_device_draws_static_power_and_what_its_runs_cost(time: Time) -> None:
    """Two seconds at half a watt and a run of 3 mJ are 1.003 J."""
    meter = stick(time)
    time.pass_seconds(2)
    meter.begin(SECOND)
    meter.end(3_000_000)
    assert meter.read() == (2 * SECOND, 1_003_000_000, 0)


def test_a_power_state_counts_from_its_change(time: Time) -> None:
    """One second at 0.5 W, two at 2 W, one switched off."""
    meter = stick(time)
    meter.change(SECOND, 2.0)
    meter.change(3 * SECOND, 0.0)
    time.pass_seconds(4)
    assert meter.read().nanojoules == 4_500_000_000


def test_a_reading_ends_where_the_running_work_began(time: Time) -> None:
    """What a run costs is known at its end; until then time stands still for the meter, and no epoch cuts the run."""
    meter = stick(time)
    epochs = Epochs(meter, time, pause_nanoseconds=SECOND, patience_nanoseconds=10 * SECOND)
    epochs.advance()
    meter.begin(SECOND // 2)
    time.pass_seconds(1)
    (first,) = epochs.advance()
    assert first == (0, SECOND // 2, 250_000_000, Provenance.SIMULATED)
    time.pass_seconds(0.5)
    assert epochs.advance() == []
    meter.end(7_000_000)
    time.pass_seconds(0.5)
    (second,) = epochs.advance()
    assert second == (SECOND // 2, 2 * SECOND, 757_000_000, Provenance.SIMULATED)


def test_impossible_figures_are_refused(time: Time) -> None:
    """A device neither draws negative power nor gives joules back."""
    meter = stick(time)
    with pytest.raises(ValueError, match=r"-1 nJ"):
        meter.end(-1)
    for watts in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="static power"):
            meter.change(0, watts)


def test_a_host_is_modelled_by_its_load(time: Time) -> None:
    """Idle it draws a tenth of its rated power, at half load 0.1 + 0.9 / 8, fully loaded all of it."""
    used = 0
    meter = ModelledHost(time, rated_watts=10, cores=4, cpu_nanoseconds=lambda: used, update_nanoseconds=SECOND)
    total = 0
    for cores_busy, watts in ((0, 1.0), (2, 2.125), (4, 10.0), (9, 10.0), (-1, 1.0)):
        used += cores_busy * SECOND
        time.pass_seconds(1)
        total += round(watts * SECOND)
        assert meter.read() == (time.now, total, 0)
    assert meter.read().nanojoules == total
    assert meter.static_watts == 1.0


def test_cpu_time_of_processes_does_not_decrease(tmp_path: Path) -> None:
    """A process that ended keeps its part, and a later one of the same number counts from zero."""

    def stat(process: int, name: str, ticks: int, started: int) -> None:
        fields = ["S", *["0"] * 10, str(ticks), "1", *["0"] * 6, str(started), "0"]
        write(tmp_path / str(process), stat=f"{process} ({name}) {' '.join(fields)}")

    stat(10, "jouled", 4, started=100)
    stat(11, "odd) name (", 9, started=200)
    times = CpuTime(tmp_path)
    assert times.used_by([10, 11, 12]) == (5 + 10) * TICK_NANOSECONDS
    (tmp_path / "11" / "stat").unlink()
    assert times.used_by([10, 11]) == 15 * TICK_NANOSECONDS
    stat(11, "another", 1, started=300)
    assert times.used_by([10, 11]) == 17 * TICK_NANOSECONDS


def test_cpu_time_of_all_leaves_idling_out(tmp_path: Path) -> None:
    """User, nice, system and interrupts count; idle, waiting, stolen and guest time do not."""
    write(tmp_path, stat="cpu  1 2 4 1000 1000 8 16 1000 1000 1000\ncpu0 9 9 9 9 9 9 9 9 9 9")
    assert CpuTime(tmp_path).used_by_all() == 31 * TICK_NANOSECONDS


def test_the_cpu_time_of_this_process_is_part_of_all() -> None:
    """On a real /proc the two figures compare."""
    times = CpuTime(Path("/proc"))
    import os

    assert 0 < times.used_by([os.getpid()]) <= times.used_by_all()
