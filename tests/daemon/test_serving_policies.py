"""Policies choose the operating points, and the budget holds, as clients and the operator see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2

from daemon.repository import SHIPPED
from hal import artifact
from hal.energy import ncs2
from hal.loihi_sim import LoihiSim
from protos import jouled_pb2 as pb
from tests.daemon.refusals import refusal
from tests.daemon.serving import (
    CALL_SECONDS,
    Daemon,
    best,
    cheapest,
    configuration,
    digit_request,
    may_take,
    running,
    stick_joules,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon

STICK_JOULES = stick_joules()
# The chip with the digits on it, and the stick.
CHIP = LoihiSim("chip")
CHIP.load(artifact.read(SHIPPED / "digits" / "1" / "snn"))
STATIC_WATTS = ncs2.IDLE_WATTS + CHIP.static_watts()
STICK = '[device.stick]\ndriver = "ncs2-sim"\n'
POLICIES = f"""
[policy.accuracy]
strategy = "accuracy"
budget_watts = 100.0
[policy.saver]
strategy = "saver"
budget_watts = 100.0
[policy.careful-saver]
strategy = "saver"
budget_watts = 100.0
min_accuracy = 0.97
[policy.latency]
strategy = "latency"
budget_watts = 100.0
[policy.balanced]
strategy = "balanced"
budget_watts = 100.0
[policy.balanced-tight]
strategy = "balanced"
budget_watts = {STATIC_WATTS + 30 * STICK_JOULES / 60}
window_seconds = 60.0
[policy.pin-snn]
strategy = "pin"
pin = "snn"
budget_watts = 100.0
[policy.pin-dnn]
strategy = "pin"
pin = "dnn"
budget_watts = 100.0
[policy.pin-stick]
strategy = "pin"
pin = "ncs2-sim"
budget_watts = 100.0
window_seconds = 60.0
[policy.pin-cpu]
strategy = "pin"
pin = "cpu"
budget_watts = 100.0
[policy.nothing]
strategy = "saver"
budget_watts = 0.0
"""


@pytest.fixture(scope="module")
def switched() -> Iterator[Daemon]:
    """Run a daemon whose policies the tests of this file switch."""
    with running(configuration(POLICIES, start="accuracy")) as daemon:
        yield daemon


def test_static_power_is_that_of_the_devices(switched: Daemon) -> None:
    """The budget's static part is what the devices say that they draw."""
    devices = switched.control.Devices(pb.DevicesRequest(), timeout=CALL_SECONDS).devices
    assert sum(device.static_watts for device in devices) == pytest.approx(STATIC_WATTS)
    switched.set_policy("accuracy")
    assert switched.status().budget.static_nanojoules == round(STATIC_WATTS * 10e9)


@pytest.mark.parametrize(
    ("policy", "prefers"),
    [
        ("accuracy", best),
        ("balanced", best),
        ("saver", cheapest),
        ("careful-saver", lambda points: cheapest(points, at_least=0.97)),
        ("pin-snn", lambda points: best([point for point in points if point.variant == "snn"])),
        ("pin-stick", lambda points: best([point for point in points if point.device == "ncs2-sim"])),
        ("pin-cpu", lambda points: best([point for point in points if point.device == "cpu"])),
    ],
)
def test_policy_chooses(
    switched: Daemon,
    image: NDArray[np.uint8],
    policy: str,
    prefers: Callable[[Sequence[pb.PointState]], pb.PointState],
) -> None:
    """From the switch on, replies name the policy and come from the point that it prefers."""
    switched.set_policy(policy)
    point = prefers(switched.points())
    for _ in range(5):
        reply = switched.classify(image)
        assert (reply.policy, reply.device) == (policy, point.device)
        assert may_take(point, reply.steps)


def test_policy_pins_a_kind(switched: Daemon, image: NDArray[np.uint8]) -> None:
    """Pinned to dense networks, any device that runs them will do."""
    switched.set_policy("pin-dnn")
    assert {switched.classify(image).variant for _ in range(5)} == {"dnn"}


def test_policy_for_latency(switched: Daemon, image: NDArray[np.uint8]) -> None:
    """Whatever is fastest on this host, it is not the stick, whose transfers alone take two milliseconds."""
    switched.set_policy("latency")
    replies = [switched.classify(image) for _ in range(5)]
    assert {reply.policy for reply in replies} == {"latency"}
    assert "ncs2-sim" not in {reply.device for reply in replies}


def test_switch_tells_the_policy_before(switched: Daemon) -> None:
    """The operator learns what was in force, and sees what is."""
    switched.set_policy("saver")
    assert switched.set_policy("accuracy") == "saver"
    policies = switched.control.Policies(pb.PoliciesRequest(), timeout=CALL_SECONDS).policies
    assert [policy.name for policy in policies if policy.in_force] == ["accuracy"]
    assert switched.status().policy == "accuracy"


def test_switch_takes_back_what_is_queued(switched: Daemon, image: NDArray[np.uint8]) -> None:
    """What waits for the slow stick when the policy changes is decided again under the new one."""
    switched.set_policy("pin-stick")
    calls = [switched.classifier.Classify.future(digit_request(image), timeout=CALL_SECONDS) for _ in range(100)]
    assert calls[0].result().policy == "pin-stick"
    switched.set_policy("saver")
    chosen = {(reply.policy, reply.device) for reply in (call.result() for call in calls)}
    assert chosen == {("pin-stick", "ncs2-sim"), ("saver", cheapest(switched.points()).device)}


def test_balanced_spends_less_as_the_window_fills(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """With room the most accurate point is worth its price, with hardly any room the cheapest one is taken."""
    daemon = start_daemon(configuration(POLICIES, start="balanced-tight"))
    with_room, without = best(daemon.points()), cheapest(daemon.points())
    first = daemon.classify(image)
    assert first.device == with_room.device
    assert may_take(with_room, first.steps)
    daemon.set_policy("pin-stick")
    for _ in range(29):
        assert daemon.classify(image).device == "ncs2-sim"
    daemon.set_policy("balanced-tight")
    reply = daemon.classify(image)
    assert reply.device == without.device
    assert may_take(without, reply.steps)


def test_zero_budget_refuses_everything(switched: Daemon, image: NDArray[np.uint8]) -> None:
    """Nothing may be served under a budget of nothing; the next policy serves again."""
    switched.set_policy("nothing")
    answer = refusal(lambda: switched.classify(image))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    (violation,) = answer.detail(error_details_pb2.QuotaFailure).violations
    assert violation.subject == "power:nothing"
    assert answer.retry_seconds > 0
    switched.set_policy("saver")
    assert switched.classify(image).policy == "saver"


def test_tight_budget_says_when_to_retry(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """A window that holds three answers gives three, refuses the next, and has room again when it said."""
    window_seconds = 4.0
    tight = f"""
[policy.tight]
strategy = "saver"
budget_watts = {ncs2.IDLE_WATTS + 3.5 * STICK_JOULES / window_seconds}
window_seconds = {window_seconds}
"""
    daemon = start_daemon(configuration(tight, start="tight", devices=STICK))
    request = digit_request(image)
    for _ in range(3):
        assert daemon.classifier.Classify(request, timeout=1.0).device == "stick"
    answer = refusal(lambda: daemon.classifier.Classify(request, timeout=0.5))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    start = f"policy 'tight': the power budget has no room for {STICK_JOULES:.3g} J in time: the answer would take "
    assert answer.message.startswith(start)
    assert f"; retry in {answer.retry_seconds:.3g} s" in answer.message
    (violation,) = answer.detail(error_details_pb2.QuotaFailure).violations
    assert (violation.subject, violation.description) == ("power:tight", answer.message)
    assert 0.5 < answer.retry_seconds <= window_seconds
    assert daemon.classifier.Classify(request, timeout=answer.retry_seconds + 1.0).device == "stick"
    refusals = {row.status: row.requests for row in daemon.rows()}
    assert refusals == {"ok": 4, "over_budget": 1}


def test_request_waits_for_the_budget_within_its_deadline(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """Requests beyond what a window holds are answered in the next ones where their deadlines leave the time."""
    window_seconds = 0.5
    slow = f"""
[policy.slow]
strategy = "saver"
budget_watts = {ncs2.IDLE_WATTS + 2.5 * STICK_JOULES / window_seconds}
window_seconds = {window_seconds}
"""
    daemon = start_daemon(configuration(slow, start="slow", devices=STICK))
    calls = [daemon.classifier.Classify.future(digit_request(image), timeout=CALL_SECONDS) for _ in range(7)]
    waited = sorted(call.result().queue_seconds for call in calls)
    assert waited[2] >= window_seconds * 0.9
    assert waited[6] >= 3 * window_seconds * 0.9


def test_deadlines_hold_on_a_crowded_device(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """Requests beyond what a device can serve in time end with a reason, and leave nothing behind."""
    roomy = '[policy.roomy]\nstrategy = "accuracy"\nbudget_watts = 100.0\n'
    daemon = start_daemon(configuration(roomy, start="roomy", devices=STICK))
    calls = [daemon.classifier.Classify.future(digit_request(image), timeout=0.1) for _ in range(200)]
    codes = {call.code() for call in calls}
    assert codes <= {
        grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
    }  # fmt: skip
    assert len(codes) > 1
    assert daemon.classify(image).labels[0].name == "0"
    (device,) = daemon.control.Devices(pb.DevicesRequest(), timeout=CALL_SECONDS).devices
    assert (device.queued, daemon.status().budget.reserved_nanojoules) == (0, 0)
