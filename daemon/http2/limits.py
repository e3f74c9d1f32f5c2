"""What clients may take of the daemon."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server and of each of its connections."""

    message_bytes: int
    # Each call under way takes memory, even one that sends nothing.
    calls: int = 4096
    # Messages that come in pieces, of all calls together: beyond it, a call with more than a window of them is refused.
    kept_bytes: int = 256 << 20
    # What comes beyond is closed at once. The connections of all servers leave room in the usual 1024 open files.
    connections: int = 256
    streams: int = 100
    # Names and values of a call's headers, with 32 bytes for each (RFC 9113).
    metadata_bytes: int = 16_384
    handshake_seconds: float = 5.0
    # A connection without a call under way is ended.
    idle_seconds: float = 600.0
    # A peer with a call under way that is gone without a word is found out after 80 s.
    keepalive_seconds: float = 60.0
    ping_timeout_seconds: float = 20.0
    # Who pings more often, this often in a row and while it is sent nothing else, is disconnected. Clients of gRPC ping
    # each ten seconds at most; the network may bring two closer together.
    ping_interval_seconds: float = 9.0
    ping_strikes: int = 2
    # Where there is TLS, certificates are looked at again after an hour, and calls that still go on then end soon.
    age_seconds: float = 3600.0
    age_grace_seconds: float = 600.0
