"""What is counted of requests as they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.attribution import Final
from daemon.clock import NANO
from daemon.journal import Record
from daemon.ledger import Energy, row_id
from daemon.tally import FOUND_LIMIT, LATEST, Histogram, Served, Tally, served_by
from hal.device import Provenance
from tests.daemon.builders import ManualClock, make_point

if TYPE_CHECKING:
    from daemon.points import Point

POINT = make_point()
SERVED = served_by(POINT)
SPENT = Energy(100, 5, 1, "simulated", "accelerator", "exclusive")


def record(number: int, status: str = "ok", point: Point | None = POINT, energy: Energy | None = SPENT) -> Record:
    """Make the record of a request that took two milliseconds."""
    return Record(number, 1, status, 1, 10 * NANO, 1000, 1000 + NANO // 500, point, 0, 0, energy, model="toy")


def final(number: int, nanojoules: int = 100, attempt: int = 0) -> Final:
    """Make the final figure of an attempt."""
    return Final(row_id(number, attempt), False, nanojoules, 5, 1, Provenance.SIMULATED, "exclusive")


def statuses(tally: Tally) -> dict[tuple[Served, str], int]:
    """Give how many requests ended how."""
    return {(served, status): count for served, cell in tally.cells.items() for status, count in cell.statuses.items()}


def test_energy_counts_once_it_is_final() -> None:
    """A request is counted when it ends, its joules when they are final."""
    tally = Tally(ManualClock())
    tally.ended(record(1))
    assert (statuses(tally), tally.cells[SERVED].energies, list(tally.latest)) == ({(SERVED, "ok"): 1}, {}, [])
    tally.final([final(1, 120), final(2)])
    (histogram,) = tally.cells[SERVED].energies.values()
    assert (histogram.count, histogram.sum) == (1, 120e-9)
    assert [(each.request_id, each.final) for each in tally.latest] == [(1, final(1, 120))]


def test_an_answer_that_came_too_late_costs_and_counts_as_no_answer() -> None:
    """Its joules are told with the request, and are not among those of answers."""
    tally = Tally(ManualClock())
    tally.ended(record(1, "deadline"))
    tally.final([final(1)])
    assert statuses(tally) == {(SERVED, "deadline"): 1}
    assert tally.cells[SERVED].energies == {}
    assert tally.latest[0].final == final(1)


def test_a_request_that_nothing_answered_is_done_with_at_once() -> None:
    """Nothing ran for the first; of the second every attempt failed, and these have rows of their own in the books."""
    tally = Tally(ManualClock())
    tally.ended(record(1, "over_budget", None, None))
    tally.ended(record(2, "unavailable", energy=None))
    tally.final([final(2, attempt=1)])
    assert statuses(tally) == {(Served("toy"), "over_budget"): 1, (SERVED, "unavailable"): 1}
    assert [(each.request_id, each.final) for each in tally.latest] == [(1, None), (2, None)]
    assert tally._awaited == {}


def test_a_model_that_comes_back_goes_on_counting() -> None:
    """A point is known by its name: one that was unloaded and loaded again adds to the same counters."""
    tally = Tally(ManualClock())
    tally.ended(record(1))
    tally.ended(record(2, point=make_point()))
    assert statuses(tally) == {(SERVED, "ok"): 2}
    assert tally.cells[SERVED].right == 2 * POINT.accuracy


def test_points_that_come_and_go_leave_nothing_behind() -> None:
    """However often a model is loaded, there is one set of counters for each of its points."""
    tally = Tally(ManualClock())
    for number in range(3 * FOUND_LIMIT):
        tally.ended(record(number, point=make_point(), energy=None))
    assert statuses(tally) == {(SERVED, "ok"): 3 * FOUND_LIMIT}
    assert len(tally._of) <= FOUND_LIMIT


def test_only_the_latest_are_kept() -> None:
    """However many requests end, memory does not grow."""
    tally = Tally(ManualClock())
    for number in range(3 * LATEST):
        tally.ended(record(number))
        tally.final([final(number)])
    assert [each.request_id for each in tally.latest] == list(range(2 * LATEST, 3 * LATEST))


def test_histograms_add_up() -> None:
    """A value belongs to the first bucket whose bound it does not pass; of two exemplars the later one stays."""
    one, other = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    for request, value in enumerate((1.0, 1.5, 9.0), 1):
        one.observe(request, value, float(request))
    other.observe(4, 1.5, 4.0)
    one.add(other)
    assert (one.counts, one.count, one.sum) == ([1, 2, 1], 4, 13.0)
    assert [each[0] if each else 0 for each in one.exemplars] == [1, 4, 3]
