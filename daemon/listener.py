"""A gRPC server whose methods get nothing but messages from those who may send them."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from daemon.access import allowed
from daemon.config import TlsConfig
from daemon.errors import InvalidRequest, NotAllowed, RequestError
from daemon.http2.call import Call, Method
from daemon.http2.limits import Limits
from daemon.http2.server import Server
from daemon.status import refused

# Over the network, certificates are looked at again after an hour, and calls that still go on then end soon.
NETWORK_AGE_SECONDS = 3600.0
KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
MALFORMED = InvalidRequest("request", "is not a message that this method takes")

Allow = Mapping[str, Iterable[str]]
Answer = Callable[[Any, Any], Awaitable[Any]]

log = structlog.get_logger()


class Listener(Server):
    """A server that generated code adds services to as to gRPC's own.

    What is no message of its method is refused with INVALID_ARGUMENT. Where there is `allow`, patterns of methods by a
    certificate's names, whoever does not call through a Unix socket must be on it, else the call is refused with
    PERMISSION_DENIED and logged.
    """

    def __init__(self, limits: Limits, allow: Allow | None = None) -> None:
        super().__init__(limits if allow is None else replace(limits, age_seconds=NETWORK_AGE_SECONDS))
        self._allow = allow

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """Leave them out: generated code registers each method by its name as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of a service, each behind the checks."""
        for name, handler in handlers.items():
            answer = _written_by_return(getattr(handler, KINDS[handler.request_streaming, handler.response_streaming]))
            if self._allow is not None:
                answer = _guarded(answer, self._allow, f"{service}/{name}")
            self.methods[f"/{service}/{name}".encode()] = Method(
                _with_status(answer), _parser(handler.request_deserializer), handler.response_serializer or bytes,
                handler.request_streaming,
            )  # fmt: skip


def context(tls: TlsConfig) -> ssl.SSLContext:
    """Read the daemon's key and certificates. Raises `ValueError` with what is wrong with which file."""
    for path in (tls.key, tls.certificate, tls.client_authority):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        made.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(f"{tls.certificate}, {tls.key}: no certificate with its key ({error.reason})") from None
    try:
        made.load_verify_locations(tls.client_authority)
    except ssl.SSLError as error:
        raise ValueError(f"{tls.client_authority}: no certificate ({error.reason})") from None
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def _no_password() -> str:
    """Give none, so that OpenSSL does not ask the terminal."""
    return ""


def _parser(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Parse, and refuse what is no message."""
    if parse is None:
        return bytes

    def parse_or_refuse(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError:
            raise refused(MALFORMED) from None

    return parse_or_refuse


def _written_by_return(answer: Callable[[Any, Any], Any]) -> Answer:
    """Turn a method that yields its replies into one that writes them."""
    if not inspect.isasyncgenfunction(answer):
        return answer

    async def write_each(request: Any, call: Call) -> None:
        async for reply in answer(request, call):
            await call.write(reply)

    return write_each


def _with_status(answer: Answer) -> Answer:
    """End a call with the status of the error that its method raises."""

    async def answer_or_refuse(request: Any, call: Call) -> Any:
        try:
            return await answer(request, call)
        except RequestError as error:
            raise refused(error) from None

    return answer_or_refuse


def _guarded(answer: Answer, allow: Allow, method: str) -> Answer:
    """Refuse a call over the network by whoever may not make it."""

    async def guarded(request: Any, call: Call) -> Any:
        peer = call.peer()
        if not peer.startswith("unix:"):
            names = [name.decode(errors="replace") for name in call.peer_identities() or ()]
            if not allowed(allow, names, method):
                log.warning("call denied", method=method, certificate=",".join(names), peer=peer)
                raise NotAllowed(f"the certificate's names do not allow {method.rpartition('/')[2]}")
        return await answer(request, call)

    return guarded
