"""The project's own service: `jouled.v1.Classifier`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import numpy as np

from daemon.clock import Clock
from daemon.config import Server
from daemon.dispatcher import Answer, Dispatcher
from daemon.errors import InvalidRequest, RequestError
from daemon.inputs import check_constraints, check_tensor, decode_image
from daemon.ledger import Energy
from daemon.points import Model
from daemon.status import CODES, abort
from protos import jouled_pb2 as pb
from protos import jouled_pb2_grpc

if TYPE_CHECKING:
    import grpc
    from numpy.typing import NDArray

    Context = grpc.aio.ServicerContext[pb.ClassifyRequest, pb.ClassifyReply]
    StreamContext = grpc.aio.ServicerContext[pb.ClassifyRequest, pb.ClassifyStreamReply]

# How many requests of one stream are served at the same time; further ones wait in the transport.
STREAM_CONCURRENCY = 64


class Classifier(jouled_pb2_grpc.ClassifierServicer):
    """Answers classification requests."""

    def __init__(self, dispatcher: Dispatcher, server: Server, clock: Clock) -> None:
        self._dispatcher = dispatcher
        self._server = server
        self._clock = clock

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyReply:  # noqa: N802
        """Answer one request."""
        try:
            return await self._classify(request, context.time_remaining())
        except RequestError as error:
            await abort(context, error)

    async def ClassifyStream(  # noqa: N802
        self, requests: AsyncIterator[pb.ClassifyRequest], context: StreamContext
    ) -> None:
        """Answer requests of a stream as they become ready."""
        slots = asyncio.Semaphore(STREAM_CONCURRENCY)
        writing = asyncio.Lock()

        async def serve(request: pb.ClassifyRequest) -> None:
            try:
                outcome = pb.ClassifyStreamReply(reply=await self._classify(request, None))
            except RequestError as error:
                code: int = CODES[type(error)].value[0]
                outcome = pb.ClassifyStreamReply(error=pb.Error(code=code, message=str(error), tag=request.tag))
            # gRPC fails a call that is written to twice at a time. A slow reader holds its slots.
            async with writing:
                await context.write(outcome)
            slots.release()

        async with asyncio.TaskGroup() as group:
            async for request in requests:
                await slots.acquire()
                group.create_task(serve(request))

    async def _classify(self, request: pb.ClassifyRequest, remaining_seconds: float | None) -> pb.ClassifyReply:
        model = self._dispatcher.fleet.find(request.model, request.version)
        images = await self._images(request, model)
        maximum = request.max_energy_joules if request.HasField("max_energy_joules") else None
        wanted = check_constraints(
            self._clock(), remaining_seconds, self._server, len(images), maximum, request.min_accuracy
        )
        answer = await self._dispatcher.classify(model.points, images, wanted)
        return _reply(request, model, answer)

    async def _images(self, request: pb.ClassifyRequest, model: Model) -> NDArray[np.generic]:
        spec = model.manifest.input
        given = request.WhichOneof("input")
        if given == "tensor":
            tensor = request.tensor
            return check_tensor("tensor", tensor.dtype, tensor.shape, tensor.data, spec, batch_limit=1)
        if given == "image":
            return await decode_image("image", request.image, spec, self._server.image_pixels_limit)
        raise InvalidRequest("input", "neither a tensor nor an image is given")


def _reply(request: pb.ClassifyRequest, model: Model, answer: Answer) -> pb.ClassifyReply:
    point, scores, names = answer.point, answer.scores[0], model.manifest.labels
    best = (
        [int(scores.argmax())] if request.top_k <= 1 else np.argsort(-scores, kind="stable")[: request.top_k].tolist()
    )
    return pb.ClassifyReply(
        request_id=answer.request_id,
        labels=[pb.Label(name=names[index], index=index, score=scores[index]) for index in best],
        model=model.name,
        version=model.version,
        variant=point.variant,
        artifact_digest=point.digest,
        device=point.device,
        simulated=point.simulated,
        steps=answer.steps,
        policy=answer.policy,
        energy=energy_report(answer.energy),
        device_seconds=answer.device_seconds,
        queue_seconds=answer.queue_seconds,
        journaled=answer.journaled,
        tag=request.tag,
    )


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
