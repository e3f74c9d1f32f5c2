"""The Open Inference Protocol (KServe v2): `inference.GRPCInferenceService`, so that stock clients work unmodified."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import grpc
import numpy as np

from daemon import oip_models
from daemon.clock import NANO, Clock
from daemon.config import Server
from daemon.dispatcher import Dispatcher
from daemon.errors import InvalidRequest, NotAllowed, RequestError
from daemon.flight import Answer
from daemon.http2.call import Call
from daemon.http2.refused import Refused
from daemon.inputs import check_constraints, check_tensor
from daemon.ledger import Energy
from daemon.listener import Listener
from daemon.load_report import LoadReports
from daemon.model_control import ModelControl
from daemon.oip_models import DATATYPES
from daemon.oip_parameters import number, priority
from daemon.points import Model
from daemon.router import Constraints
from daemon.statistics import Statistics
from daemon.status import refused
from daemon.streams import Streams
from daemon.version import VERSION
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc

if TYPE_CHECKING:
    from numpy.typing import NDArray


CLASSIFICATION = "classification"
EXTENSIONS = [CLASSIFICATION, "model_configuration", "statistics"]
SHARED_MEMORY = "there is no shared memory with clients: send tensors in the request"
# Methods of Triton's service that this server does not have, each with what to do instead.
MISSING = {
    "SystemSharedMemoryStatus": SHARED_MEMORY,
    "SystemSharedMemoryRegister": SHARED_MEMORY,
    "SystemSharedMemoryUnregister": SHARED_MEMORY,
    "CudaSharedMemoryStatus": SHARED_MEMORY,
    "CudaSharedMemoryRegister": SHARED_MEMORY,
    "CudaSharedMemoryUnregister": SHARED_MEMORY,
    "TraceSetting": "requests are not traced: their times and joules are in the journal",
    "LogSettings": "the log has no settings",
}
# Tags on the wire: the number of a field, which is length-delimited. Those of a response, and that of one in a stream.
ID, RAW_OUTPUT = 3 << 3 | 2, 6 << 3 | 2
INFER_RESPONSE = 2 << 3 | 2
SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name


def add_to_server(servicer: OpenInference, server: Listener) -> None:
    """Offer the protocol. What inference gives is serialised already."""
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    infer = grpc.unary_unary_rpc_method_handler(
        servicer.ModelInfer, request_deserializer=pb.ModelInferRequest.FromString
    )
    stream = grpc.stream_stream_rpc_method_handler(
        servicer.ModelStreamInfer, request_deserializer=pb.ModelInferRequest.FromString
    )
    handlers = {"ModelInfer": infer, "ModelStreamInfer": stream}
    handlers |= {method: grpc.unary_unary_rpc_method_handler(_missing(method)) for method in MISSING}
    server.add_registered_method_handlers(SERVICE, handlers)


def _missing(method: str) -> Callable[[bytes, Call], Awaitable[bytes]]:
    """Make the handler of a method that this server does not have."""

    async def refuse(_: bytes, _call: Call) -> bytes:
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not implemented: {MISSING[method]}")

    return refuse


class OpenInference(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers the protocol. Clients may load and unload models where the configuration allows it."""

    def __init__(
        self, dispatcher: Dispatcher, server: Server, models: ModelControl, statistics: Statistics, streams: Streams,
        reports: LoadReports | None, clock: Clock,
    ) -> None:  # fmt: skip
        self._dispatcher = dispatcher
        self._server = server
        self._models = models
        self._statistics = statistics
        self._streams = streams
        self._reports = reports
        self._clock = clock

    async def ServerLive(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:  # noqa: N802
        """Tell that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, call: Call) -> pb.ServerReadyResponse:  # noqa: N802
        """Tell whether any model can be served."""
        fleet = self._dispatcher.fleet
        ready = any(fleet.serves(model) for model in fleet.versions())
        return pb.ServerReadyResponse(ready=ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:  # noqa: N802
        """Tell whether a model can be served; an unknown one cannot."""
        try:
            model = self._dispatcher.fleet.find(request.name, request.version)
        except RequestError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._dispatcher.fleet.serves(model))

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, call: Call
    ) -> pb.ServerMetadataResponse:
        """Name the server and the extensions that work."""
        extensions = EXTENSIONS + (["model_repository"] if self._server.model_control else [])
        return pb.ServerMetadataResponse(name="jouled", version=VERSION, extensions=extensions)

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, call: Call
    ) -> pb.ModelMetadataResponse:
        """Describe a model, its nominal energies among its properties."""
        model = self._dispatcher.fleet.find(request.name, request.version)
        return oip_models.metadata(model, self._dispatcher.fleet.models[model.name])

    async def ModelConfig(self, request: pb.ModelConfigRequest, call: Call) -> pb.ModelConfigResponse:  # noqa: N802
        """Give a model's configuration as Triton would."""
        model = self._dispatcher.fleet.find(request.name, request.version)
        return oip_models.config(model, self._server.batch_limit)

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, call: Call
    ) -> pb.RepositoryIndexResponse:
        """List the versions of all models of the repository, or those that are served."""
        fleet = self._dispatcher.fleet
        loaded = [model for model in fleet.versions() if not request.ready or fleet.serves(model)]
        unloaded = []
        if not request.ready:
            known = {(model.name, model.version) for model in loaded}
            unloaded = [each for each in await self._models.available() if each not in known]
        return pb.RepositoryIndexResponse(models=oip_models.index(loaded, unloaded, fleet.serves))

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, call: Call
    ) -> pb.RepositoryModelLoadResponse:
        """Serve a model as the repository has it now, in all its versions."""
        self._check_control(request)
        if request.parameters:
            raise InvalidRequest("parameters", "a model comes as it is in the repository; send none")
        await self._models.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, call: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Take a model off the devices, in all its versions; no other one depends on it."""
        self._check_control(request)
        await self._models.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    def _check_control(self, request: pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest) -> None:
        if not self._server.model_control:
            raise NotAllowed("models are loaded and unloaded by the operator")
        if request.repository_name:
            raise InvalidRequest(
                "repository_name", f"is {request.repository_name[:64]!r}; there is one, without a name"
            )

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, call: Call
    ) -> pb.ModelStatisticsResponse:
        """Tell how many requests of a model there were and how long they took; of all models where none is named."""
        fleet = self._dispatcher.fleet
        models = fleet.versions()
        if request.name or request.version:
            model = fleet.find(request.name, request.version)
            models = [model] if request.version else list(fleet.models[model.name].values())
        stats = [oip_models.statistics(model, self._statistics.of(model.name, model.version)) for model in models]
        return pb.ModelStatisticsResponse(model_stats=stats)

    async def ModelInfer(self, request: pb.ModelInferRequest, call: Call) -> bytes:  # noqa: N802
        """Answer one request of one or more images."""
        try:
            response, nanojoules = await self._infer(request, call.time_remaining())
        except RequestError as error:
            raise refused(error, self._reports.trailer() if self._reports else ()) from None
        if self._reports:
            call.set_trailing_metadata(self._reports.trailer(nanojoules))
        return response

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], call: Call
    ) -> None:
        """Answer requests of a stream as they become ready; the request's id tells which one each answers."""
        spent = 0

        async def outcome(request: pb.ModelInferRequest) -> bytes:
            nonlocal spent
            try:
                response, nanojoules = await self._infer(request, None)
            except RequestError as error:
                refused = pb.ModelStreamInferResponse(error_message=str(error))
                refused.infer_response.id = request.id
                return refused.SerializeToString()
            spent += nanojoules
            return _field(INFER_RESPONSE, response)

        await self._streams.answer_each(requests, outcome, call)
        if self._reports:
            call.set_trailing_metadata(self._reports.trailer(spent))

    async def _infer(self, request: pb.ModelInferRequest, remaining_seconds: float | None) -> tuple[bytes, int]:
        """Give the serialised response and the dynamic energy that it tells of."""
        model = self._dispatcher.fleet.find(request.model_name, request.model_version)
        classes = _classes(request, model)
        images = _images(request, model, self._server.batch_limit)
        wanted = self._wanted(request, remaining_seconds, len(images))
        answer = await self._dispatcher.classify(model, images, wanted)
        return _response(request, model, answer, classes), answer.energy.dynamic_nanojoules

    def _wanted(self, request: pb.ModelInferRequest, remaining_seconds: float | None, images: int) -> Constraints:
        """Read what a request asks for in its parameters, of which most have none."""
        if not request.parameters:
            return check_constraints(self._clock(), remaining_seconds, self._server, images, None, 0.0)
        timeout = number(request, "timeout")
        if timeout:
            seconds = timeout / 1e6
            remaining_seconds = seconds if remaining_seconds is None else min(seconds, remaining_seconds)
        return check_constraints(
            self._clock(), remaining_seconds, self._server, images,
            number(request, "max_energy_joules"), number(request, "min_accuracy") or 0.0, priority(request),
        )  # fmt: skip


def _images(request: pb.ModelInferRequest, model: Model, batch_limit: int) -> NDArray[np.generic]:
    """Check and view the one input of a request, raw or typed."""
    spec = model.manifest.input
    if len(request.inputs) != 1:
        raise InvalidRequest("inputs", f"{len(request.inputs)} are given, the model takes 1 named {spec.name!r}")
    given = request.inputs[0]
    if given.name != spec.name:
        raise InvalidRequest("inputs[0].name", f"is {given.name[:64]!r}, the model takes {spec.name!r}")
    if given.datatype != DATATYPES[spec.dtype]:
        raise InvalidRequest(
            "inputs[0].datatype", f"is {given.datatype[:16]!r}, the model takes {DATATYPES[spec.dtype]!r}"
        )
    raw = request.raw_input_contents
    if raw and (len(raw) != 1 or given.HasField("contents")):
        raise InvalidRequest("raw_input_contents", f"{len(raw)} buffers for 1 input, and none beside typed contents")
    data = raw[0] if raw else _typed(given, spec.dtype)
    shape = given.shape[:]
    if len(shape) != 1 + len(spec.shape):
        raise InvalidRequest("inputs[0].shape", f"is {shape[:8]}, the model takes {[-1, *spec.shape]}")
    return check_tensor("inputs[0]", spec.dtype, shape, data, spec, batch_limit)


def _typed(given: pb.ModelInferRequest.InferInputTensor, dtype: str) -> bytes:
    """Turn typed contents into the bytes that raw contents would have."""
    if dtype == "float32":
        return np.asarray(given.contents.fp32_contents, np.float32).tobytes()
    values = np.asarray(given.contents.uint_contents, np.uint32)
    if values.size and int(values.max()) > np.iinfo(np.uint8).max:
        raise InvalidRequest("inputs[0].contents", f"{values.max()} exceeds the 255 of UINT8")
    return values.astype(np.uint8).tobytes()


def _classes(request: pb.ModelInferRequest, model: Model) -> int:
    """Give how many classes the classification extension asks for, 0 for plain scores."""
    if len(request.outputs) > 1:
        raise InvalidRequest("outputs", f"{len(request.outputs)} are asked for, the model has 1")
    for wanted in request.outputs:
        if wanted.name != model.manifest.output:
            raise InvalidRequest("outputs[0].name", f"is {wanted.name[:64]!r}, the model has {model.manifest.output!r}")
        if CLASSIFICATION in wanted.parameters:
            count = wanted.parameters[CLASSIFICATION].int64_param
            if count < 1:
                raise InvalidRequest("outputs[0].parameters.classification", f"{count} is below 1")
            return int(count)
    return 0


def _response(request: pb.ModelInferRequest, model: Model, answer: Answer, classes: int) -> bytes:
    """Serialise the response: what many have in common, then this one's figures, its scores and its id.

    Serialised messages that follow one another are one message that has all their fields.
    """
    if classes:
        rows = [_ranked(scores, model.manifest.labels, classes) for scores in answer.scores]
        texts = [text for row in rows for text in row]
        datatype, shape = "BYTES", (len(rows), len(rows[0]))
        raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    else:
        datatype, shape = "FP32", answer.scores.shape
        raw = answer.scores.tobytes()
    energy, point = answer.energy, answer.point
    common = _common(
        model.name, model.version, model.manifest.output, datatype, shape, energy.provenance, energy.sharing,
        energy.state, point.device, point.variant, answer.policy, point.simulated, answer.steps,
        point.fallback_of,
    )  # fmt: skip
    own = _field(ID, request.id.encode()) + _field(RAW_OUTPUT, raw)
    return common + _joules(energy) + own


def _field(tag: int, content: bytes) -> bytes:
    """Serialise a field of bytes: its tag, its length in groups of seven bits, its content."""
    length, header = len(content), bytearray([tag])
    while length > 0x7F:
        header.append(length & 0x7F | 0x80)
        length >>= 7
    header.append(length)
    return bytes(header) + content


def _ranked(scores: NDArray[np.float32], labels: tuple[str, ...], classes: int) -> list[bytes]:
    best = np.argsort(-scores, kind="stable")[:classes].tolist()
    return [f"{scores[index]:f}:{index}:{labels[index]}".encode() for index in best]


@lru_cache(maxsize=1024)
def _common(
    name: str, version: str, output: str, datatype: str, shape: tuple[int, int], provenance: str, sharing: str,
    state: str, device: str, variant: str, policy: str, simulated: bool, steps: int,
    fallback_of: str,
) -> bytes:  # fmt: skip
    """Serialise what is the same in many responses."""
    response = pb.ModelInferResponse(model_name=name, model_version=version)
    response.outputs.add(name=output, datatype=datatype, shape=shape)
    parameters = response.parameters
    parameters["energy_provenance"].string_param = provenance
    parameters["energy_sharing"].string_param = sharing
    parameters["energy_state"].string_param = state
    parameters["device"].string_param = device
    parameters["variant"].string_param = variant
    parameters["policy"].string_param = policy
    parameters["simulated"].bool_param = simulated
    parameters["steps"].int64_param = steps
    if fallback_of:
        parameters["fallback_of"].string_param = fallback_of
    return response.SerializeToString()


def _before_double(key: str) -> bytes:
    """Serialise a parameter up to its value: a double is the last eight bytes."""
    response = pb.ModelInferResponse()
    response.parameters[key].double_param = 0.0
    return response.SerializeToString()[:-8]


DYNAMIC = _before_double("energy_joules")
STATIC = _before_double("energy_static_joules")
UNCERTAINTY = _before_double("energy_uncertainty_joules")
pack_double = struct.Struct("<d").pack


def _joules(energy: Energy) -> bytes:
    """Serialise the figures of a response. A map of messages costs upb ten times as much as this."""
    dynamic = pack_double(energy.dynamic_nanojoules / NANO)
    static = pack_double(energy.static_nanojoules / NANO)
    uncertainty = pack_double(energy.uncertainty_nanojoules / NANO)
    return DYNAMIC + dynamic + STATIC + static + UNCERTAINTY + uncertainty
