"""The project's own service: `jouled.v1.Classifier`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from daemon.clock import Clock
from daemon.config import Server
from daemon.dispatcher import Dispatcher
from daemon.errors import InvalidRequest, RequestError
from daemon.flight import Answer
from daemon.http2.call import Call
from daemon.inputs import check_constraints, check_tensor, decode_image
from daemon.ledger import Energy
from daemon.load_report import LoadReports
from daemon.points import Model
from daemon.status import CODES, refused
from daemon.streams import Streams
from protos import jouled_pb2 as pb
from protos import jouled_pb2_grpc

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Classifier(jouled_pb2_grpc.ClassifierServicer):
    """Answers classification requests."""

    def __init__(
        self, dispatcher: Dispatcher, server: Server, streams: Streams, reports: LoadReports | None, clock: Clock
    ) -> None:
        self._dispatcher = dispatcher
        self._server = server
        self._streams = streams
        self._reports = reports
        self._clock = clock

    async def Classify(self, request: pb.ClassifyRequest, call: Call) -> pb.ClassifyReply:  # noqa: N802
        """Answer one request."""
        try:
            reply = await self._classify(request, call.time_remaining())
        except RequestError as error:
            raise refused(error, self._reports.trailer() if self._reports else ()) from None
        if self._reports:
            call.set_trailing_metadata(self._reports.trailer(reply.energy.dynamic_nanojoules))
        return reply

    async def ClassifyStream(  # noqa: N802
        self, requests: AsyncIterator[pb.ClassifyRequest], call: Call
    ) -> None:
        """Answer requests of a stream as they become ready."""
        spent = 0

        async def outcome(request: pb.ClassifyRequest) -> pb.ClassifyStreamReply:
            nonlocal spent
            try:
                reply = await self._classify(request, None)
            except RequestError as error:
                code: int = CODES[type(error)].value[0]
                return pb.ClassifyStreamReply(error=pb.Error(code=code, message=str(error), tag=request.tag))
            spent += reply.energy.dynamic_nanojoules
            return pb.ClassifyStreamReply(reply=reply)

        await self._streams.answer_each(requests, outcome, call)
        if self._reports:
            call.set_trailing_metadata(self._reports.trailer(spent))

    async def _classify(self, request: pb.ClassifyRequest, remaining_seconds: float | None) -> pb.ClassifyReply:
        model = self._dispatcher.fleet.find(request.model, request.version)
        images = self._tensor(request, model) if request.HasField("tensor") else await self._image(request, model)
        maximum = request.max_energy_joules if request.HasField("max_energy_joules") else None
        wanted = check_constraints(
            self._clock(), remaining_seconds, self._server, len(images), maximum, request.min_accuracy
        )
        answer = await self._dispatcher.classify(model, images, wanted)
        return _reply(request, model, answer)

    def _tensor(self, request: pb.ClassifyRequest, model: Model) -> NDArray[np.generic]:
        tensor = request.tensor
        return check_tensor("tensor", tensor.dtype, tensor.shape, tensor.data, model.manifest.input, batch_limit=1)

    async def _image(self, request: pb.ClassifyRequest, model: Model) -> NDArray[np.generic]:
        if not request.HasField("image"):
            raise InvalidRequest("input", "neither a tensor nor an image is given")
        return await decode_image("image", request.image, model.manifest.input, self._server.image_pixels_limit)


def _reply(request: pb.ClassifyRequest, model: Model, answer: Answer) -> pb.ClassifyReply:
    """Add this answer's figures to what many answers have in common."""
    point, energy, names = answer.point, answer.energy, model.manifest.labels
    reply = pb.ClassifyReply.FromString(
        _common(
            model.name, model.version, point.variant, point.digest, point.device, point.simulated, answer.steps,
            answer.policy, energy.provenance, energy.sharing, energy.state, energy.boundary,
            point.fallback_of,
        )
    )  # fmt: skip
    reply.request_id = answer.request_id
    for index, score in _best(answer.scores[0], request.top_k):
        reply.labels.add(name=names[index], index=index, score=score)
    report = reply.energy
    report.dynamic_nanojoules = energy.dynamic_nanojoules
    report.static_nanojoules = energy.static_nanojoules
    report.uncertainty_nanojoules = energy.uncertainty_nanojoules
    reply.device_seconds = answer.device_seconds
    reply.queue_seconds = answer.queue_seconds
    reply.journaled = answer.journaled
    reply.tag = request.tag
    return reply


def _best(scores: NDArray[np.float32], top_k: int) -> list[tuple[int, float]]:
    """Give the best classes with their scores, the best one for a `top_k` of 0."""
    values: list[float] = scores.tolist()
    if top_k <= 1:
        best = max(values)
        return [(values.index(best), best)]
    return [(index, values[index]) for index in np.argsort(-scores, kind="stable")[:top_k].tolist()]


@lru_cache(maxsize=1024)
def _common(
    model: str, version: str, variant: str, digest: str, device: str, simulated: bool, steps: int, policy: str,
    provenance: str, sharing: str, state: str, boundary: str, fallback_of: str,
) -> bytes:  # fmt: skip
    """Serialise what is the same in many replies: to parse it costs a third of setting it field by field."""
    energy = pb.EnergyReport(provenance=provenance, sharing=sharing, state=state, boundary=boundary)
    return pb.ClassifyReply(
        model=model, version=version, variant=variant, artifact_digest=digest, device=device, simulated=simulated,
        steps=steps, policy=policy, energy=energy, fallback_of=fallback_of,
    ).SerializeToString()  # fmt: skip


def energy_report(energy: Energy) -> pb.EnergyReport:
    """Give the figure of a request with all its labels."""
    return pb.EnergyReport(
        dynamic_nanojoules=energy.dynamic_nanojoules,
        static_nanojoules=energy.static_nanojoules,
        uncertainty_nanojoules=energy.uncertainty_nanojoules,
        provenance=energy.provenance,
        sharing=energy.sharing,
        state=energy.state,
        boundary=energy.boundary,
    )
