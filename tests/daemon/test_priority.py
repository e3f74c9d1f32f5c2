"""A smaller number goes first: in a device's queue, in the line for the budget, and when a request is let in."""

from __future__ import annotations

import asyncio
import queue
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from daemon.budget import Reservation
from daemon.clock import NANO
from daemon.config import PolicyConfig
from daemon.errors import DeadlinePassed, InvalidRequest, Overloaded
from daemon.oip_parameters import priority
from daemon.tasks import Job, TaskQueue
from daemon.waiting import DEFAULT_PRIORITY, FIRST_PRIORITY, LAST_PRIORITY
from protos import open_inference_pb2 as oip
from tests.daemon.builders import Bench, ManualClock, drive, entered, hosting, make_point, turns
from tests.daemon.serving import CALL_SECONDS, configuration
from tests.daemon.test_serving_open_inference import digit_infer
from tests.daemon.virtual import VirtualTime, play

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from daemon.points import Point
    from tests.daemon.conftest import StartDaemon

ROOMY = {"roomy": PolicyConfig("accuracy", 1.0)}
# By the hundreds of nanojoules that an image of a bench costs: a window holds four, each of which reserves two.
TIGHT = {"tight": PolicyConfig("accuracy", 400 / NANO, 1.0)}
POINT, OTHER = make_point(), make_point(steps=2)


@pytest.mark.parametrize("policies", [ROOMY, TIGHT])
def test_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policies: dict[str, PolicyConfig]) -> None:
    """What waits is served by priority, then as it came, whether it waits for the device or for the budget."""

    async def scenario() -> None:
        bench, ended = Bench(), list[int]()
        bench.during = lambda: virtual.sleep(NANO // 100)
        async with hosting(tmp_path, virtual, policies, bench) as host:

            async def ask(number: int, priority: int) -> None:
                await host.ask(seconds=60, priority=priority)
                ended.append(number)

            first = host.ask(images=2, seconds=60)
            await entered(bench)
            await asyncio.gather(first, *(ask(number, each) for number, each in enumerate((9, 5, 1, 5, 9, 1))))
            assert ended == [2, 5, 1, 3, 0, 4]
            assert host.at_rest()

    virtual = VirtualTime()
    play(virtual, scenario(), monkeypatch)


def test_let_in_before_others(tmp_path: Path) -> None:
    """Behind a queue that leaves no time for more of them, one of a higher priority is let in: it goes first."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            (point,) = host.points
            bench.gate.clear()
            point.service_seconds = 0.3
            running = host.ask(priority=9)
            await entered(bench)
            low, default = host.ask(priority=9), host.ask()
            await turns()
            assert isinstance((await asyncio.gather(host.ask(), return_exceptions=True))[0], Overloaded)
            urgent = host.ask(priority=1)
            await turns()
            assert host.fleet.load_seconds("chip", 1) == pytest.approx(0.6)
            assert host.fleet.load_seconds("chip") == pytest.approx(0.9)
            assert host.fleet.load_seconds("chip", 9) == pytest.approx(1.2)
            bench.gate.set()
            host.until_done()
            await asyncio.gather(running, low, default, urgent)
            assert host.fleet.load_seconds("chip", 9) == 0.0
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def test_overtaken_until_the_deadline(tmp_path: Path) -> None:
    """Who is overtaken waits no longer than its deadline allows, and is told then."""

    async def scenario() -> None:
        bench = Bench()
        async with hosting(tmp_path, clock, ROOMY, bench) as host:
            bench.gate.clear()
            running = host.ask(seconds=60)
            await entered(bench)
            low, high = host.ask(priority=9), host.ask(seconds=60, priority=1)
            await turns()
            clock.advance(NANO)
            with pytest.raises(DeadlinePassed):
                await low
            bench.gate.set()
            await asyncio.gather(running, high)
            assert host.at_rest()

    clock = ManualClock()
    drive(clock, scenario())


def _job(point: Point, priority: int) -> Job:
    return Job(point, np.zeros((1, 1, 2), np.uint8), 1 << 62, Reservation(0), 0.001, priority)


def test_tasks_keep_their_place() -> None:
    """No priority passes what else a device has to do, and no batch lets a lower one of its point pass a higher one."""
    tasks = TaskQueue(ManualClock())
    low, other, high, same = _job(POINT, 9), _job(OTHER, 5), _job(POINT, 1), _job(POINT, 5)
    urgent, chore = _job(POINT, 1), lambda: None
    for task in (low, other, high, same, chore, urgent):
        tasks.put(task)
    first = tasks.take()
    assert isinstance(first, Job)
    assert tasks.gather(first, 8) == [high, same]
    assert [tasks.take() for _ in range(4)] == [other, low, chore, urgent]


@pytest.mark.parametrize(
    ("kind", "given", "taken"),
    [
        ("uint64_param", 1, FIRST_PRIORITY), ("int64_param", 9, LAST_PRIORITY), ("double_param", 2.0, 2),
        ("uint64_param", 0, DEFAULT_PRIORITY), ("uint64_param", 10, DEFAULT_PRIORITY),
        ("uint64_param", 2**64 - 1, DEFAULT_PRIORITY),
    ],
)  # fmt: skip
def test_priority_of_a_request(kind: str, given: float, taken: int) -> None:
    """Numbers of any type are understood; 0 and what is beyond the last priority stand for the default."""
    request = oip.ModelInferRequest()
    setattr(request.parameters["priority"], kind, given)
    assert priority(request) == taken


@pytest.mark.parametrize(
    ("kind", "given", "reason"),
    [
        ("int64_param", -1, "-1 is no whole number from 0 on"),
        ("double_param", 2.5, "2.5 is no whole number from 0 on"),
        ("double_param", float("inf"), "inf is no whole number from 0 on"),
        ("string_param", "high", "is not a number"),
    ],
)
def test_priority_that_is_none(kind: str, given: float | str, reason: str) -> None:
    """What is no priority is refused by its name, with the figure."""
    request = oip.ModelInferRequest()
    setattr(request.parameters["priority"], kind, given)
    with pytest.raises(InvalidRequest) as caught:
        priority(request)
    assert (caught.value.field, caught.value.reason) == ("parameters.priority", reason)


def test_clients_overtake(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """A client's request of the first priority is answered while those of the last one that came before still wait."""
    roomy = '[policy.roomy]\nstrategy = "accuracy"\nbudget_watts = 100.0\n'
    stick = '[device.stick]\ndriver = "ncs2-sim"\n'
    daemon = start_daemon(configuration(roomy, start="roomy", devices=stick))
    low, high = digit_infer(np.repeat(image[np.newaxis], 64, 0), priority=9), digit_infer(image[np.newaxis], priority=1)
    # In the order in which answers arrive, whenever this thread looks at them.
    calls: list[Any] = []
    arrived = queue.SimpleQueue[Any]()
    for request in [*[low] * 32, high]:
        if request is high:
            calls[0].result()
        calls.append(daemon.inference.ModelInfer.future(request, timeout=CALL_SECONDS))
        calls[-1].add_done_callback(arrived.put)
    answers = [call.result() for call in calls]
    order = [arrived.get(timeout=CALL_SECONDS) for _ in calls]
    assert calls[-1] is not order[-1]
    assert {each.parameters["device"].string_param for each in answers} == {"stick"}
