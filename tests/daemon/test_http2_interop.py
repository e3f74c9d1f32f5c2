"""The server by two clients that others wrote: `h2`, which checks each frame that comes, and gRPC's own."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import TYPE_CHECKING, Any, Self

import grpc
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from daemon.http2.frames import FRAME_LIMIT
from tests.daemon.http2_rig import FIELDS, MESSAGE_BYTES, METADATA, SECONDS, Answer, Rig, message, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = bytes(range(256)) * (MESSAGE_BYTES // 256)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """Run a server for the tests of this module."""
    with serving() as shared:
        yield shared


class Peer:
    """A client by `h2`. It raises `ProtocolError` at whatever the server may not send."""

    def __init__(self, rig: Rig, **changed: int) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._socket = socket.create_connection(("127.0.0.1", rig.port), SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        given = {h2.settings.SettingCodes[name]: value for name, value in changed.items()}
        self._h2.local_settings = h2.settings.Settings(client=True, initial_values=given)
        self._h2.max_inbound_frame_size = changed.get("MAX_FRAME_SIZE", FRAME_LIMIT)
        self._h2.decoder.max_allowed_table_size = changed.get("HEADER_TABLE_SIZE", 4096)
        self._h2.initiate_connection()
        self._answers: dict[int, Answer] = {}

    def __enter__(self) -> Self:
        """Use it for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Say goodbye and hang up."""
        self._h2.close_connection()
        self._flush()
        self._socket.close()

    def change(self, **changed: int) -> None:
        """Change settings."""
        self._h2.update_settings({h2.settings.SettingCodes[name]: value for name, value in changed.items()})

    def begin(self, path: str, *more: tuple[bytes, bytes]) -> int:
        """Begin a call; its headers are compressed with Huffman's code and the table."""
        stream = self._h2.get_next_available_stream_id()
        self._answers[stream] = Answer()
        self._h2.send_headers(stream, [*FIELDS[:3], (b":path", path.encode()), *FIELDS[3:], *more])
        return stream

    def send(self, stream: int, content: bytes, *, padding: int | None = None, ended: bool = False) -> None:
        """Send data as the windows allow, in frames with so many bytes of padding."""
        at, taken = 0, 0 if padding is None else padding + 1
        while at < len(content):
            window = min(self._h2.local_flow_control_window(stream), FRAME_LIMIT) - taken
            if window <= 0:
                self._read()
                continue
            self._h2.send_data(stream, content[at : at + window], pad_length=padding)
            self._flush()
            at += window
        if ended:
            self._h2.end_stream(stream)

    def trail(self, stream: int) -> None:
        """End the requests of a call with headers."""
        self._h2.send_headers(stream, [(b"checksum", b"none")], end_stream=True)

    def call(self, path: str, *contents: bytes, padding: int | None = None) -> Answer:
        """Make a call."""
        stream = self.begin(path)
        self.send(stream, b"".join(map(message, contents)), padding=padding, ended=True)
        return self.answer(stream)

    def answer(self, stream: int) -> Answer:
        """Give the answer to a call, once it is complete."""
        answer = self._answers[stream]
        while not answer.ended and answer.reset is None:
            self._read()
        return answer

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def _read(self) -> None:
        self._flush()
        read = self._socket.recv(1 << 16)
        assert read, "the server has hung up"
        for event in self._h2.receive_data(read):
            assert not isinstance(event, h2.events.ConnectionTerminated), event
            if isinstance(event, (h2.events.ResponseReceived, h2.events.TrailersReceived)):
                self._answers[event.stream_id].blocks.append(dict(event.headers))
            elif isinstance(event, h2.events.DataReceived):
                self._answers[event.stream_id].data += event.data
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._answers[event.stream_id].ended = True
            elif isinstance(event, h2.events.StreamReset) and not self._answers[event.stream_id].ended:
                self._answers[event.stream_id].reset = event.error_code
        self._flush()


def test_calls_that_repeat(rig: Rig) -> None:
    """Headers that the client has put into the table, and that it puts there later, are read as what they were."""
    with Peer(rig) as peer:
        for count in range(300):
            path = ("/t/Echo", "/t/EchoEach", "/t/None", "/t/Refuse")[count % 4]
            more = [(b"x-request-id", b"%08d" % count)] if count % 7 == 0 else []
            stream = peer.begin(path, *more, (b"grpc-timeout", b"%dS" % (100 + count // 50)))
            peer.send(stream, message(b"%d" % count), ended=True)
            answer = peer.answer(stream)
            expected = ("OK", "OK", "UNIMPLEMENTED", "NOT_FOUND")[count % 4]
            assert answer.outcome == (expected, [b"%d" % count] if expected == "OK" else [])


@pytest.mark.parametrize("window", [0, 1, 1000, 65_535, 1 << 24])
@pytest.mark.parametrize("table", [0, 4096, 65_536])
def test_settings(rig: Rig, window: int, table: int) -> None:
    """Replies come whole whatever windows and tables a client has, and when it changes them.

    What keeps to new settings comes after their acknowledgement.
    """
    with Peer(rig, INITIAL_WINDOW_SIZE=window, HEADER_TABLE_SIZE=table, MAX_FRAME_SIZE=1 << 20) as peer:
        first, second = peer.begin("/t/Echo"), peer.begin("/t/EchoEach")
        peer.send(first, message(BIG), ended=True)
        peer.send(second, message(BIG[:100_000]) * 3)
        peer.change(INITIAL_WINDOW_SIZE=max(window, 70_000), HEADER_TABLE_SIZE=100)
        peer.trail(second)
        assert peer.answer(first).outcome == ("OK", [BIG])
        assert peer.answer(second).outcome == ("OK", [BIG[:100_000]] * 3)
        assert peer.call("/t/Echo", b"x").outcome == ("OK", [b"x"])


@pytest.mark.parametrize("padding", [0, 1, 255])
def test_padding(rig: Rig, padding: int) -> None:
    """Padding counts for the windows, and never for a message."""
    with Peer(rig) as peer:
        for path in ("/t/Echo", "/t/EchoEach"):
            assert peer.call(path, BIG, padding=padding).outcome == ("OK", [BIG])


def test_messages(rig: Rig) -> None:
    """A stream has as many messages as were sent, none included; a reply to all of them has the metadata with it."""
    with Peer(rig) as peer:
        assert peer.call("/t/EchoEach").outcome == ("OK", [])
        assert peer.call("/t/EchoEach", *[b"", b"x"] * 20_000).outcome == ("OK", [b"", b"x"] * 20_000)
        answer = peer.call("/t/Sum", b"1", b"22", b"333")
        assert answer.outcome == ("OK", [b"6"])
        assert answer.blocks[-1][b"raw-bin"] == b"AP9/"
        assert peer.call("/t/Count", b"7 30000").outcome == ("OK", [bytes(30_000)] * 7)
        assert peer.call("/t/Count", b"0 0").outcome == ("OK", [])


def test_many_at_once(rig: Rig) -> None:
    """As many calls as may be go on at once, their data interleaved."""
    with Peer(rig) as peer:
        streams = [peer.begin("/t/EchoEach") for _ in range(rig.server.limits.streams)]
        contents = message(b"first") + message(bytes(3000)) + message(b"last")
        for at in range(0, len(contents), 700):
            for stream in streams:
                peer.send(stream, contents[at : at + 700])
        for stream in reversed(streams):
            peer.send(stream, b"", ended=True)
            assert peer.answer(stream).outcome == ("OK", [b"first", bytes(3000), b"last"])


@given(contents=st.lists(st.binary(max_size=40), max_size=5), cuts=st.sets(st.integers(1, 200), max_size=8))
@hypothesis(max_examples=50, deadline=None)
def test_messages_in_any_frames(rig: Rig, contents: list[bytes], cuts: set[int]) -> None:
    """Where frames of data end says nothing about messages."""
    sent = b"".join(map(message, contents))
    places = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    with Peer(rig) as peer:
        each, only = peer.begin("/t/EchoEach"), peer.begin("/t/Echo")
        for begin, end in itertools.pairwise(places):
            peer.send(each, sent[begin:end])
        peer.send(each, b"", ended=True)
        assert peer.answer(each).outcome == ("OK", contents)
        peer.send(only, sent, ended=True)
        expected = ("OK", contents) if len(contents) == 1 else ("UNIMPLEMENTED", [])
        assert peer.answer(only).outcome == expected


@pytest.fixture
def channel(rig: Rig) -> Iterator[grpc.Channel]:
    """Open a channel of gRPC's own client."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{rig.port}", options) as opened:
        yield opened


@pytest.mark.parametrize("packing", grpc.Compression)
def test_stock_client(channel: grpc.Channel, packing: grpc.Compression) -> None:
    """All four kinds of calls, plain and compressed, with the largest message that there may be."""
    options: dict[str, Any] = {"timeout": SECONDS, "compression": packing, "metadata": [("x-bin", b"\0\1")]}
    assert channel.unary_unary("/t/Echo", bytes, bytes)(BIG, **options) == BIG
    contents = [b"", b"x" * 5000, BIG]
    assert list(channel.stream_stream("/t/EchoEach", bytes, bytes)(iter(contents), **options)) == contents
    assert list(channel.unary_stream("/t/Count", bytes, bytes)(b"4 100000", **options)) == [bytes(100_000)] * 4
    reply, call = channel.stream_unary("/t/Sum", bytes, bytes).with_call(iter(contents), **options)
    assert reply == b"%d" % sum(map(len, contents))
    assert [(key, value) for key, value in call.trailing_metadata()] == list(METADATA)


@pytest.mark.parametrize(
    ("path", "request_", "status", "details"),
    [
        ("/t/Refuse", "% Übergröße\n 🙂 ".encode(), grpc.StatusCode.NOT_FOUND, "% Übergröße\n 🙂 "),
        ("/t/Refuse", b"", grpc.StatusCode.NOT_FOUND, ""),
        ("/t/Fail", b"", grpc.StatusCode.INTERNAL, "the daemon has failed; its log tells why"),
        ("/t/None", b"", grpc.StatusCode.UNIMPLEMENTED, "there is no such method"),
        ("/t/Echo", BIG + b"x", grpc.StatusCode.RESOURCE_EXHAUSTED,
         f"a message of {MESSAGE_BYTES + 1} bytes exceeds the limit of {MESSAGE_BYTES}"),
    ],
)  # fmt: skip
def test_status_by_the_stock_client(
    channel: grpc.Channel, path: str, request_: bytes, status: grpc.StatusCode, details: str
) -> None:
    """Statuses arrive with their messages as they were written."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path, bytes, bytes)(request_, timeout=SECONDS)
    assert isinstance(caught.value, grpc.Call)
    assert (caught.value.code(), caught.value.details()) == (status, details)


def test_cancelled_by_the_stock_client(rig: Rig, channel: grpc.Channel) -> None:
    """A call that a client cancels, and one whose deadline passes, end for their method."""
    call = channel.unary_unary("/t/Wait", bytes, bytes).future(b"")
    assert rig.waiting.acquire(timeout=SECONDS)
    call.cancel()  # type: ignore[no-untyped-call]
    assert rig.cancelled.acquire(timeout=SECONDS)
    with pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream("/t/Deaf", bytes, bytes)(iter([b"x"]), timeout=0.05))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert rig.cancelled.acquire(timeout=SECONDS)


def test_stock_client_at_once(rig: Rig) -> None:
    """Three hundred calls at once of one connection, which may have a hundred, are all answered."""

    async def calls() -> list[bytes]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.port}") as opened:
            echo = opened.unary_unary("/t/Echo", bytes, bytes)
            return list(await asyncio.gather(*(echo(b"%d" % count, timeout=SECONDS) for count in range(300))))

    assert asyncio.run(calls()) == [b"%d" % count for count in range(300)]
