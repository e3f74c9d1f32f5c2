"""A gRPC server whose methods get nothing but messages from those who may send them."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from daemon.access import allowed
from daemon.config import TlsConfig
from daemon.errors import InvalidRequest, NotAllowed, RequestError
from daemon.http2 import headers
from daemon.http2.call import Call
from daemon.http2.connection import PROTOCOL, Connection
from daemon.http2.limits import Limits
from daemon.http2.method import Method
from daemon.http2.server import Server
from daemon.status import refused

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
        super().__init__(limits)
        self._allow = allow

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """Leave them out: generated code registers each method by its name as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of a service, each behind the checks."""
        for name, handler in handlers.items():
            answer = _written_by_return(getattr(handler, KINDS[handler.request_streaming, handler.response_streaming]))
            self.methods[f"/{service}/{name}".encode()] = Method(
                _with_status(answer), _parser(handler.request_deserializer), handler.response_serializer or bytes,
                handler.request_streaming,
            )  # fmt: skip

    def refusal(self, head: headers.Head, client: Connection) -> bytes:
        """Refuse a call over the network also to whoever may not make it."""
        refusal = super().refusal(head, client)
        if refusal or self._allow is None or not client.secure or head.path not in self.methods:
            return refusal
        method = head.path[1:].decode()
        if allowed(self._allow, client.identities, method):
            return b""
        log.warning("call denied", method=method, certificate=",".join(client.identities), peer=client.peer)
        end = refused(NotAllowed(f"the certificate's names do not allow {method.rpartition('/')[2]}"))
        return headers.refusal(end.code, end.details, end.metadata)


class Handshake(ssl.SSLObject):
    """A side of TLS for which a certificate that cannot be read is a failed handshake, not a defect of the loop."""

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Give the client's certificate. Raises `ssl.SSLError` where a name in it is no text."""
        try:
            return super().getpeercert(binary_form)
        except UnicodeDecodeError as error:
            raise ssl.SSLError(f"a name in the certificate is no text: {error.reason}") from None


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
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
    made.set_alpn_protocols([PROTOCOL])
    made.sslobject_class = Handshake
    # A session that is resumed would let in whoever had a good certificate once.
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.num_tickets = 0
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
        async with aclosing(answer(request, call)) as replies:
            async for reply in replies:
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
