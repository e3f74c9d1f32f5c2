"""Bad input gets a clear error, tells nothing of the inside, and harms no one else."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from PIL import Image

from protos import jouled_pb2 as pb
from protos import open_inference_pb2 as oip
from tests.daemon.refusals import Refusal, refusal
from tests.daemon.serving import CALL_SECONDS, Daemon, digit_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(autouse=True)
def _serves_on(daemon: Daemon, image: NDArray[np.uint8]) -> Iterator[None]:
    """After each refusal the daemon answers as before, and nothing stays reserved or queued."""
    yield
    assert daemon.classify(image).labels[0].name == "0"
    assert daemon.status().budget.reserved_nanojoules == 0
    devices = daemon.control.Devices(pb.DevicesRequest(), timeout=CALL_SECONDS).devices
    assert [(device.health, device.queued) for device in devices] == [("up", 0)] * 3


def refused(daemon: Daemon, request: pb.ClassifyRequest) -> Refusal:
    """Send a request that is expected to be refused."""
    return refusal(lambda: daemon.classifier.Classify(request, timeout=CALL_SECONDS))


def image_request(image: bytes) -> pb.ClassifyRequest:
    """Ask for the label of an encoded image."""
    return pb.ClassifyRequest(model="digits", image=image)


def noise_png(side: int) -> bytes:
    """Encode grey noise, which does not compress."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(7, 8), (8, 8, 1), (64,), (), (1, 1, 8, 8)])
def test_wrong_shape(daemon: Daemon, shape: tuple[int, ...]) -> None:
    """The error names the shape that came and the one that the model takes."""
    answer = refused(daemon, digit_request(np.zeros(shape, np.uint8)))
    assert (answer.code, answer.fields) == (
        INVALID,
        [("tensor.shape", f"is {list(shape)}, the model takes [-1, 8, 8]")],
    )
    assert answer.message == f"tensor.shape: is {list(shape)}, the model takes [-1, 8, 8]"


@pytest.mark.parametrize("extent", [-1, 0, 2, 1 << 62])
def test_impossible_batch(daemon: Daemon, extent: int) -> None:
    """A batch of any number but one is refused by that number, overflow included."""
    tensor = pb.Tensor(dtype="uint8", shape=[extent, 8, 8], data=bytes(64))
    answer = refused(daemon, pb.ClassifyRequest(model="digits", tensor=tensor))
    assert (answer.code, answer.fields) == (INVALID, [("tensor.shape", f"a batch of {extent} is outside 1 to 1")])


@pytest.mark.parametrize("dtype", ["float32", "int64", "", "object"])
def test_wrong_type(daemon: Daemon, dtype: str) -> None:
    """The error names the type that came and the one that the model takes."""
    tensor = pb.Tensor(dtype=dtype, shape=[8, 8], data=bytes(64))
    answer = refused(daemon, pb.ClassifyRequest(model="digits", tensor=tensor))
    assert (answer.code, answer.fields) == (INVALID, [("tensor.dtype", f"is {dtype!r}, the model takes 'uint8'")])


@pytest.mark.parametrize("count", [0, 63, 65])
def test_data_that_do_not_fill_the_shape(daemon: Daemon, count: int) -> None:
    """Too few and too many bytes are refused by their number."""
    tensor = pb.Tensor(dtype="uint8", shape=[8, 8], data=bytes(count))
    answer = refused(daemon, pb.ClassifyRequest(model="digits", tensor=tensor))
    assert (answer.code, answer.fields) == (INVALID, [("tensor.data", f"has {count} bytes, its shape needs 64")])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_number_that_is_none(daemon: Daemon, number: float) -> None:
    """NaN and infinity are refused before a network sees them."""
    values = np.zeros((3, 4, 4), np.float32)
    values[1, 2, 3] = number
    tensor = pb.Tensor(dtype="float32", shape=values.shape, data=values.tobytes())
    answer = refused(daemon, pb.ClassifyRequest(model="tint", tensor=tensor))
    assert (answer.code, answer.fields) == (INVALID, [("tensor.data", "holds numbers that are not finite")])


def test_unknown_model(daemon: Daemon) -> None:
    """A model that nobody serves is not found, by its name."""
    answer = refused(daemon, pb.ClassifyRequest(model="letters", image=b"x"))
    assert (answer.code, answer.message) == (grpc.StatusCode.NOT_FOUND, "no model 'letters'; known are digits, tint")


@pytest.mark.parametrize("version", ["7", "one"])
def test_unknown_version(daemon: Daemon, image: NDArray[np.uint8], version: str) -> None:
    """A version that nobody serves is not found; those that are served are named."""
    answer = refused(daemon, digit_request(image, version=version))
    assert answer.code is grpc.StatusCode.NOT_FOUND
    assert answer.message == f"model 'digits' has no version {version!r}; known are 1"


def test_no_input(daemon: Daemon) -> None:
    """A request with neither tensor nor image says so."""
    answer = refused(daemon, pb.ClassifyRequest(model="digits"))
    assert (answer.code, answer.fields) == (INVALID, [("input", "neither a tensor nor an image is given")])


def test_empty_image(daemon: Daemon) -> None:
    """An image of no bytes is refused as such."""
    answer = refused(daemon, image_request(b""))
    assert (answer.code, answer.fields) == (INVALID, [("image", "is empty")])


def test_five_megabytes_of_random_bytes(daemon: Daemon) -> None:
    """What is no image at all is refused with what would be one."""
    answer = refused(daemon, image_request(np.random.default_rng(0).bytes(5_000_000)))
    reason = "is not a readable PNG or JPEG image (5000000 bytes)"
    assert (answer.code, answer.fields) == (INVALID, [("image", reason)])


def test_five_megabytes_of_noise_as_png(daemon: Daemon) -> None:
    """An image of too many pixels is refused by their number before it is decoded."""
    png = noise_png(2300)
    assert len(png) > 5_000_000
    answer = refused(daemon, image_request(png))
    assert (answer.code, answer.fields) == (INVALID, [("image", "2300 x 2300 pixels exceed the limit of 4000000")])


def test_image_bomb(daemon: Daemon) -> None:
    """A small file that would decode to much is refused by what it would decode to."""
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    assert len(buffer.getvalue()) < 200_000
    answer = refused(daemon, image_request(buffer.getvalue()))
    assert answer.code is INVALID
    assert answer.fields[0][0] == "image"


def test_image_cut_short(daemon: Daemon) -> None:
    """Half an image is none."""
    answer = refused(daemon, image_request(noise_png(64)[:2000]))
    reason = "is not a readable PNG or JPEG image (2000 bytes)"
    assert (answer.code, answer.fields) == (INVALID, [("image", reason)])


def test_image_of_another_format(daemon: Daemon) -> None:
    """Formats beyond PNG and JPEG stay closed, even those that the decoder knows."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "GIF")
    assert "is not a readable PNG or JPEG image" in refused(daemon, image_request(buffer.getvalue())).message


def test_oversized_message(daemon: Daemon) -> None:
    """A message above the configured size is refused by both figures, before it is parsed."""
    answer = refused(daemon, image_request(bytes(9 << 20)))
    assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(8 << 20) in answer.message


@pytest.mark.parametrize(("field", "value"), [("min_accuracy", 1.5), ("min_accuracy", np.nan), ("min_accuracy", -0.1)])
def test_accuracy_that_is_none(daemon: Daemon, image: NDArray[np.uint8], field: str, value: float) -> None:
    """An accuracy lies within 0 and 1."""
    answer = refused(daemon, digit_request(image, **{field: value}))
    assert (answer.code, answer.fields) == (INVALID, [(field, f"{value} is outside 0 to 1")])


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_energy_that_is_none(daemon: Daemon, image: NDArray[np.uint8], value: float) -> None:
    """Allowed joules are not negative and finite."""
    answer = refused(daemon, digit_request(image, max_energy_joules=value))
    assert (answer.code, answer.fields) == (INVALID, [("max_energy_joules", f"{value} is outside 0 to 1e6")])


@pytest.mark.parametrize("wish", [{"max_energy_joules": 1e-12}, {"min_accuracy": 0.9999}])
def test_wish_that_no_operating_point_meets(daemon: Daemon, image: NDArray[np.uint8], wish: dict[str, float]) -> None:
    """What no device can do under the policy in force is refused, and trying again is not suggested."""
    answer = refused(daemon, digit_request(image, **wish))
    assert answer.code is grpc.StatusCode.FAILED_PRECONDITION
    assert answer.message == "no operating point meets the constraints under policy 'roomy'"
    assert answer.details == []


def test_expired_deadline(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """A call whose time is over before it begins ends as such."""
    request = digit_request(image)
    assert refusal(lambda: daemon.classifier.Classify(request, timeout=1e-9)).code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_deadline_that_the_daemon_finds_expired(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """A deadline within the request, too short for any device, is found out by the daemon."""
    request = oip.ModelInferRequest(model_name="digits", raw_input_contents=[image.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=[1, 8, 8])
    request.parameters["timeout"].int64_param = 1
    answer = refusal(lambda: daemon.inference.ModelInfer(request, timeout=CALL_SECONDS))
    assert answer.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert answer.message == "the deadline passed before an answer was there"


def test_unknown_policy(daemon: Daemon) -> None:
    """A policy that is not configured is not found; the known ones are named, and the one in force stays."""
    answer = refusal(lambda: daemon.set_policy("generous"))
    assert answer.code is grpc.StatusCode.NOT_FOUND
    assert answer.message == "no policy 'generous'; known are roomy, spare"
    assert daemon.status().policy == "roomy"


def test_unknown_request(daemon: Daemon) -> None:
    """The energy of a request that never was is not found."""
    request = pb.RequestEnergyRequest(request_id=1 << 40)
    answer = refusal(lambda: daemon.control.RequestEnergy(request, timeout=CALL_SECONDS))
    assert answer.code is grpc.StatusCode.NOT_FOUND
    assert answer.message == f"no request {1 << 40} in the journal"


NO_MESSAGES = [b"\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe", b"\x00" * 100]


@pytest.mark.parametrize("content", NO_MESSAGES)
@pytest.mark.parametrize("method", ["jouled.v1.Classifier/Classify", "inference.GRPCInferenceService/ModelInfer"])
def test_what_is_no_message(daemon: Daemon, method: str, content: bytes) -> None:
    """Bytes that are no message of the method are refused as such, in the same words for all."""
    answer = refusal(lambda: daemon.inference_channel.unary_unary(f"/{method}", bytes, bytes)(content))
    assert (answer.code, answer.fields) == (INVALID, [("request", "is not a message that this method takes")])


@pytest.mark.parametrize("content", NO_MESSAGES)
def test_what_is_no_message_within_a_stream(daemon: Daemon, image: NDArray[np.uint8], content: bytes) -> None:
    """A stream ends where a message is none; those before it are answered."""
    sound = digit_request(image, tag="a").SerializeToString()
    stream = daemon.inference_channel.stream_stream("/jouled.v1.Classifier/ClassifyStream", bytes, bytes)
    replies: Any = stream(iter([sound, content, sound]), timeout=CALL_SECONDS)
    assert pb.ClassifyStreamReply.FromString(next(replies)).reply.tag == "a"
    assert refusal(lambda: next(replies)).code is INVALID


def test_control_is_not_on_the_inference_socket(daemon: Daemon) -> None:
    """Who may classify may not control."""
    control = daemon.inference_channel.unary_unary(
        "/jouled.v1.Control/SetPolicy",
        request_serializer=pb.SetPolicyRequest.SerializeToString,
        response_deserializer=pb.SetPolicyReply.FromString,
    )
    with pytest.raises(grpc.RpcError) as caught:
        control(pb.SetPolicyRequest(name="spare"), timeout=CALL_SECONDS)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert daemon.status().policy == "roomy"


def test_inference_is_not_on_the_control_socket(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Who controls uses the inference socket to classify."""
    classify = daemon.control_channel.unary_unary(
        "/jouled.v1.Classifier/Classify",
        request_serializer=pb.ClassifyRequest.SerializeToString,
        response_deserializer=pb.ClassifyReply.FromString,
    )
    with pytest.raises(grpc.RpcError) as caught:
        classify(digit_request(image), timeout=CALL_SECONDS)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
