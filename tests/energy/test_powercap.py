"""RAPL zones and the epochs of their counters, on fake trees."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from hal.device import Provenance
from hal.energy.epochs import Epoch, Epochs, Gap, Span
from hal.energy.meter import Fault, MeterBoundary, MeterError
from hal.energy.powercap import RaplZone, find_zones
from tests.energy.trees import SECOND, Time, fails_with_eio, write, zone


def find(sysfs: Path, time: Time) -> dict[str, RaplZone]:
    """Find the zones of a tree, read every 100 ms."""
    return {zone.name: zone for zone in find_zones(sysfs, time, sampling_nanoseconds=SECOND // 10)}


def package(sysfs: Path, time: Time) -> Epochs:
    """Open the epochs of the only package, with a first reading taken."""
    epochs = Epochs(
        find(sysfs, time)["rapl:package-0"], time, pause_nanoseconds=5 * SECOND, patience_nanoseconds=20 * SECOND
    )
    assert epochs.advance() == []
    return epochs


def step(epochs: Epochs, time: Time, folder: Path, microjoules: object, seconds: float = 1.0) -> list[Span]:
    """Let time pass, set the counter, read."""
    time.pass_seconds(seconds)
    write(folder, energy_uj=microjoules)
    return epochs.advance()


def epoch(began: float, ended: float, joules: float) -> Epoch:
    """Make the epoch that is expected."""
    return Epoch(round(began * SECOND), round(ended * SECOND), round(joules * SECOND), Provenance.MEASURED)


def test_a_zone_is_named_by_what_it_counts(tmp_path: Path, time: Time) -> None:
    """Names come from the tree, other folders are left out, and a package is a chip, psys a board."""
    zone(tmp_path, "rapl:0", "package-0", 1_500_000)
    zone(tmp_path, "rapl:0:0", "core")
    zone(tmp_path, "rapl:1", "psys")
    write(tmp_path / "class" / "powercap" / "intel-rapl", enabled=1)
    write(tmp_path / "class" / "powercap" / "dtpm:0", name="dtpm")
    time.pass_seconds(2)
    zones = find(tmp_path, time)
    assert list(zones) == ["rapl:package-0", "rapl:package-0/core", "rapl:psys"]
    assert zones["rapl:package-0"].boundary is MeterBoundary.CHIP
    assert zones["rapl:psys"].boundary is MeterBoundary.BOARD
    assert zones["rapl:package-0"].read() == (2 * SECOND, 1_500_000_000, 0)


def test_what_contains_what(tmp_path: Path, time: Time) -> None:
    """Psys holds all, a package its core and uncore but not its memory; memory mapped registers show it again."""
    names = {"rapl:0": "package-0", "rapl:0:0": "core", "rapl:0:1": "uncore", "rapl:0:2": "dram", "rapl:1": "psys"}
    for number, name in {**names, "rapl-mmio:0": "package-0", "rapl-mmio:0:0": "dram"}.items():
        zone(tmp_path, number, name)
    inside = {name: found.inside for name, found in find(tmp_path, time).items()}
    both = {"rapl:package-0", "rapl-mmio:package-0", "rapl:psys"}
    assert inside == {
        "rapl:package-0": both - {"rapl:package-0"},
        "rapl:package-0/core": both,
        "rapl:package-0/uncore": both,
        "rapl:package-0/dram": {"rapl:psys", "rapl-mmio:package-0/dram"},
        "rapl:psys": set(),
        "rapl-mmio:package-0": both - {"rapl-mmio:package-0"},
        "rapl-mmio:package-0/dram": {"rapl:psys", "rapl:package-0/dram"},
    }


def test_a_zone_without_a_name_is_left_out(tmp_path: Path, time: Time) -> None:
    """What a counter counts must be known; folders of other shapes are no zones."""
    write(tmp_path / "class" / "powercap" / "intel-rapl:0", energy_uj=1)
    write(tmp_path / "class" / "powercap" / "intel-rapl:0:0:0", name="core")
    assert find(tmp_path, time) == {}


def test_two_zones_of_one_name_stay_apart(tmp_path: Path, time: Time) -> None:
    """A second zone of the same name gets its number."""
    zone(tmp_path, "rapl:0", "psys")
    zone(tmp_path, "rapl:1", "psys")
    assert list(find(tmp_path, time)) == ["rapl:psys", "rapl:psys#1"]


def test_no_tree_means_no_zones(tmp_path: Path, time: Time) -> None:
    """A host without powercap has no zones."""
    assert find(tmp_path, time) == {}


def test_an_epoch_lies_between_two_readings(tmp_path: Path, time: Time) -> None:
    """The first reading opens an epoch, the second closes it."""
    folder = zone(tmp_path, "rapl:0", "package-0", 7_000_000)
    epochs = package(tmp_path, time)
    assert step(epochs, time, folder, 12_000_000) == [epoch(0, 1, 5)]
    assert step(epochs, time, folder, 12_000_000) == [epoch(1, 2, 0)]


def test_a_wrap_is_corrected(tmp_path: Path, time: Time) -> None:
    """The counter begins again at its range: the joules are those on both sides."""
    folder = zone(tmp_path, "rapl:0", "package-0", 262_143_000_000, wraps_at=262_143_328_850)
    epochs = package(tmp_path, time)
    assert step(epochs, time, folder, 671_150) == [epoch(0, 1, 1.0)]
    assert epochs.resets == 0


def test_a_reset_to_zero_is_a_gap(tmp_path: Path, time: Time) -> None:
    """A counter that falls by more than a wrap explains was reset: nothing is counted across it, all after it."""
    folder = zone(tmp_path, "rapl:0", "package-0", 90_000_000_000)
    epochs = package(tmp_path, time)
    assert step(epochs, time, folder, 0) == []
    assert step(epochs, time, folder, 3_000_000) == [Gap(0, SECOND, "the counter was reset"), epoch(1, 2, 3)]
    assert (epochs.resets, epochs.rejected) == (1, 1)


def test_a_reading_that_makes_no_sense_extends_the_epoch(tmp_path: Path, time: Time) -> None:
    """One wrong value between two right ones is rejected; the epoch goes from the first to the last."""
    folder = zone(tmp_path, "rapl:0", "package-0", 90_000_000_000)
    for wrong in (0, 200_000_000_000):
        write(folder, energy_uj=90_000_000_000)
        time.now = 0
        epochs = package(tmp_path, time)
        assert step(epochs, time, folder, wrong) == []
        assert step(epochs, time, folder, 90_004_000_000) == [epoch(0, 2, 4)]
        assert (epochs.resets, epochs.rejected) == (0, 1)


@pytest.mark.parametrize("wraps_at", ["", "many", "0"])
def test_without_its_range_a_wrap_looks_like_a_reset(tmp_path: Path, time: Time, wraps_at: str) -> None:
    """Where the range cannot be read, joules across a wrap are lost, never guessed."""
    folder = zone(tmp_path, "rapl:0", "package-0", 262_143_000_000, wraps_at=wraps_at)
    epochs = package(tmp_path, time)
    assert epochs.meter.range_nanojoules is None
    assert step(epochs, time, folder, 600_000) == []
    assert step(epochs, time, folder, 1_600_000)[1:] == [epoch(1, 2, 1)]


def test_a_wrap_that_cannot_be_told_from_two_is_a_gap(tmp_path: Path, time: Time) -> None:
    """After so long that the counter may have wrapped more than once, the joules cannot be known."""
    folder = zone(tmp_path, "rapl:0", "package-0", wraps_at=2_000_000_000)
    epochs = package(tmp_path, time)
    assert step(epochs, time, folder, 10_000_000, 3.0) == []
    assert step(epochs, time, folder, 11_000_000)[1:] == [epoch(3, 4, 1)]


def test_a_transient_input_output_error_extends_the_epoch(tmp_path: Path, time: Time) -> None:
    """A read that fails is told, and the joules meanwhile are counted by the next one that works."""
    folder = zone(tmp_path, "rapl:0", "package-0", 1_000_000)
    epochs = package(tmp_path, time)
    fails_with_eio(folder / "energy_uj")
    time.pass_seconds(1)
    assert epochs.advance() == []
    assert epochs.fault is not None
    assert epochs.fault.fault is Fault.IO
    (folder / "energy_uj").unlink()
    assert step(epochs, time, folder, 9_000_000) == [epoch(0, 2, 8)]
    assert epochs.fault is None


def test_a_meter_that_stays_away_leaves_gaps(tmp_path: Path, time: Time) -> None:
    """After a while the epoch is given up, so that requests get a figure; spans never overlap and leave no hole."""
    folder = zone(tmp_path, "rapl:0", "package-0", 1_000_000)
    epochs = package(tmp_path, time)
    (folder / "energy_uj").unlink()
    spans = []
    for _ in range(45):
        time.pass_seconds(1)
        spans += epochs.advance()
    assert [(span.began, span.ended) for span in spans] == [(0, 20 * SECOND), (20 * SECOND, 40 * SECOND)]
    assert all(isinstance(span, Gap) and "No such file" in span.reason for span in spans)
    assert step(epochs, time, folder, 2_000_000) == [Gap(40 * SECOND, 46 * SECOND, "there was no reading before")]
    assert step(epochs, time, folder, 4_000_000) == [epoch(46, 47, 2)]


def test_readings_that_only_contradict_each_other_end_in_a_gap(tmp_path: Path, time: Time) -> None:
    """A counter that jumps at each reading never closes an epoch; that is told as a gap."""
    folder = zone(tmp_path, "rapl:0", "package-0", 250_000_000_000)
    epochs = package(tmp_path, time)
    spans = []
    for second in range(20):
        spans += step(epochs, time, folder, 100_000_000_000 if second % 2 else 200_000_000_000)
    assert spans == [Gap(0, 20 * SECOND, "its readings contradict each other")]


def test_suspend_is_a_gap(tmp_path: Path, time: Time) -> None:
    """Time since boot jumps by more than readings are apart: what was counted meanwhile belongs to no epoch."""
    folder = zone(tmp_path, "rapl:0", "package-0", 1_000_000)
    epochs = package(tmp_path, time)
    assert step(epochs, time, folder, 2_000_000) == [epoch(0, 1, 1)]
    assert step(epochs, time, folder, 9_000_000, 3600) == [Gap(SECOND, 3601 * SECOND, "nothing was read for 3600.0 s")]
    assert step(epochs, time, folder, 9_500_000) == [epoch(3601, 3602, 0.5)]


@pytest.mark.parametrize("content", ["", "soon", "1.5", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_what_is_not_a_number_is_told(tmp_path: Path, time: Time, content: str) -> None:
    """A malformed counter is an error that names file and content, not a zero."""
    folder = zone(tmp_path, "rapl:0", "package-0")
    (folder / "energy_uj").write_text(content, encoding="utf-8")
    with pytest.raises(MeterError, match="energy_uj") as raised:
        find(tmp_path, time)["rapl:package-0"].read()
    assert raised.value.fault is Fault.MALFORMED


def test_without_permission_the_meter_says_so(time: Time) -> None:
    """RAPL is for root alone; anybody else is told which file they may not read."""
    with tempfile.TemporaryDirectory() as name:
        sysfs = Path(name)
        sysfs.chmod(0o755)
        folder = zone(sysfs, "rapl:0", "package-0")
        (folder / "energy_uj").chmod(0o000)
        meter = find(sysfs, time)["rapl:package-0"]
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(MeterError, match=r"energy_uj: Permission denied") as raised:
                meter.read()
        finally:
            os.seteuid(user)
    assert raised.value.fault is Fault.PERMISSION
