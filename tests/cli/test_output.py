"""Messages become JSON with the names of the protocol."""

from __future__ import annotations

from daemon.cli.output import as_dict
from protos import jouled_pb2 as pb


def test_maps_keep_their_keys() -> None:
    """The keys of a map are data, not names of the protocol; 64-bit numbers are numbers anywhere."""
    reply = pb.DevicesReply(devices=[pb.DeviceState(name="chip", telemetry={"cores": 3.0})])
    (device,) = as_dict(reply)["devices"]
    assert (device["name"], device["telemetry"]) == ("chip", {"cores": 3.0})
    assert as_dict(pb.StatusReply(journal_gaps=1 << 40))["journal_gaps"] == 1 << 40
