"""Input that was made to harm: small in the making, costly to take."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

import grpc
import pytest
from PIL import Image

from protos import jouled_pb2 as pb
from tests.daemon.frames import call_of, converse
from tests.daemon.refusals import Refusal, refusal
from tests.daemon.serving import CALL_SECONDS, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

UNIMPLEMENTED = b"grpc-status\x0212"


@pytest.fixture(autouse=True)
def _serves_on(daemon: Daemon, image: NDArray[np.uint8]) -> Iterator[None]:
    """The daemon answers as before, old connections and new ones."""
    yield
    assert daemon.classify(image).labels[0].name == "0"
    with grpc.insecure_channel(daemon.address) as channel:
        grpc.channel_ready_future(channel).result(CALL_SECONDS)


def refused(daemon: Daemon, image: bytes) -> Refusal:
    """Send an image that is expected to be refused."""
    request = pb.ClassifyRequest(model="digits", image=image)
    return refusal(lambda: daemon.classifier.Classify(request, timeout=CALL_SECONDS))


@pytest.mark.parametrize("path", [b"/\xff\xfe/x", b"/jouled.v1.Classifier/Classify\xff", b"\xc3", b"/a\0b", b"/", b"x"])
def test_path_that_is_no_text(daemon: Daemon, path: bytes) -> None:
    """A call to a method whose name is no UTF-8 is to an unknown method, and ends nothing but itself."""
    assert UNIMPLEMENTED in converse(daemon.places.port, call_of(path), UNIMPLEMENTED, CALL_SECONDS)


@pytest.mark.parametrize("header", [(b"a", b"\xff"), (b"\xff", b"a"), (b"a-bin", b"!")])
def test_metadata_that_are_no_text(daemon: Daemon, header: tuple[bytes, bytes]) -> None:
    """Whatever stands in the metadata, the call or its connection ends, and no word of the inside is told."""
    answer = converse(
        daemon.places.port, call_of(b"/jouled.v1.Classifier/Classify", header), b"grpc-status", CALL_SECONDS
    )
    assert b"Unexpected" not in answer
    assert b"Error'" not in answer


def jpeg(side: int, scans: int) -> bytes:
    """Make a grey progressive JPEG that repeats its last scan."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True)
    whole, end = buffer.getvalue()[:-2], buffer.getvalue()[-2:]
    last = whole[whole.rindex(b"\xff\xda") :]
    return whole + last * (scans - whole.count(b"\xff\xda")) + end


def test_jpeg_of_many_scans(daemon: Daemon) -> None:
    """A JPEG that would be gone over thousands of times is refused by that number; one as encoders write is not."""
    answer = refused(daemon, jpeg(2000, 100_000))
    assert answer.fields == [("image", "100000 scans exceed the limit of 64")]
    sound = pb.ClassifyRequest(model="digits", image=jpeg(64, 10))
    assert daemon.classifier.Classify(sound, timeout=CALL_SECONDS).labels


def png(*chunks: tuple[bytes, bytes], side: int = 8) -> bytes:
    """Make a grey PNG with chunks before its data."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes((side + 1) * side))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_png_whose_comment_is_a_bomb(daemon: Daemon, kind: bytes) -> None:
    """64 MB of compressed text beside the pixels are refused or left alone, not unpacked."""
    prefix = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    bomb = png((kind, prefix + zlib.compress(bytes(64 << 20))))
    request = pb.ClassifyRequest(model="digits", image=bomb)
    try:
        said = daemon.classifier.Classify(request, timeout=CALL_SECONDS).model
    except grpc.RpcError as error:
        said = error.details()
    assert said in {"digits", f"image: is not a readable PNG or JPEG image ({len(bomb)} bytes)"}


def test_png_that_unpacks_beyond_its_size(daemon: Daemon) -> None:
    """Data of more rows than the header tells do not grow the picture."""
    bomb = png((b"IDAT", zlib.compress(bytes(64 << 20))))
    request = pb.ClassifyRequest(model="digits", image=bomb)
    assert daemon.classifier.Classify(request, timeout=CALL_SECONDS).model == "digits"


@pytest.mark.parametrize(("form", "side"), [("PNG", 10_000), ("PNG", 2001), ("JPEG", 10_000), ("JPEG", 2001)])
def test_pixels_beyond_the_limit(daemon: Daemon, form: str, side: int) -> None:
    """A picture of more pixels than allowed is refused by its size, in both formats."""
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, form)
    answer = refused(daemon, buffer.getvalue())
    assert answer.fields == [("image", f"{side} x {side} pixels exceed the limit of 4000000")]
