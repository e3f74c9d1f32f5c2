"""A client of a daemon, for programs: `jouled.v1` on its sockets, blocking or with asyncio.

Nothing of the daemon itself is loaded, nor what another client in the same process may bring, such as tritonclient.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import grpc
from google.rpc import error_details_pb2, status_pb2

from protos import jouled_pb2 as pb
from protos.jouled_pb2_grpc import ClassifierStub, ControlStub

if TYPE_CHECKING:
    from types import TracebackType

SYSTEM_RUNTIME = Path("/run/jouled")
DETAILS_KEY = "grpc-status-details-bin"


def default_state() -> Path:
    """Give where a daemon of this user keeps its journal."""
    if "STATE_DIRECTORY" in os.environ:
        return Path(os.environ["STATE_DIRECTORY"])
    return Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "jouled"


def default_runtime() -> Path:
    """Give where a daemon of this host has its sockets: the system's, else the user's."""
    if "RUNTIME_DIRECTORY" in os.environ:
        return Path(os.environ["RUNTIME_DIRECTORY"])
    if SYSTEM_RUNTIME.is_dir():
        return SYSTEM_RUNTIME
    if "XDG_RUNTIME_DIR" in os.environ:
        return Path(os.environ["XDG_RUNTIME_DIR"]) / "jouled"
    return default_state() / "run"


def default_address() -> str:
    """Give the Unix socket of this host's daemon, as gRPC names it."""
    return f"unix:{default_runtime() / 'jouled.sock'}"


def classifier(address: str) -> ClassifierStub:
    """Reach the inference service at HOST:PORT or unix:PATH."""
    return ClassifierStub(grpc.insecure_channel(address))


def control(runtime: Path) -> ControlStub:
    """Reach the control service of the daemon whose sockets are in `runtime`."""
    return ControlStub(grpc.insecure_channel(f"unix:{runtime / 'control' / 'control.sock'}"))


class Array(Protocol):
    """An array, such as NumPy's, of uint8 from 0 to 255 or float32 from 0 to 1, in the shape of the model's input."""

    @property
    def dtype(self) -> Any:
        """The type of its elements."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents, with or without a batch of one in front."""
        ...

    def tobytes(self) -> bytes:
        """Give its elements in C order."""
        ...


# A picture: the bytes of a PNG or JPEG, which the daemon decodes, or an array.
Image = bytes | Array


class Refused(Exception):
    """The daemon did not answer a request, or was not reached.

    `code` is the status. Where it is worth while to try again, `retry_seconds` tells after which time.
    """

    def __init__(self, code: grpc.StatusCode, message: str, retry_seconds: float | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.retry_seconds = retry_seconds


def _refused(error: Any) -> Refused:
    """Read what came with the end of a call."""
    retry_seconds = None
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            for detail in status_pb2.Status.FromString(value).details:
                retry = error_details_pb2.RetryInfo()
                if detail.Unpack(retry):
                    retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    return Refused(error.code(), error.details() or "", retry_seconds)


def _request(model: str, image: Image, tag: str, wanted: dict[str, Any]) -> pb.ClassifyRequest:
    if isinstance(image, bytes):
        return pb.ClassifyRequest(model=model, image=image, tag=tag, **wanted)
    tensor = pb.Tensor(dtype=str(image.dtype), shape=image.shape, data=image.tobytes())
    return pb.ClassifyRequest(model=model, tensor=tensor, tag=tag, **wanted)


def _of_stream(reply: pb.ClassifyStreamReply) -> tuple[int, pb.ClassifyReply | Refused]:
    if reply.HasField("reply"):
        return int(reply.reply.tag), reply.reply
    codes = {code.value[0]: code for code in grpc.StatusCode}
    return int(reply.error.tag), Refused(codes[reply.error.code], reply.error.message)


class Client:
    """A connection to a daemon at HOST:PORT or unix:PATH, that of this host by default. Threads may share it.

    What a request wants beside its image are the fields of `ClassifyRequest`: `version`, `top_k`, `max_energy_joules`
    and `min_accuracy`. Without a timeout it has the one that the daemon's configuration gives it.
    """

    def __init__(self, address: str = "") -> None:
        self._channel = grpc.insecure_channel(address or default_address())
        self._stub = ClassifierStub(self._channel)

    def classify(
        self, model: str, image: Image, *, timeout_seconds: float | None = None, **wanted: Any
    ) -> pb.ClassifyReply:
        """Classify one image. Raises `Refused`."""
        try:
            reply: pb.ClassifyReply = self._stub.Classify(_request(model, image, "", wanted), timeout=timeout_seconds)
        except grpc.RpcError as error:
            raise _refused(error) from None
        return reply

    def classify_each(
        self, model: str, images: Iterable[Image], **wanted: Any
    ) -> Iterator[tuple[int, pb.ClassifyReply | Refused]]:
        """Classify many images over one stream, which is the fastest way.

        Gives the place of an image among `images` and its answer, or why it has none, as they become ready. Raises
        `Refused` where the stream itself ends too early.
        """
        requests = (_request(model, image, str(place), wanted) for place, image in enumerate(images))
        try:
            yield from map(_of_stream, self._stub.ClassifyStream(requests))
        except grpc.RpcError as error:
            raise _refused(error) from None

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """The same for asyncio. It belongs to the event loop in which it is made."""

    def __init__(self, address: str = "") -> None:
        self._channel = grpc.aio.insecure_channel(address or default_address())
        self._stub = ClassifierStub(self._channel)

    async def classify(
        self, model: str, image: Image, *, timeout_seconds: float | None = None, **wanted: Any
    ) -> pb.ClassifyReply:
        """Classify one image. Raises `Refused`."""
        try:
            reply: pb.ClassifyReply = await self._stub.Classify(
                _request(model, image, "", wanted), timeout=timeout_seconds
            )
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from None
        return reply

    async def classify_each(
        self, model: str, images: AsyncIterable[Image], **wanted: Any
    ) -> AsyncIterator[tuple[int, pb.ClassifyReply | Refused]]:
        """Classify many images over one stream, as `Client.classify_each` does."""

        async def requests() -> AsyncIterator[pb.ClassifyRequest]:
            place = 0
            async for image in images:
                yield _request(model, image, str(place), wanted)
                place += 1

        try:
            async for reply in self._stub.ClassifyStream(requests()):
                yield _of_stream(reply)
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from None

    async def close(self) -> None:
        """End the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
