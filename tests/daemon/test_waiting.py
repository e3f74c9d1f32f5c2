"""The line for the budget: by priority, then in the order of coming, with the work of all who come before."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from daemon.waiting import FIRST_PRIORITY, LAST_PRIORITY, NOTHING, WaitingLine, Work


@dataclass(eq=False)
class _Waiter:
    priority: int
    work: Work


WAITERS = st.builds(
    _Waiter, st.integers(FIRST_PRIORITY, LAST_PRIORITY), st.builds(Work, st.integers(0, 99), st.integers(0, 99))
)


def _sum(waiters: list[_Waiter]) -> Work:
    return Work(sum(each.work.nanojoules for each in waiters), sum(each.work.nanoseconds for each in waiters))


@given(st.lists(st.one_of(WAITERS, st.integers(0, 99)), max_size=50))
def test_line(steps: list[_Waiter | int]) -> None:
    """Whoever joins and whoever leaves: the line is what a stable sort by priority makes of those who are there."""
    line, joined = WaitingLine[_Waiter](), list[_Waiter]()
    for step in steps:
        if isinstance(step, _Waiter):
            before = [each for each in joined if each.priority <= step.priority]
            assert line.before(step) == _sum(before)
            line.join(step, step.work)
            joined.append(step)
        elif joined:
            line.leave(joined.pop(step % len(joined)))
        order = sorted(joined, key=lambda each: each.priority)
        assert len(line) == len(order)
        assert line.first is (order[0] if order else None)
        assert [line.before(each) for each in order] == [_sum(order[:place]) for place in range(len(order))]
    for each in joined:
        line.leave(each)
    assert (len(line), line.before(_Waiter(LAST_PRIORITY, NOTHING))) == (0, NOTHING)
