"""What was answered is in the journal, to the nanojoule, and stays there through a kill."""

from __future__ import annotations

import queue
import re
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import grpc
import pytest

from daemon.audit import audit
from daemon.history import read_journal
from daemon.identity import check_identity
from daemon.journal_seals import DAY_NANOSECONDS
from protos import jouled_pb2 as pb
from protos import open_inference_pb2 as oip
from tests.daemon.refusals import refusal
from tests.daemon.serving import CALL_SECONDS, Daemon, configuration, digit_request, running, stick_joules

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tests.daemon.conftest import StartDaemon

POLICIES = """
[policy.accurate]
strategy = "accuracy"
budget_watts = 100.0
[policy.stick]
strategy = "pin"
pin = "ncs2-sim"
budget_watts = 100.0
[policy.processor]
strategy = "pin"
pin = "cpu"
budget_watts = 100.0
[policy.nothing]
strategy = "saver"
budget_watts = 0.0
"""
OF_A_DEAD_DAEMON = ("requests of a daemon that died are charged in full", "figures of a daemon that died stay")
# A window that no test outlives.
STICK = configuration(
    '[policy.only]\nstrategy = "saver"\nbudget_watts = 10.0\nwindow_seconds = 3600.0\n',
    start="only",
    devices='[device.stick]\ndriver = "ncs2-sim"\n',
)


def test_sum_of_the_replies_is_the_journal_s(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """Whatever protocol, policy, device and end: the journal's sums are those of the replies, to the nanojoule.

    Where a model counts, the final dynamic energies are those of the replies as well.
    """
    daemon = start_daemon(configuration(POLICIES, start="accurate"))
    dynamic = static = answered = 0
    for policy in ("accurate", "stick", "processor"):
        daemon.set_policy(policy)
        calls = [daemon.classifier.Classify.future(digit_request(image), timeout=CALL_SECONDS) for _ in range(40)]
        for call in calls:
            dynamic += call.result().energy.dynamic_nanojoules
            static += call.result().energy.static_nanojoules
        request = oip.ModelInferRequest(model_name="digits", raw_input_contents=[image.tobytes() * 3])
        request.inputs.add(name="image", datatype="UINT8", shape=[3, 8, 8])
        parameters = daemon.inference.ModelInfer(request, timeout=CALL_SECONDS).parameters
        dynamic += round(parameters["energy_joules"].double_param * 1e9)
        static += round(parameters["energy_static_joules"].double_param * 1e9)
        answered += 41
    daemon.set_policy("nothing")
    assert refusal(lambda: daemon.classify(image)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    rows = daemon.rows()
    assert sum(row.dynamic_nanojoules for row in rows) == dynamic
    assert sum(row.provisional_dynamic_nanojoules for row in rows) == dynamic
    assert sum(row.provisional_static_nanojoules for row in rows) == static
    assert sum(row.provisional_requests for row in rows) == 0
    assert sum(row.requests for row in rows if row.status == "ok") == answered
    assert [(row.policy, row.requests) for row in rows if row.status == "over_budget"] == [("nothing", 1)]


def test_each_answer_can_be_looked_up(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """The journal knows of a request what its reply said, and the final figure."""
    reply = daemon.classify(image)
    found = daemon.control.RequestEnergy(pb.RequestEnergyRequest(request_id=reply.request_id), timeout=CALL_SECONDS)
    row, final, labels = found.row, found.energy, ("provenance", "sharing", "boundary")
    assert (row.provisional_dynamic_nanojoules, row.provisional_static_nanojoules) == (
        reply.energy.dynamic_nanojoules,
        reply.energy.static_nanojoules,
    )
    assert [getattr(final, label) for label in labels] == [getattr(reply.energy, label) for label in labels]
    assert (final.dynamic_nanojoules, final.state) == (reply.energy.dynamic_nanojoules, "final")
    assert final.static_nanojoules == pytest.approx(reply.energy.static_nanojoules, abs=2)
    assert (row.dynamic_nanojoules, row.static_nanojoules) == (final.dynamic_nanojoules, final.static_nanojoules)
    assert (row.policy, row.model, row.variant, row.device) == ("roomy", "digits", reply.variant, reply.device)
    assert (row.status, row.requests, row.device_seconds) == ("ok", 1, reply.device_seconds)
    assert found.accepted_unix_nanoseconds > 0


def test_final_figures_are_streamed(start_daemon: StartDaemon, image: NDArray[np.uint8]) -> None:
    """Who follows gets the final figure of each request that ends from then on; the drain ends the stream."""
    daemon = start_daemon(STICK)
    stream = daemon.control.EnergyStream(pb.EnergyStreamRequest(), timeout=CALL_SECONDS)
    # The stream is open once its first figure comes.
    first = daemon.classify(image)
    told = next(stream, None)
    assert told is not None
    assert told.request_id == first.request_id
    assert (told.energy.dynamic_nanojoules, told.energy.state) == (first.energy.dynamic_nanojoules, "final")
    second = daemon.classify(image)
    assert next(stream).request_id == second.request_id
    daemon.stop()
    assert list(stream) == []


@pytest.mark.parametrize("answered", [1, 40])
def test_kill_under_load_loses_nothing_acknowledged(
    start_daemon: StartDaemon, tmp_path: Path, image: NDArray[np.uint8], answered: int
) -> None:
    """After kill -9 among concurrent requests the next daemon knows each answer that left, and charges the others.

    Whatever was dispatched and not recorded may have spent all that was reserved; the budget's window begins with it.
    """
    first = start_daemon(STICK, state=tmp_path)
    ended: queue.SimpleQueue[grpc.Future[pb.ClassifyReply]] = queue.SimpleQueue()
    calls = [first.classifier.Classify.future(digit_request(image), timeout=CALL_SECONDS) for _ in range(1000)]
    for call in calls:
        call.add_done_callback(ended.put)
    for _ in range(answered):
        ended.get(timeout=CALL_SECONDS).result()
    first.kill()
    codes = [call.code() for call in calls]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    replies = [call.result() for call, code in zip(calls, codes, strict=True) if code is grpc.StatusCode.OK]

    second = start_daemon(STICK, state=tmp_path, may_log=OF_A_DEAD_DAEMON)
    for reply in replies:
        request = pb.RequestEnergyRequest(request_id=reply.request_id)
        found = second.control.RequestEnergy(request, timeout=CALL_SECONDS)
        assert (found.row.status, found.energy.dynamic_nanojoules) == ("ok", reply.energy.dynamic_nanojoules)
    rows = {row.status: row for row in second.rows()}
    lost, spent = rows["lost"], second.status().budget.spent_nanojoules
    assert rows["ok"].requests >= len(replies)
    assert lost.dynamic_nanojoules == pytest.approx(lost.requests * stick_joules() * 1e9, abs=lost.requests)
    assert spent == rows["ok"].provisional_dynamic_nanojoules + lost.dynamic_nanojoules > 0
    assert second.classify(image).request_id > max(reply.request_id for reply in replies)


def test_policy_does_not_restart_with_an_empty_window(
    start_daemon: StartDaemon, tmp_path: Path, image: NDArray[np.uint8]
) -> None:
    """A restart is no way around the budget: what the last daemon spent is still spent."""
    first = start_daemon(STICK, state=tmp_path)
    spent = sum(first.classify(image).energy.dynamic_nanojoules for _ in range(5))
    first.stop()
    second = start_daemon(STICK, state=tmp_path)
    assert second.status().budget.spent_nanojoules == spent


def test_old_records_are_sealed(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    """A daemon with a retention seals what is older, while it serves: sums and audit are what they were."""
    config, store = configuration(POLICIES, start="stick"), tmp_path / "journal.db"
    with running(config, state=tmp_path) as daemon:
        for _ in range(5):
            daemon.classify(image)
        before = daemon.rows()
    with closing(sqlite3.connect(store, isolation_level=None)) as database:
        database.execute("UPDATE requests SET accepted_unix = accepted_unix - ?", (3 * DAY_NANOSECONDS,))
    with running(config + "[journal]\nretention_days = 1\n", state=tmp_path) as daemon:
        deadline = time.monotonic() + CALL_SECONDS
        while not (seals := read_journal(store).seals):
            assert time.monotonic() < deadline, "nothing was sealed"
        assert (seals[1].requests, seals[1].acknowledged) == (5, 5)
        assert daemon.rows() == before
        for number, why in ((3, "any more: .* are sealed in sums, since retention_days = 1$"), (9, "in the journal$")):
            request = pb.RequestEnergyRequest(request_id=number)
            told = refusal(lambda request=request: daemon.control.RequestEnergy(request))  # type: ignore[misc]
            assert told.code is grpc.StatusCode.NOT_FOUND
            assert re.search(why, told.message), told.message
        assert daemon.classify(image).request_id == 6
    assert [finding for finding in [*audit(read_journal(store)), check_identity(store)] if finding.violations] == []
