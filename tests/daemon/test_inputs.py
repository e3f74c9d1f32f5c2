"""What clients send is right or refused with the field that is wrong."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from daemon.clock import NANO
from daemon.config import Server
from daemon.errors import InvalidRequest
from daemon.inputs import INLINE_BYTES, check_constraints, check_tensor, decode_image
from daemon.router import Constraints
from hal.artifact import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

GREY = TensorSpec("image", "uint8", (4, 6))
FLOAT = TensorSpec("image", "float32", (4, 6))
COLOUR = TensorSpec("image", "uint8", (3, 4, 6))
ONE_CHANNEL = TensorSpec("image", "uint8", (1, 4, 6))
PICTURE = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
LIMIT = 10_000


def _encoded(pixels: NDArray[np.generic], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def _decode(data: bytes, spec: TensorSpec = GREY, limit: int = LIMIT) -> NDArray[np.generic]:
    return asyncio.run(decode_image("image", data, spec, limit))


def _refusal(data: bytes, spec: TensorSpec = GREY, limit: int = LIMIT) -> str:
    with pytest.raises(InvalidRequest) as caught:
        _decode(data, spec, limit)
    assert caught.value.field == "image"
    return caught.value.reason


def test_constraints() -> None:
    """A deadline of the call is taken in the clock's nanoseconds, one that is missing from the configuration."""
    server = Server(default_deadline_seconds=2.0)
    assert check_constraints(5, 0.25, server, 3, None, 0.5) == Constraints(5 + NANO // 4, 3, None, 0.5)
    assert check_constraints(5, None, server, 1, 1e-6, 0.0) == Constraints(5 + 2 * NANO, 1, 1000, 0.0)
    assert check_constraints(0, 1e9, server, 1, None, 0.0).deadline == 3600 * NANO
    for passed in (-1.0, 0.0, 0.001):
        assert check_constraints(5, passed, server, 1, None, 0.0).deadline == 5
    assert check_constraints(5, 0.002, server, 1, None, 0.0).deadline == 5 + NANO // 500


@pytest.mark.parametrize(
    ("joules", "accuracy", "field"),
    [
        (-1.0, 0.0, "max_energy_joules"),
        (float("nan"), 0.0, "max_energy_joules"),
        (float("inf"), 0.0, "max_energy_joules"),
        (None, -0.1, "min_accuracy"),
        (None, 1.1, "min_accuracy"),
        (None, float("nan"), "min_accuracy"),
    ],
)
def test_constraints_out_of_range(joules: float | None, accuracy: float, field: str) -> None:
    """Figures outside their range, not numbers included, are refused."""
    with pytest.raises(InvalidRequest) as caught:
        check_constraints(0, None, Server(), 1, joules, accuracy)
    assert caught.value.field == field


@pytest.mark.parametrize("spec", [GREY, FLOAT, COLOUR])
@pytest.mark.parametrize("batch", [None, 1, 5])
def test_tensor(spec: TensorSpec, batch: int | None) -> None:
    """A tensor comes back as it was sent, a single image as a batch of one."""
    shape = spec.shape if batch is None else (batch, *spec.shape)
    sent = np.random.default_rng(1).integers(0, 255, shape).astype(spec.dtype)
    images = check_tensor("tensor", spec.dtype, shape, sent.tobytes(), spec, 5)
    assert images.dtype == spec.dtype
    assert np.array_equal(images, sent.reshape(batch or 1, *spec.shape))


@pytest.mark.parametrize(
    ("dtype", "shape", "size", "expected"),
    [
        ("float64", (4, 6), 24, "tensor.dtype: is 'float64', the model takes 'uint8'"),
        ("", (4, 6), 24, "tensor.dtype: is '', the model takes 'uint8'"),
        ("x" * 99, (4, 6), 24, f"tensor.dtype: is '{'x' * 32}', the model takes 'uint8'"),
        ("uint8", (6, 4), 24, "tensor.shape: is [6, 4], the model takes [-1, 4, 6]"),
        ("uint8", (24,), 24, "tensor.shape: is [24], the model takes [-1, 4, 6]"),
        ("uint8", (), 1, "tensor.shape: is [], the model takes [-1, 4, 6]"),
        ("uint8", (1, 1, 4, 6), 24, "tensor.shape: is [1, 1, 4, 6], the model takes [-1, 4, 6]"),
        ("uint8", tuple(range(99)), 24, "tensor.shape: is [0, 1, 2, 3, 4, 5, 6, 7], the model takes [-1, 4, 6]"),
        ("uint8", (0, 4, 6), 0, "tensor.shape: a batch of 0 is outside 1 to 5"),
        ("uint8", (-1, 4, 6), 24, "tensor.shape: a batch of -1 is outside 1 to 5"),
        ("uint8", (6, 4, 6), 144, "tensor.shape: a batch of 6 is outside 1 to 5"),
        ("uint8", (2, 4, 6), 24, "tensor.data: has 24 bytes, its shape needs 48"),
        ("uint8", (4, 6), 0, "tensor.data: has 0 bytes, its shape needs 24"),
    ],
)
def test_wrong_tensor(dtype: str, shape: tuple[int, ...], size: int, expected: str) -> None:
    """A wrong type, shape, batch or size is told with what is right."""
    with pytest.raises(InvalidRequest) as caught:
        check_tensor("tensor", dtype, shape, bytes(size), GREY, 5)
    assert str(caught.value) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value: float) -> None:
    """A single number that is not finite spoils a tensor."""
    pixels = np.zeros(FLOAT.shape, np.float32)
    pixels[3, 5] = value
    with pytest.raises(InvalidRequest, match="holds numbers that are not finite"):
        check_tensor("tensor", "float32", FLOAT.shape, pixels.tobytes(), FLOAT, 5)


def test_decoded() -> None:
    """A PNG of the right size is the model's input, bit for bit, in each of its layouts."""
    colour = np.stack([PICTURE, PICTURE // 2, PICTURE // 3], axis=-1)
    assert np.array_equal(_decode(_encoded(PICTURE)), PICTURE[np.newaxis])
    assert np.array_equal(_decode(_encoded(PICTURE), ONE_CHANNEL), PICTURE[np.newaxis, np.newaxis])
    assert np.array_equal(_decode(_encoded(colour), COLOUR), colour.transpose(2, 0, 1)[np.newaxis])
    assert np.array_equal(_decode(_encoded(PICTURE), COLOUR), np.stack([PICTURE] * 3)[np.newaxis])
    scaled = _decode(_encoded(PICTURE), FLOAT)
    assert scaled.dtype == np.float32
    assert np.array_equal(scaled, (PICTURE * np.float32(1 / 255))[np.newaxis])


def test_jpeg() -> None:
    """A JPEG is decoded as well, as exactly as JPEG can."""
    images = _decode(_encoded(np.full((4, 6), 77, np.uint8), "JPEG"))
    assert np.abs(images.astype(int) - 77).max() <= 1


def test_resized() -> None:
    """An image of another size is resized."""
    images = _decode(_encoded(np.full((40, 60), 9, np.uint8)))
    assert np.array_equal(images, np.full((1, 4, 6), 9))


def test_large_image_leaves_the_loop() -> None:
    """An image that takes long to decode gives the same from another thread."""
    noise = np.random.default_rng(0).integers(0, 255, (100, 99), np.uint8)
    data = _encoded(noise)
    assert len(data) > INLINE_BYTES
    assert np.array_equal(_decode(data, TensorSpec("image", "uint8", noise.shape)), noise[np.newaxis])


def test_unreadable() -> None:
    """What is empty, noise, cut short or of another format is refused with its size."""
    assert _refusal(b"") == "is empty"
    noise = np.random.default_rng(0).bytes(5 << 20)
    assert _refusal(noise) == f"is not a readable PNG or JPEG image ({5 << 20} bytes)"
    assert _refusal(_encoded(PICTURE)[:-20]).startswith("is not a readable PNG or JPEG image")
    assert _refusal(b"\x89PNG\r\n\x1a\n" + noise[:1000]).startswith("is not a readable PNG or JPEG image")
    assert _refusal(_encoded(PICTURE, "GIF")).startswith("is not a readable PNG or JPEG image")
    assert _refusal(_encoded(PICTURE, "BMP")).startswith("is not a readable PNG or JPEG image")


def test_pixels_limit() -> None:
    """A small file of very many pixels is refused before it is decoded."""
    bomb = _encoded(np.zeros((200, 100), np.uint8))
    assert _refusal(bomb) == "100 x 200 pixels exceed the limit of 10000"
    assert _decode(bomb, limit=20_000).shape == (1, 4, 6)


def test_16_bits() -> None:
    """Pixels of 16 bits are refused, not clipped to white."""
    assert _refusal(_encoded(np.full((4, 6), 0x8000, np.uint16))) == "has 16 bits per pixel, send 8"


@pytest.mark.parametrize("shape", [(24,), (2, 4, 6)])
def test_no_image(shape: tuple[int, ...]) -> None:
    """A model whose input is no image of one or three channels takes tensors only."""
    assert "is not an image, send a tensor" in _refusal(_encoded(PICTURE), TensorSpec("x", "uint8", shape))


@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore")
@given(
    st.sampled_from(["PNG", "JPEG"]), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8), st.data()
)
def test_altered_images(kind: str, changes: list[tuple[float, int]], data: st.DataObject) -> None:
    """Whatever happens to an image's bytes, it is decoded or refused, and nothing else is raised."""
    encoded = bytearray(_encoded(np.stack([PICTURE] * 3, axis=-1), kind))
    for place, value in changes:
        encoded[int(place * (len(encoded) - 1))] = value
    cut = data.draw(st.integers(0, len(encoded)))
    for altered in (bytes(encoded), bytes(encoded[:cut])):
        try:
            outcome = str(_decode(altered, COLOUR).shape)
        except InvalidRequest as error:
            outcome = error.field
        assert outcome in {"(1, 3, 4, 6)", "image"}
