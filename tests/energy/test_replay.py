"""A power log goes through sensor, epochs and the daemon's books, and the published figures come out.

The log is that of github.com/abr/power_benchmarks for the Neural Compute Stick 2: idle 0.496 W, busy 1.431 W at 465
inferences per second, which are 2.01 mJ each above idling.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from daemon.attribution import Buckets, Final, Row
from daemon.books import AccountBook, Books, MeterBook
from daemon.occupancy import Occupancy
from hal.device import Provenance
from hal.energy import ncs2
from hal.energy.epochs import Epochs
from hal.energy.hwmon import find_sensors
from tests.energy.trees import SECOND, Time, chip

RATE = 465
SERVICE = SECOND // RATE
SAMPLE = SECOND // 10


def replay(sysfs: Path, starts: Iterable[int], seconds: int, noise_watts: float) -> tuple[Buckets, list[Final]]:
    """Replay a log of samples at 10 Hz while requests of 1/465 s run, and give what they came to."""
    time, random = Time(), Random(4)  # noqa: S311
    sensor = chip(sysfs, 0, "ina219", "1-0040", power1_input=496_000) / "power1_input"
    (meter,) = find_sensors(sysfs, time, sampling_nanoseconds=SAMPLE)
    epochs = Epochs(meter, time, pause_nanoseconds=SECOND, patience_nanoseconds=SECOND)
    book = MeterBook(meter, 1, Provenance.MODELLED)
    books = Books([AccountBook({"stick": Occupancy(time)}, [book])])
    books.change_static("stick", ncs2.IDLE_WATTS, 0)
    joules = ncs2.dynamic_joules(SERVICE / SECOND)
    figure = round(joules * SECOND), round(joules * ncs2.RELATIVE_UNCERTAINTY * SECOND)
    waiting = sorted(starts, reverse=True)
    finals: list[Final] = []
    epochs.advance()
    shown = ncs2.IDLE_WATTS
    for sample in range(1, seconds * 10 + 1):
        time.now, busy = sample * SAMPLE, False
        while waiting and waiting[-1] < time.now:
            began = waiting.pop()
            books.ran("stick", Row(began, began, began + SERVICE, *figure, SERVICE))
            busy = began + SERVICE >= time.now
        watts = (ncs2.BUSY_WATTS if busy else ncs2.IDLE_WATTS) + random.uniform(-noise_watts, noise_watts)
        if watts != shown:
            sensor.write_text(f"{round(watts * 1e6)}\n")
            shown = watts
        book.spans.extend((span, None) for span in epochs.advance())
        finals += books.close().finals
    assert list(book.rows.buckets) == [Provenance.MEASURED]
    return book.rows.buckets[Provenance.MEASURED], finals


@pytest.mark.parametrize("noise_watts", [0.0, 0.025])
def test_saturated_the_marginal_energy_is_two_millijoules(tmp_path: Path, noise_watts: float) -> None:
    """20 s idle, 40 s saturated, 20 s idle: 2.0 mJ per inference within 5 %, also within the meter's resolution."""
    starts = range(20 * SECOND, 60 * SECOND, SERVICE)
    buckets, finals = replay(tmp_path, starts, 80, noise_watts)
    assert len(finals) == len(starts)
    marginal_joules = sum(final.dynamic_nanojoules for final in finals) / len(finals) / SECOND
    assert marginal_joules == pytest.approx(2.0e-3, rel=0.05)
    amortised_joules = (buckets.requests_dynamic + buckets.requests_static) / len(finals) / SECOND
    assert amortised_joules == pytest.approx(3.08e-3, rel=0.05)
    middle = finals[len(finals) // 2]
    assert (middle.provenance, middle.sharing) == (Provenance.MEASURED, "shared")
    assert abs(middle.dynamic_nanojoules - 2_010_000) < 3 * middle.uncertainty_nanojoules


def test_at_one_request_per_second_almost_all_is_idling(tmp_path: Path) -> None:
    """Ten minutes of one request a second: 99 % or more of the joules are the stick's idling."""
    random = Random(1)  # noqa: S311
    starts = [second * SECOND + random.randrange(SECOND - SERVICE) for second in range(600)]
    buckets, finals = replay(tmp_path, starts, 601, 0.0)
    assert len(finals) == 600
    assert buckets.idle / sum(buckets) >= 0.99
    assert buckets.requests_dynamic > 0
