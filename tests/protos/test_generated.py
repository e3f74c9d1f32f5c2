"""The committed code is what the committed definitions generate, and the field numbers are Triton's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import protos
from protos import open_inference_pb2

ROOT = Path(protos.__path__[0]).parent
DEFINITIONS = [f"protos/{name}.proto" for name in ("jouled", "open_inference", "orca_load_report", "orca_service")]
SERVICE = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

# The fields of the Open Inference Protocol (KServe v2) with Triton's numbers, without which no client understands us.
FIELDS = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": 1},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": 1},
    "ModelReadyRequest": {"name": 1, "version": 2},
    "ModelReadyResponse": {"ready": 1},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {"name": 1, "version": 2, "extensions": 3},
    "ModelMetadataRequest": {"name": 1, "version": 2},
    "ModelMetadataResponse": {
        "name": 1, "versions": 2, "platform": 3, "inputs": 4, "outputs": 5, "properties": 6,
    },
    "ModelMetadataResponse.TensorMetadata": {"name": 1, "datatype": 2, "shape": 3},
    "InferParameter": {
        "bool_param": 1, "int64_param": 2, "string_param": 3, "double_param": 4, "uint64_param": 5,
    },
    "InferTensorContents": {
        "bool_contents": 1, "int_contents": 2, "int64_contents": 3, "uint_contents": 4, "uint64_contents": 5,
        "fp32_contents": 6, "fp64_contents": 7, "bytes_contents": 8,
    },
    "ModelInferRequest": {
        "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "inputs": 5, "outputs": 6,
        "raw_input_contents": 7,
    },
    "ModelInferRequest.InferInputTensor": {"name": 1, "datatype": 2, "shape": 3, "parameters": 4, "contents": 5},
    "ModelInferRequest.InferRequestedOutputTensor": {"name": 1, "parameters": 2},
    "ModelInferResponse": {
        "model_name": 1, "model_version": 2, "id": 3, "parameters": 4, "outputs": 5, "raw_output_contents": 6,
    },
    "ModelInferResponse.InferOutputTensor": {"name": 1, "datatype": 2, "shape": 3, "parameters": 4, "contents": 5},
    "ModelStreamInferResponse": {"error_message": 1, "infer_response": 2},
    "ModelConfigRequest": {"name": 1, "version": 2},
    "ModelConfigResponse": {"config": 1},
    "ModelConfig": {
        "name": 1, "platform": 2, "version_policy": 3, "max_batch_size": 4, "input": 5, "output": 6, "backend": 17,
    },
    "ModelInput": {"name": 1, "data_type": 2, "dims": 4},
    "ModelOutput": {"name": 1, "data_type": 2, "dims": 3},
    "ModelVersionPolicy": {"latest": 1, "all": 2},
    "RepositoryIndexRequest": {"repository_name": 1, "ready": 2},
    "RepositoryIndexResponse": {"models": 1},
    "RepositoryIndexResponse.ModelIndex": {"name": 1, "version": 2, "state": 3, "reason": 4},
}  # fmt: skip
TYPES = {
    "ServerLiveResponse.live": "bool",
    "ModelMetadataResponse.versions": "repeated string",
    "ModelMetadataResponse.TensorMetadata.shape": "repeated int64",
    "InferParameter.bool_param": "bool",
    "InferParameter.int64_param": "int64",
    "InferParameter.string_param": "string",
    "InferParameter.double_param": "double",
    "InferParameter.uint64_param": "uint64",
    "InferTensorContents.bool_contents": "repeated bool",
    "InferTensorContents.int_contents": "repeated int32",
    "InferTensorContents.int64_contents": "repeated int64",
    "InferTensorContents.uint_contents": "repeated uint32",
    "InferTensorContents.uint64_contents": "repeated uint64",
    "InferTensorContents.fp32_contents": "repeated float",
    "InferTensorContents.fp64_contents": "repeated double",
    "InferTensorContents.bytes_contents": "repeated bytes",
    "ModelInferRequest.raw_input_contents": "repeated bytes",
    "ModelInferResponse.raw_output_contents": "repeated bytes",
    "ModelInferRequest.InferInputTensor.shape": "repeated int64",
}
KINDS = {
    1: "double",
    2: "float",
    3: "int64",
    4: "uint64",
    5: "int32",
    8: "bool",
    9: "string",
    12: "bytes",
    13: "uint32",
}
CORE = ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]


def test_generated_code(tmp_path: Path) -> None:
    """Generating the code again gives the committed files, none missing and none left over."""
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *out, *DEFINITIONS]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    generated = {path.name: path.read_text() for path in (tmp_path / "protos").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "protos").glob("*_pb2*.py*")}
    assert len(generated) == 3 * len(DEFINITIONS)
    assert generated == committed


@pytest.mark.parametrize("name", FIELDS)
def test_field_numbers(name: str) -> None:
    """A message has at least the protocol's fields under its numbers, and no number twice."""
    message = open_inference_pb2.DESCRIPTOR.message_types_by_name[name.partition(".")[0]]
    for inner in name.split(".")[1:]:
        message = message.nested_types_by_name[inner]
    numbers = {field.name: field.number for field in message.fields}
    assert {key: numbers.get(key) for key in FIELDS[name]} == FIELDS[name]
    assert len(set(numbers.values())) == len(numbers)


@pytest.mark.parametrize("place", TYPES)
def test_field_types(place: str) -> None:
    """A scalar field has the protocol's type."""
    path, _, field_name = place.rpartition(".")
    outer, *inner = path.split(".")
    message = open_inference_pb2.DESCRIPTOR.message_types_by_name[outer]
    for each in inner:
        message = message.nested_types_by_name[each]
    field = message.fields_by_name[field_name]
    assert ("repeated " if field.is_repeated else "") + KINDS[field.type] == TYPES[place]


@pytest.mark.parametrize("name", CORE)
def test_core_calls(name: str) -> None:
    """Each call of the core takes and gives the messages that are named after it, without a stream."""
    method = SERVICE.methods_by_name[name]
    assert SERVICE.full_name == "inference.GRPCInferenceService"
    assert (method.input_type.name, method.output_type.name) == (f"{name}Request", f"{name}Response")
    assert not method.client_streaming
    assert not method.server_streaming
