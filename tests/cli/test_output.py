"""Messages become JSON with the names of the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.cli.output import as_dict, print_table
from protos import jouled_pb2 as pb

if TYPE_CHECKING:
    import pytest


def test_maps_keep_their_keys() -> None:
    """The keys of a map are data, not names of the protocol; 64-bit numbers are numbers anywhere."""
    reply = pb.DevicesReply(devices=[pb.DeviceState(name="chip", telemetry={"cores": 3.0})])
    (device,) = as_dict(reply)["devices"]
    assert (device["name"], device["telemetry"]) == ("chip", {"cores": 3.0})
    assert as_dict(pb.StatusReply(journal_gaps=1 << 40))["journal_gaps"] == 1 << 40


def test_tables_show_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    """Units and reasons in brackets are text, no markup."""
    print_table("in [s]", ("time [s]",), [("[/dev/x] is gone",)])
    said = capsys.readouterr().out
    assert all(text in said for text in ("in [s]", "time [s]", "[/dev/x] is gone"))
