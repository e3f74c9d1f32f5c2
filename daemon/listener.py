"""gRPC servers within limits, whose methods get nothing but messages from those who may send them."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from daemon.access import allowed
from daemon.config import TlsConfig
from daemon.errors import InvalidRequest, NotAllowed
from daemon.grpc_core import HardyServer
from daemon.status import abort

# Each call under way takes memory, even one that sends nothing.
CALLS_LIMIT = 4096
# gRPC's defaults leave streams and idle connections unbounded; see docs of grpc.max_concurrent_streams. With its
# overload protection, a stock client that keeps to the limit of streams still gets most of a burst beyond it refused.
LIMITS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 100),
    ("grpc.http.overload_protection", 0),
    # What comes beyond is closed at once. The connections of all servers leave room in the usual 1024 open files.
    ("grpc.max_allowed_incoming_connections", 256),
    # A burst waits within gRPC until it is taken; by default calls beyond a thousand are CANCELLED at random.
    ("grpc.server.max_pending_requests", CALLS_LIMIT),
    ("grpc.server.max_pending_requests_hard_limit", CALLS_LIMIT),
    ("grpc.server_handshake_timeout_ms", 5000),
    ("grpc.max_connection_idle_ms", 600_000),
    # Soft limit and hard one; between them calls are refused at random.
    ("grpc.max_metadata_size", 8192),
    ("grpc.absolute_max_metadata_size", 16_384),
    # A peer that is gone without a word is found out after 80 s; gRPC's keepalive_timeout_ms has no effect on that.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # Who pings more often than every ten seconds, twice in a row, is disconnected.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
]
# Over the network, certificates are looked at again after an hour, and calls that still go on then end soon.
NETWORK_LIMITS = [("grpc.max_connection_age_ms", 3_600_000), ("grpc.max_connection_age_grace_ms", 600_000)]
HANDLERS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
NO_MESSAGE = object()
MALFORMED = InvalidRequest("request", "is not a message that this method takes")

Allow = Mapping[str, Iterable[str]]

log = structlog.get_logger()


class Listener:
    """A gRPC server that services are added to as to any other.

    What is no message of its method is refused with INVALID_ARGUMENT. Where there is `allow`, patterns of methods by a
    certificate's names, whoever does not call through a Unix socket must be on it, else the call is refused with
    PERMISSION_DENIED and logged.
    """

    def __init__(self, message_bytes_limit: int, allow: Allow | None = None) -> None:
        options = [*LIMITS, ("grpc.max_receive_message_length", message_bytes_limit)]
        self.grpc = HardyServer(options + (NETWORK_LIMITS if allow is not None else []), CALLS_LIMIT)
        self._allow = allow

    def add_generic_rpc_handlers(self, handlers: Iterable[object]) -> None:
        """Leave them out: generated code registers each method by its name as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of a service, each behind the checks."""
        guarded = {name: self._guard(f"{service}/{name}", handler) for name, handler in handlers.items()}
        self.grpc.add_registered_method_handlers(service, guarded)

    def _guard(self, method: str, handler: Any) -> Any:
        kind = HANDLERS[handler.request_streaming, handler.response_streaming]
        guard = self._streaming if handler.request_streaming else self._unary
        return handler._replace(**{
            kind: guard(method, _written_by_return(getattr(handler, kind))),
            "request_deserializer": _parser(handler.request_deserializer),
        })  # fmt: skip

    def _unary(self, method: str, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def guarded(request: Any, context: Any) -> Any:
            if self._allow is not None:
                await _check(self._allow, method, context)
            if request is NO_MESSAGE:
                await abort(context, MALFORMED)
            return await answer(request, context)

        return guarded

    def _streaming(self, method: str, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def guarded(requests: AsyncIterator[Any], context: Any) -> Any:
            if self._allow is not None:
                await _check(self._allow, method, context)
            messages = _Messages(requests)
            reply = await answer(messages.until_one_is_none(), context)
            if messages.ended_by_none:
                await abort(context, MALFORMED)
            return reply

        return guarded


def credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """Read the daemon's key and certificates. Raises `ValueError` with what is wrong with which file."""
    contents = []
    for path in (tls.key, tls.certificate, tls.client_authority):
        try:
            contents.append(Path(path).read_bytes())
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
    # gRPC itself would not say what is wrong with them.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(f"{tls.certificate}, {tls.key}: no certificate with its key ({error.reason})") from None
    try:
        context.load_verify_locations(tls.client_authority)
    except ssl.SSLError as error:
        raise ValueError(f"{tls.client_authority}: no certificate ({error.reason})") from None
    key, certificate, authority = contents
    return grpc.ssl_server_credentials([(key, certificate)], root_certificates=authority, require_client_auth=True)


def _no_password() -> str:
    """Give none, so that OpenSSL does not ask the terminal."""
    return ""


class _Messages:
    """The requests of a stream, up to the first that is no message. Those before it are answered."""

    def __init__(self, requests: AsyncIterator[Any]) -> None:
        self._requests = requests
        self.ended_by_none = False

    async def until_one_is_none(self) -> AsyncIterator[Any]:
        """Give one after the other."""
        async for request in self._requests:
            if request is NO_MESSAGE:
                self.ended_by_none = True
                return
            yield request


def _parser(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Parse, and give `NO_MESSAGE` in place of an error, which gRPC would send to the client as it is."""
    if parse is None:
        return None

    def parse_or_not(raw: bytes) -> Any:
        try:
            return parse(raw)
        except DecodeError:
            return NO_MESSAGE

    return parse_or_not


def _written_by_return(answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Turn a method that yields its replies into one that writes them."""
    if not inspect.isasyncgenfunction(answer):
        return answer

    async def write_each(request: Any, context: Any) -> None:
        async for reply in answer(request, context):
            await context.write(reply)

    return write_each


async def _check(allow: Allow, method: str, context: Any) -> None:
    """Refuse a call over the network by whoever may not make it."""
    peer = context.peer()
    if peer.startswith("unix:"):
        return
    names = [name.decode(errors="replace") for name in context.peer_identities() or ()]
    if not allowed(allow, names, method):
        log.warning("call denied", method=method, certificate=",".join(names), peer=peer)
        await abort(context, NotAllowed(f"the certificate's names do not allow {method.rpartition('/')[2]}"))
