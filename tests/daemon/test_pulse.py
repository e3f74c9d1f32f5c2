"""What an operator is told of when one sample follows another."""

from __future__ import annotations

import msgspec
import pytest

from daemon.pulse import DeviceSample, Event, Sample, changes

CHIP = DeviceSample("chip", "loihi-sim", True, "up", "on", 0.1, 0, "")
BEFORE = Sample(
    unix_seconds=1.0, policy="tight", window_seconds=10.0, limit_joules=10.0, used_joules=1.0, reserved_joules=0.0,
    overruns=0, journal_gaps=0, watts={"chip": 0.1}, buckets=[], devices=[CHIP], meters={"chip": ""}, points=[],
    statuses={},
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "text", "grave"),
    [
        ({"policy": "loose"}, "policy loose is in force, before it was tight", False),
        (
            {"devices": [msgspec.structs.replace(CHIP, health="lost", detail="it hangs")]},
            "chip is lost: it hangs",
            True,
        ),
        ({"devices": [msgspec.structs.replace(CHIP, health="degraded")]}, "chip is degraded", False),
        ({"devices": [msgspec.structs.replace(CHIP, power="off", health="off")]}, "chip is powered down", False),
        ({"devices": [msgspec.structs.replace(CHIP, power="opening")]}, "chip is being powered up", False),
        ({"meters": {"chip": "EIO"}}, "meter chip is lost, a model takes over: EIO", True),
        ({"overruns": 1}, "the meters counted more than the budget allows", True),
        ({"journal_gaps": 3}, "3 records could not be written to the journal", True),
    ],
)
def test_what_changed_is_told(changed: dict[str, object], text: str, grave: bool) -> None:
    """Each change is one event, at the moment of the later sample."""
    after = msgspec.structs.replace(BEFORE, unix_seconds=2.0, **changed)
    assert changes(BEFORE, after) == [Event(2.0, text, grave)]


def test_a_meter_comes_back() -> None:
    """What was lost and is there again is good news."""
    lost = msgspec.structs.replace(BEFORE, meters={"chip": "EIO"})
    assert changes(lost, BEFORE) == [Event(1.0, "meter chip is back", grave=False)]


def test_nothing_changed() -> None:
    """Figures that move are no events."""
    after = msgspec.structs.replace(BEFORE, unix_seconds=2.0, used_joules=5.0, watts={"chip": 3.0})
    assert changes(BEFORE, after) == []
