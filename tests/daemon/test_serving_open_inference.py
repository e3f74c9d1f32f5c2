"""The Open Inference Protocol by its own stubs: what it says of models, how it infers, how it refuses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest

from daemon import oip_parameters
from daemon.oip import EXTENSIONS
from daemon.version import VERSION
from hal import artifact
from protos import open_inference_pb2 as oip
from tests.daemon.refusals import Refusal, refusal
from tests.daemon.serving import CALL_SECONDS, Daemon, best, cheapest, may_take

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.data import digits

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def digit_infer(images: NDArray[np.uint8], **parameters: float) -> oip.ModelInferRequest:
    """Ask for the scores of (N, 8, 8) images."""
    request = oip.ModelInferRequest(model_name="digits", id="mine", raw_input_contents=[images.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=images.shape)
    for name, value in parameters.items():
        request.parameters[name].double_param = value
    return request


def infer(daemon: Daemon, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
    """Send a request."""
    response: oip.ModelInferResponse = daemon.inference.ModelInfer(request, timeout=CALL_SECONDS)
    return response


def refused(daemon: Daemon, request: oip.ModelInferRequest) -> Refusal:
    """Send a request that is expected to be refused."""
    return refusal(lambda: infer(daemon, request))


def scores(response: oip.ModelInferResponse) -> NDArray[np.float32]:
    """Read the one output."""
    (output,) = response.outputs
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(output.shape)


def test_server_is_live_and_ready(daemon: Daemon) -> None:
    """The server answers and has models."""
    assert daemon.inference.ServerLive(oip.ServerLiveRequest(), timeout=CALL_SECONDS).live
    assert daemon.inference.ServerReady(oip.ServerReadyRequest(), timeout=CALL_SECONDS).ready


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("digits", "", True), ("digits", "1", True), ("digits", "2", False), ("letters", "", False)],
)
def test_model_is_ready(daemon: Daemon, name: str, version: str, ready: bool) -> None:
    """What is served is ready, what is unknown is not."""
    request = oip.ModelReadyRequest(name=name, version=version)
    assert daemon.inference.ModelReady(request, timeout=CALL_SECONDS).ready is ready


def test_server_metadata(daemon: Daemon) -> None:
    """The server names itself and what it can do beyond the core."""
    metadata = daemon.inference.ServerMetadata(oip.ServerMetadataRequest(), timeout=CALL_SECONDS)
    assert (metadata.name, metadata.version) == ("jouled", VERSION)
    assert list(metadata.extensions) == EXTENSIONS


def test_model_metadata(daemon: Daemon, repository: Path) -> None:
    """A model's description has what a client needs to build a request, and what its answers are expected to cost."""
    metadata = daemon.inference.ModelMetadata(oip.ModelMetadataRequest(name="digits"), timeout=CALL_SECONDS)
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("digits", ["1"], "jouled")
    tensors = [*metadata.inputs, *metadata.outputs]
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors] == [
        ("image", "UINT8", [-1, 8, 8]),
        ("scores", "FP32", [-1, 10]),
    ]
    properties = metadata.properties
    assert properties["snn.artifact_digest"] == artifact.read(repository / "digits" / "1" / "snn").digest
    for point in daemon.points():
        key = f"{point.variant}.{point.device}.{point.steps}" + (f".margin{point.margin}" if point.margin else "")
        assert float(properties[f"{key}.energy_joules"]) == point.dynamic_joules
        assert properties[f"{key}.energy_provenance"] == point.provenance
        assert float(properties[f"{key}.accuracy"]) == point.accuracy


@pytest.mark.parametrize(("name", "version"), [("letters", ""), ("digits", "7"), ("", "")])
def test_metadata_of_an_unknown_model(daemon: Daemon, name: str, version: str) -> None:
    """What is not served is not described."""
    request = oip.ModelMetadataRequest(name=name, version=version)
    assert refusal(lambda: daemon.inference.ModelMetadata(request, timeout=CALL_SECONDS)).code is NOT_FOUND


def test_raw_batch(daemon: Daemon, held_out: digits.Part) -> None:
    """A batch is answered as one, with its energy and how it was served among the parameters."""
    response = infer(daemon, digit_infer(held_out.images[:64]))
    assert (response.model_name, response.model_version, response.id) == ("digits", "1", "mine")
    assert (response.outputs[0].name, response.outputs[0].datatype) == ("scores", "FP32")
    assert scores(response).shape == (64, 10)
    assert np.mean(scores(response).argmax(axis=1) == held_out.labels[:64]) >= 0.95
    assert response.parameters.keys() == oip_parameters.RESPONSE.keys() - {"fallback_of"}
    given = {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in response.parameters.items()}
    assert given.pop("energy_joules") > 0
    assert given.pop("energy_static_joules") > 0
    assert given.pop("energy_uncertainty_joules") > 0
    point = best(daemon.points())
    assert may_take(point, given.pop("steps"))
    assert given == {
        "energy_provenance": point.provenance, "energy_sharing": "exclusive", "energy_state": "provisional",
        "device": point.device, "variant": point.variant, "policy": "roomy", "simulated": point.device != "cpu",
    }  # fmt: skip


def test_typed_contents_are_the_raw_ones(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Typed contents have the scores of the same bytes sent raw."""
    typed = digit_infer(image[np.newaxis])
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.uint_contents.extend(image.ravel().tolist())
    np.testing.assert_array_equal(scores(infer(daemon, typed)), scores(infer(daemon, digit_infer(image[np.newaxis]))))


@pytest.mark.parametrize("raw", [True, False])
def test_float_contents(daemon: Daemon, raw: bool) -> None:
    """A model of float32 takes FP32, raw or typed."""
    values = np.zeros((2, 3, 4, 4), np.float32)
    values[0, 1], values[1, 2] = 0.5, 0.25
    request = oip.ModelInferRequest(model_name="tint")
    request.inputs.add(name="picture", datatype="FP32", shape=values.shape)
    if raw:
        request.raw_input_contents.append(values.tobytes())
    else:
        request.inputs[0].contents.fp32_contents.extend(values.ravel().tolist())
    np.testing.assert_allclose(scores(infer(daemon, request)), [[0, 8, 0], [0, 0, 4]])


def test_classification(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """The classification extension gives the best classes of each image as score:index:label."""
    request = digit_infer(np.stack([image, image]))
    request.outputs.add(name="scores").parameters["classification"].int64_param = 3
    response = infer(daemon, request)
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [2, 3])
    texts = elements(response.raw_output_contents[0])
    plain = scores(infer(daemon, digit_infer(image[np.newaxis])))[0]
    best = np.argsort(-plain, kind="stable")[:3]
    assert texts == [f"{plain[index]:f}:{index}:{index}" for index in best] * 2


def test_classification_of_more_classes_than_there_are(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Each class comes once."""
    request = digit_infer(image[np.newaxis])
    request.outputs.add(name="scores").parameters["classification"].int64_param = 99
    assert list(infer(daemon, request).outputs[0].shape) == [1, 10]


def elements(raw: bytes) -> list[str]:
    """Take BYTES apart: each element has its length of four bytes in front."""
    texts = []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        texts.append(raw[4:end].decode())
        raw = raw[end:]
    return texts


def test_constraints_are_honoured(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Allowed joules and needed accuracy are parameters of the request."""
    allowed = cheapest(daemon.points())
    response = infer(daemon, digit_infer(image[np.newaxis], max_energy_joules=allowed.dynamic_joules * 1.0001))
    assert response.parameters["device"].string_param == allowed.device
    assert may_take(allowed, response.parameters["steps"].int64_param)
    answer = refused(daemon, digit_infer(image[np.newaxis], min_accuracy=0.9999))
    assert answer.code is grpc.StatusCode.FAILED_PRECONDITION


def changed(image: NDArray[np.uint8], **changes: Any) -> oip.ModelInferRequest:
    """Give a good request with some fields of its input changed."""
    request = digit_infer(image[np.newaxis])
    for name, value in changes.items():
        if name == "shape":
            request.inputs[0].shape[:] = value
        else:
            setattr(request.inputs[0], name, value)
    return request


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"shape": [1, 7, 8]}, "inputs[0].shape", "is [1, 7, 8], the model takes [-1, 8, 8]"),
        ({"shape": [8, 8]}, "inputs[0].shape", "is [8, 8], the model takes [-1, 8, 8]"),
        ({"shape": [65, 8, 8]}, "inputs[0].shape", "a batch of 65 is outside 1 to 64"),
        ({"shape": [2, 8, 8]}, "inputs[0].data", "has 64 bytes, its shape needs 128"),
        ({"datatype": "INT64"}, "inputs[0].datatype", "is 'INT64', the model takes 'UINT8'"),
        ({"datatype": "FP32"}, "inputs[0].datatype", "is 'FP32', the model takes 'UINT8'"),
        ({"name": "picture"}, "inputs[0].name", "is 'picture', the model takes 'image'"),
    ],
)
def test_wrong_input(
    daemon: Daemon, image: NDArray[np.uint8], changes: dict[str, Any], field: str, reason: str
) -> None:
    """The error names the field in the protocol's own words, what came and what is taken."""
    answer = refused(daemon, changed(image, **changes))
    assert (answer.code, answer.fields) == (INVALID, [(field, reason)])


def test_no_input_and_two(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """A model takes exactly the inputs that it has."""
    without, twice = digit_infer(image[np.newaxis]), digit_infer(image[np.newaxis])
    del without.inputs[:]
    twice.inputs.append(twice.inputs[0])
    for request, count in ((without, 0), (twice, 2)):
        answer = refused(daemon, request)
        assert (answer.code, answer.fields) == (
            INVALID,
            [("inputs", f"{count} are given, the model takes 1 named 'image'")],
        )


def test_raw_and_typed_contents_together(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """Contents come raw or typed, not both."""
    request = digit_infer(image[np.newaxis])
    request.inputs[0].contents.uint_contents.append(1)
    answer = refused(daemon, request)
    assert (answer.code, answer.fields[0][0]) == (INVALID, "raw_input_contents")


def test_typed_number_beyond_its_type(daemon: Daemon, image: NDArray[np.uint8]) -> None:
    """A number that its type does not hold is refused, not wrapped."""
    request = digit_infer(image[np.newaxis])
    del request.raw_input_contents[:]
    request.inputs[0].contents.uint_contents.extend([256] * 64)
    answer = refused(daemon, request)
    assert (answer.code, answer.fields) == (INVALID, [("inputs[0].contents", "256 exceeds the 255 of UINT8")])


def test_nan(daemon: Daemon) -> None:
    """A number that is none is refused."""
    request = oip.ModelInferRequest(model_name="tint", raw_input_contents=[np.full(48, np.nan, np.float32).tobytes()])
    request.inputs.add(name="picture", datatype="FP32", shape=[1, 3, 4, 4])
    answer = refused(daemon, request)
    assert (answer.code, answer.fields) == (INVALID, [("inputs[0].data", "holds numbers that are not finite")])


@pytest.mark.parametrize(
    ("name", "classes", "field"), [("tints", 0, "name"), ("scores", -1, "parameters.classification")]
)
def test_wrong_output(daemon: Daemon, image: NDArray[np.uint8], name: str, classes: int, field: str) -> None:
    """An output that the model has not, or less than one class of it, is refused."""
    request = digit_infer(image[np.newaxis])
    request.outputs.add(name=name).parameters["classification"].int64_param = classes
    answer = refused(daemon, request)
    assert (answer.code, answer.fields[0][0]) == (INVALID, f"outputs[0].{field}")


@pytest.mark.parametrize("name", ["timeout", "max_energy_joules", "min_accuracy", "priority"])
def test_parameter_that_is_no_number(daemon: Daemon, image: NDArray[np.uint8], name: str) -> None:
    """A parameter of the wrong type is refused by its name."""
    assert name in oip_parameters.REQUEST
    request = digit_infer(image[np.newaxis])
    request.parameters[name].string_param = "soon"
    answer = refused(daemon, request)
    assert (answer.code, answer.fields) == (INVALID, [(f"parameters.{name}", "is not a number")])


@pytest.mark.parametrize(("name", "version"), [("letters", ""), ("digits", "9")])
def test_unknown_model(daemon: Daemon, image: NDArray[np.uint8], name: str, version: str) -> None:
    """What is not served is not found."""
    request = digit_infer(image[np.newaxis])
    request.model_name, request.model_version = name, version
    assert refused(daemon, request).code is NOT_FOUND


def test_method_that_is_not_offered(daemon: Daemon) -> None:
    """What the server does not know, it says so."""
    call = daemon.inference_channel.unary_unary(
        "/inference.GRPCInferenceService/TraceSetting", request_serializer=bytes, response_deserializer=bytes
    )
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=CALL_SECONDS)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_config_is_tritons(daemon: Daemon) -> None:
    """Shapes leave the batch out, whose limit stands beside them."""
    config = daemon.inference.ModelConfig(oip.ModelConfigRequest(name="digits"), timeout=CALL_SECONDS).config
    assert (config.name, config.backend, config.max_batch_size) == ("digits", "jouled", 64)
    assert [(each.name, each.data_type, list(each.dims)) for each in config.input] == [
        ("image", oip.TYPE_UINT8, [8, 8])
    ]
    assert [(each.name, each.data_type, list(each.dims)) for each in config.output] == [("scores", oip.TYPE_FP32, [10])]


def test_config_of_an_unknown_model_is_refused(daemon: Daemon) -> None:
    """So is that of an unknown version."""
    for request in (oip.ModelConfigRequest(name="letters"), oip.ModelConfigRequest(name="digits", version="9")):
        found = refusal(partial(daemon.inference.ModelConfig, request, timeout=CALL_SECONDS))
        assert found.code is NOT_FOUND


@pytest.mark.parametrize("ready", [False, True])
def test_index_lists_what_is_served(daemon: Daemon, *, ready: bool) -> None:
    """Each version of each model is there with its state."""
    reply = daemon.inference.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready), timeout=CALL_SECONDS)
    assert ("digits", "1", "READY") in {(each.name, each.version, each.state) for each in reply.models}


def test_a_stream_answers_each_request_and_goes_on_after_an_error(daemon: Daemon, held_out: digits.Part) -> None:
    """Replies carry the ids of their requests; one that is refused does not end the stream."""
    requests = [digit_infer(held_out.images[index : index + 1]) for index in range(40)]
    for index, request in enumerate(requests):
        request.id = str(index)
    requests[7].model_name = "letters"
    replies = list(daemon.inference.ModelStreamInfer(iter(requests), timeout=CALL_SECONDS))
    ((number, message),) = [(each.infer_response.id, each.error_message) for each in replies if each.error_message]
    assert (number, message.split(";")[0]) == ("7", "no model 'letters'")
    answers = {reply.infer_response.id: reply.infer_response for reply in replies if not reply.error_message}
    assert set(answers) == {str(index) for index in range(40)} - {"7"}
    labels = [int(scores(answers[str(index)]).argmax()) for index in (0, 1, 2)]
    assert labels == [int(infer_label(daemon, held_out.images[index : index + 1])) for index in (0, 1, 2)]


def infer_label(daemon: Daemon, image: NDArray[np.uint8]) -> int:
    """Ask for one label without a stream."""
    return int(scores(infer(daemon, digit_infer(image))).argmax())


def test_a_stream_carries_large_responses(daemon: Daemon, held_out: digits.Part) -> None:
    """A batch of 64 images has a response whose length takes several bytes on the wire."""
    (reply,) = daemon.inference.ModelStreamInfer(iter([digit_infer(held_out.images[:64])]), timeout=CALL_SECONDS)
    assert scores(reply.infer_response).shape == (64, 10)
    assert not reply.error_message
