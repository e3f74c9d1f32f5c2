"""Whatever a client sends, it is answered or told what is wrong: never that something unexpected went wrong here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos import open_inference_pb2 as oip
from tests.daemon.refusals import refusal
from tests.daemon.serving import CALL_SECONDS

if TYPE_CHECKING:
    from tests.daemon.serving import Daemon

UNEXPECTED = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
# The shared daemon does not change between examples.
FUZZ = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Mostly what is right, so that what is wrong beside it is reached.
NAMES = st.sampled_from(["digits", "digits", "tint", ""]) | st.text(max_size=20)
VERSIONS = st.sampled_from(["", "", "1", "01", "-1", "9" * 30]) | st.text(max_size=8)
INT64 = st.sampled_from([0, 1, -1, 3, 64, 65, 2**31, 2**63 - 1, -(2**63)]) | st.integers(-(2**63), 2**63 - 1)
PARAMETERS = st.one_of(
    st.builds(oip.InferParameter, bool_param=st.booleans()),
    st.builds(oip.InferParameter, int64_param=INT64),
    st.builds(oip.InferParameter, uint64_param=st.integers(0, 2**64 - 1)),
    st.builds(oip.InferParameter, string_param=st.text(max_size=9)),
    st.builds(oip.InferParameter, double_param=st.floats()),
    st.builds(oip.InferParameter),
)
KEYS = st.sampled_from(
    ["timeout", "priority", "sequence_id", "sequence_start", "max_energy_joules", "min_accuracy", "classification",
     "shared_memory_region", "shared_memory_byte_size", "binary_data_output"]
) | st.text(max_size=9)  # fmt: skip
BAGS = st.dictionaries(KEYS, PARAMETERS, max_size=3)
SHAPES = st.sampled_from([[1, 8, 8], [1, 8, 8], [2, 8, 8], [1, 3, 4, 4], [8, 8], []]) | st.lists(INT64, max_size=6)
CONTENTS = st.builds(
    oip.InferTensorContents,
    uint_contents=st.just([7] * 64) | st.lists(st.integers(0, 2**32 - 1), max_size=9),
    fp32_contents=st.just([0.5] * 48) | st.lists(st.floats(width=32), max_size=9),
    bytes_contents=st.lists(st.binary(max_size=9), max_size=2),
)
RAW = st.sampled_from([[b"\7" * 64], [b"\7" * 64], [b"\0" * 128], [b"\0" * 192], []]) | st.lists(
    st.binary(max_size=300), max_size=3
)


@st.composite
def requests(draw: st.DrawFn) -> oip.ModelInferRequest:
    """Give a request of which any part may be wrong."""
    request = oip.ModelInferRequest(
        model_name=draw(NAMES), model_version=draw(VERSIONS), id=draw(st.text(max_size=9)), raw_input_contents=draw(RAW)
    )
    _fill(request.parameters, draw(BAGS))
    for _ in range(draw(st.sampled_from([1, 1, 1, 0, 2]))):
        given_input = request.inputs.add(
            name=draw(st.sampled_from(["image", "image", "picture"]) | st.text(max_size=9)),
            datatype=draw(st.sampled_from(["UINT8", "UINT8", "FP32", "FP16", "BYTES"]) | st.text(max_size=9)),
            shape=draw(SHAPES),
        )
        _fill(given_input.parameters, draw(BAGS))
        if draw(st.booleans()):
            given_input.contents.CopyFrom(draw(CONTENTS))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        output = request.outputs.add(name=draw(st.sampled_from(["scores", "tints"]) | st.text(max_size=9)))
        _fill(output.parameters, draw(BAGS))
    return request


def _fill(parameters: Any, bag: dict[str, oip.InferParameter]) -> None:
    for key, parameter in bag.items():
        parameters[key].CopyFrom(parameter)


def _code(call: Any) -> grpc.StatusCode:
    """Make a call and give its status, which is never that of something unexpected."""
    try:
        call()
        code = grpc.StatusCode.OK
    except grpc.RpcError as error:
        code = error.code()
    assert code not in UNEXPECTED
    return code


@FUZZ
@given(requests())
def test_inference(daemon: Daemon, request: oip.ModelInferRequest) -> None:
    """A request that is wrong in any of its parts has a status that says so."""
    code = _code(lambda: daemon.inference.ModelInfer(request, timeout=CALL_SECONDS))
    assert code in {
        grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.DEADLINE_EXCEEDED,
    }  # fmt: skip


@FUZZ
@given(st.lists(requests(), max_size=5))
def test_streams(daemon: Daemon, messages: list[oip.ModelInferRequest]) -> None:
    """Each request of a stream is answered, with an error or without; none ends the stream."""
    replies = list(daemon.inference.ModelStreamInfer(iter(messages), timeout=CALL_SECONDS))
    assert sorted(reply.infer_response.id for reply in replies) == sorted(message.id for message in messages)


@FUZZ
@given(
    st.sampled_from(
        ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad",
         "RepositoryModelUnload"]
    ),
    NAMES,
    VERSIONS,
)  # fmt: skip
def test_other_calls(daemon: Daemon, method: str, name: str, version: str) -> None:
    """Names and versions of any kind are known or not."""
    message = getattr(oip, f"{method}Request")
    known = message.DESCRIPTOR.fields_by_name
    values = {"name": name, "version": version, "model_name": name, "repository_name": version}
    request = message(**{key: value for key, value in values.items() if key in known})
    code = _code(lambda: getattr(daemon.inference, method)(request, timeout=CALL_SECONDS))
    assert code in {
        grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
    }  # fmt: skip


@pytest.mark.parametrize(
    "method", ["inference.GRPCInferenceService/ModelInfer", "inference.GRPCInferenceService/RepositoryModelLoad",
               "jouled.v1.Classifier/Classify"]
)  # fmt: skip
@settings(FUZZ, max_examples=40)
@given(st.binary(min_size=1, max_size=60))
def test_bytes_that_are_no_message(daemon: Daemon, method: str, data: bytes) -> None:
    """What cannot be decoded is the client's mistake, as is what by chance can."""
    call = daemon.inference_channel.unary_unary(f"/{method}", None, None)
    code = _code(lambda: call(data, timeout=CALL_SECONDS))
    assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.parametrize(
    "method", ["inference.GRPCInferenceService/ModelStreamInfer", "jouled.v1.Classifier/ClassifyStream"]
)
def test_a_stream_ends_at_what_is_no_message(daemon: Daemon, method: str) -> None:
    """It says so."""
    call = daemon.inference_channel.stream_stream(f"/{method}", None, None)
    answer = refusal(lambda: list(call(iter([b"\0"]), timeout=CALL_SECONDS)))
    assert (answer.code, answer.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        [("request", "is not a message that this method takes")],
    )
