"""Who is at the other end of a connection."""

from __future__ import annotations

import asyncio
import socket

# How gRPC names the families of addresses.
FAMILIES = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}
COMMON_NAME = "commonName"


def peer(transport: asyncio.Transport) -> str:
    """Name where a client is, as gRPC does: `unix:`, or its address and port after the family."""
    family = FAMILIES.get(transport.get_extra_info("socket").family)
    if family is None:
        return "unix:"
    # Whoever has reset the connection by now is nowhere.
    host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
    return f"{family}:{host}:{port}" if family == "ipv4" else f"{family}:[{host}]:{port}"


def identities(transport: asyncio.Transport) -> list[str]:
    """Give the names in a client's certificate: the alternative ones, or the common one where there are none."""
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return []
    # Names of directories are no text.
    names = [name for _, name in certificate.get("subjectAltName", ()) if isinstance(name, str)]
    if not names:
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == COMMON_NAME]
    return names
