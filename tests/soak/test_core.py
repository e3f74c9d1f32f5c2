"""The simulation of the daemon's core: many seeds, and those that once found a defect."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from daemon.audit import ANSWERED
from daemon.journal import Journal
from tests.soak.core import MEMORY, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.journal import Record

SEEDS, PER_TEST = 200, 20
# Seeds that once broke a promise: killed between two attempts, a request was charged twice for the first.
REGRESSIONS = (192,)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder in memory, where there is one."""
    with TemporaryDirectory(prefix="jouled-core-", dir=MEMORY) as name:
        yield Path(name)


@pytest.mark.parametrize("first", range(0, SEEDS, PER_TEST))
def test_seeds(folder: Path, first: int, record_property: Callable[[str, Any], None]) -> None:
    """Whatever a seed brings, every promise holds; all kinds of ends, kills among them, occur."""
    ends, kills = Counter[str](), 0
    for seed in range(first, first + PER_TEST):
        run, _ = simulate(seed, folder / str(seed))
        ends += run.ends
        kills += run.kills
    record_property("seeds", PER_TEST)
    record_property("kills", kills)
    record_property("requests", sum(ends.values()))
    assert kills > 0
    assert set(ends) >= {ANSWERED, "cancelled", "DeadlinePassed", "OverBudget", "Overloaded", "Unavailable"}


@pytest.mark.parametrize("seed", REGRESSIONS)
def test_regressions(folder: Path, seed: int) -> None:
    """What once broke a promise keeps it."""
    run, _ = simulate(seed, folder)
    assert run.ends[ANSWERED] > 0


def test_a_seed_gives_one_history(folder: Path) -> None:
    """Real threads, and yet one order: what failed once can be looked at again."""
    (one, first), (another, again) = (simulate(7, folder / name) for name in ("one", "another"))
    assert one.ends == another.ends
    assert first.requests.statuses.tolist() == again.requests.statuses.tolist()
    assert first.requests.ended.tolist() == again.requests.ended.tolist()
    assert first.spending.nanojoules.tolist() == again.spending.nanojoules.tolist()


def test_a_journal_that_forgets_is_caught(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer whose record is not written is missed."""
    finished = Journal.finished

    def forgetful(journal: Journal, records: list[Record]) -> bool:
        return finished(journal, [each for each in records if each.sequence != 20])

    monkeypatch.setattr(Journal, "finished", forgetful)
    with pytest.raises(AssertionError, match=r"seed 7: .*terminal record 20 is missing"):
        simulate(7, folder)
