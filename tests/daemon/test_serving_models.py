"""Models come and go while the daemon serves: versions, load and unload, and who may do that."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from daemon.repository import SHIPPED
from protos import jouled_pb2 as pb
from protos import open_inference_pb2 as oip
from tests.daemon.conftest import ROOMY
from tests.daemon.networks import write_tiny
from tests.daemon.refusals import refusal
from tests.daemon.serving import CALL_SECONDS, Daemon, configuration, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

Code = grpc.StatusCode
CONTROLLED = "[server]\nmodel_control = true\n"
CPU = '[device.cpu]\ndriver = "cpu"\n'


@pytest.fixture
def changing(tmp_path: Path) -> Path:
    """Give a repository that a test may change: the digits, and `tiny` in one version."""
    shutil.copytree(SHIPPED / "digits", tmp_path / "repository" / "digits")
    write_tiny(tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def controlled(changing: Path) -> Iterator[Daemon]:
    """Run a daemon whose clients may load and unload models."""
    config = configuration(ROOMY, start="roomy", devices=CPU, repository=changing) + CONTROLLED
    with running(config, may_log=["artifact refused", "artifact not loaded", "model not loaded"]) as daemon:
        yield daemon


def _ask(version: str = "") -> oip.ModelInferRequest:
    blank = np.full((1, 28, 28), 7, np.uint8)
    request = oip.ModelInferRequest(model_name="tiny", model_version=version, raw_input_contents=[blank.tobytes()])
    request.inputs.add(name="image", datatype="UINT8", shape=blank.shape)
    return request


def _infer(daemon: Daemon, version: str = "") -> tuple[str, list[float]]:
    """Give the version that answered, and its scores."""
    reply = daemon.inference.ModelInfer(_ask(version), timeout=CALL_SECONDS)
    scores: NDArray[np.float32] = np.frombuffer(reply.raw_output_contents[0], np.float32)
    return reply.model_version, scores.tolist()


def _load(daemon: Daemon, name: str = "tiny") -> None:
    daemon.inference.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name=name), timeout=CALL_SECONDS)


def _unload(daemon: Daemon, name: str = "tiny") -> None:
    daemon.inference.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name=name), timeout=CALL_SECONDS)


def _index(daemon: Daemon, *, ready: bool = False) -> set[tuple[str, str, str, str]]:
    reply = daemon.inference.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready), timeout=CALL_SECONDS)
    return {(each.name, each.version, each.state, each.reason) for each in reply.models}


def test_an_unloaded_model_is_gone_until_it_is_loaded(controlled: Daemon) -> None:
    """Others are served on; the index tells what could be loaded."""
    before = _infer(controlled)
    _unload(controlled)
    assert refusal(lambda: _infer(controlled)).code is Code.NOT_FOUND
    ready = oip.ModelReadyRequest(name="tiny")
    assert not controlled.inference.ModelReady(ready, timeout=CALL_SECONDS).ready
    assert _index(controlled) == {("digits", "1", "READY", ""), ("tiny", "1", "UNAVAILABLE", "unloaded")}
    assert _index(controlled, ready=True) == {("digits", "1", "READY", "")}
    assert controlled.points("digits")
    _load(controlled)
    assert _infer(controlled) == before
    assert _index(controlled) == {("digits", "1", "READY", ""), ("tiny", "1", "READY", "")}


def test_a_version_that_was_added_is_served_after_a_load(controlled: Daemon, changing: Path) -> None:
    """The latest version answers who names none; each is there by its number. One that is taken away goes."""
    first = _infer(controlled)
    write_tiny(changing, "10")
    write_tiny(changing, "2")
    assert refusal(lambda: _infer(controlled, "2")).code is Code.NOT_FOUND
    _load(controlled)
    answers = {version: _infer(controlled, version) for version in ("1", "2", "10")}
    assert {version: answer[0] for version, answer in answers.items()} == {each: each for each in answers}
    assert answers["1"] == first
    assert answers["2"][1] != answers["10"][1]
    assert _infer(controlled) == answers["10"]
    metadata = controlled.inference.ModelMetadata(oip.ModelMetadataRequest(name="tiny"), timeout=CALL_SECONDS)
    assert list(metadata.versions) == ["1", "2", "10"]
    shutil.rmtree(changing / "tiny" / "10")
    _load(controlled)
    assert _infer(controlled) == answers["2"]


def test_what_cannot_be_loaded_changes_nothing(controlled: Daemon, changing: Path) -> None:
    """An unknown model, a name that is none, and a damaged one are refused; what was loaded is served on."""
    before = _infer(controlled)
    assert refusal(lambda: _load(controlled, "tin")).code is Code.NOT_FOUND
    assert "did you mean 'tiny'" in refusal(lambda: _load(controlled, "tin")).message
    assert refusal(lambda: _load(controlled, "..")).code is Code.NOT_FOUND
    assert refusal(lambda: _load(controlled, "*")).code is Code.NOT_FOUND
    assert refusal(lambda: _unload(controlled, "tin")).code is Code.NOT_FOUND
    weights = changing / "tiny" / "1" / "dnn" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(grpc.RpcError) as damaged:
        _load(controlled)
    assert damaged.value.code() is Code.FAILED_PRECONDITION
    assert str(damaged.value.details()).startswith("tiny/1/dnn: model.bin has ")
    assert _infer(controlled) == before


def test_what_no_device_takes_leaves_the_model_as_it_was(controlled: Daemon, changing: Path) -> None:
    """A manifest that lies is found out by the device only: the load is refused, and what was loaded is served on."""
    before = _infer(controlled)
    manifest = changing / "tiny" / "1" / "dnn" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "labels": content["labels"][:-1]}))
    with pytest.raises(grpc.RpcError) as refused:
        _load(controlled)
    assert refused.value.code() is Code.FAILED_PRECONDITION
    assert refused.value.details() == "cpu: tiny/dnn: 10 scores for 9 labels"
    assert _infer(controlled) == before


def test_a_load_with_a_configuration_of_its_own_is_refused(controlled: Daemon) -> None:
    """Models come from the repository as they are, and there is one."""
    request = oip.RepositoryModelLoadRequest(model_name="tiny")
    request.parameters["config"].string_param = "{}"
    answer = refusal(lambda: controlled.inference.RepositoryModelLoad(request, timeout=CALL_SECONDS))
    assert (answer.code, answer.message.partition(":")[0]) == (Code.INVALID_ARGUMENT, "parameters")
    elsewhere = oip.RepositoryModelUnloadRequest(model_name="tiny", repository_name="other")
    answer = refusal(lambda: controlled.inference.RepositoryModelUnload(elsewhere, timeout=CALL_SECONDS))
    assert (answer.code, answer.message.partition(":")[0]) == (Code.INVALID_ARGUMENT, "repository_name")


def test_only_the_operator_loads_and_unloads_by_default(daemon: Daemon) -> None:
    """On the inference sockets both are refused, and not advertised."""
    for change in (_load, _unload):
        assert refusal(lambda change=change: change(daemon, "digits")).code is Code.PERMISSION_DENIED  # type: ignore[misc]
    metadata = daemon.inference.ServerMetadata(oip.ServerMetadataRequest(), timeout=CALL_SECONDS)
    assert list(metadata.extensions) == ["classification", "model_configuration", "statistics"]


def test_the_operator_loads_and_unloads(controlled: Daemon) -> None:
    """The control socket does the same, and tells what is loaded; the health service follows."""
    health = health_pb2_grpc.HealthStub(controlled.inference_channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service="model/tiny"), timeout=CALL_SECONDS)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    controlled.control.UnloadModel(pb.UnloadModelRequest(name="tiny"), timeout=CALL_SECONDS)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert controlled.points("tiny") == []
    again = refusal(lambda: controlled.control.UnloadModel(pb.UnloadModelRequest(name="tiny"), timeout=CALL_SECONDS))
    assert again.code is Code.NOT_FOUND
    reply = controlled.control.LoadModel(pb.LoadModelRequest(name="tiny"), timeout=CALL_SECONDS)
    assert [(model.name, model.version, len(model.points)) for model in reply.models] == [("tiny", "1", 1)]
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    assert _infer(controlled)[0] == "1"


def test_requests_go_on_while_models_change(controlled: Daemon) -> None:
    """Of requests under way while their model goes, each is answered or told that it is gone; none hangs."""
    for _ in range(3):
        calls = [controlled.inference.ModelInfer.future(_ask(), timeout=CALL_SECONDS) for _ in range(50)]
        _unload(controlled)
        codes = {call.code() for call in calls}
        assert codes <= {Code.OK, Code.NOT_FOUND, Code.UNAVAILABLE}
        _load(controlled)
    assert _infer(controlled)[0] == "1"


def test_statistics_count_requests_and_executions(controlled: Daemon) -> None:
    """The sums are of one version, and rise with its requests; what named no model is in none."""
    _infer(controlled)
    batch = _ask()
    batch.inputs[0].shape[0] = 3
    batch.raw_input_contents[0] *= 3
    controlled.inference.ModelInfer(batch, timeout=CALL_SECONDS)
    late = _ask()
    late.parameters["timeout"].int64_param = 1
    assert refusal(lambda: controlled.inference.ModelInfer(late, timeout=CALL_SECONDS)).code is Code.DEADLINE_EXCEEDED
    request = oip.ModelStatisticsRequest(name="tiny", version="1")
    (found,) = controlled.inference.ModelStatistics(request, timeout=CALL_SECONDS).model_stats
    assert (found.inference_count, found.execution_count) == (4, 2)
    stats = found.inference_stats
    assert (stats.success.count, stats.fail.count, stats.queue.count, stats.compute_infer.count) == (2, 1, 2, 2)
    assert stats.success.ns >= stats.queue.ns + stats.compute_infer.ns > 0
    assert {each.batch_size: each.compute_infer.count for each in found.batch_stats} == {1: 1, 3: 1}
    every = controlled.inference.ModelStatistics(oip.ModelStatisticsRequest(), timeout=CALL_SECONDS).model_stats
    assert {each.name: each.inference_count for each in every} == {"digits": 0, "tiny": 4}
    unknown = oip.ModelStatisticsRequest(name="tiny", version="7")
    assert refusal(lambda: controlled.inference.ModelStatistics(unknown, timeout=CALL_SECONDS)).code is Code.NOT_FOUND


@pytest.mark.parametrize(
    "method", ["SystemSharedMemoryStatus", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings"]
)
def test_what_is_missing_says_so(daemon: Daemon, method: str) -> None:
    """Methods of Triton's service that this server does not have tell what to do instead."""
    call = daemon.inference_channel.unary_unary(f"/inference.GRPCInferenceService/{method}", None, None)
    answer = refusal(lambda: call(b"", timeout=CALL_SECONDS))
    assert (answer.code, answer.message.startswith(f"{method} is not implemented: ")) == (Code.UNIMPLEMENTED, True)
