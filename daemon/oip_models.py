"""What the Open Inference Protocol tells of models: metadata, configuration, the repository's index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from daemon.clock import NANO
from protos import open_inference_pb2 as pb

if TYPE_CHECKING:
    from daemon.points import Model, Point
    from daemon.statistics import Duration, ModelStatistics

DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
PLATFORM = "jouled"
MILLISECOND = NANO // 1000


def metadata(model: Model, versions: Iterable[str]) -> pb.ModelMetadataResponse:
    """Describe a model, with the nominal energies of its operating points among its properties."""
    spec, tensor = model.manifest.input, pb.ModelMetadataResponse.TensorMetadata
    properties = {}
    for point in model.points:
        properties[f"{_name(point)}.energy_joules"] = repr(point.dynamic_nanojoules / NANO)
        properties[f"{_name(point)}.energy_provenance"] = point.provenance
        properties[f"{_name(point)}.accuracy"] = repr(point.accuracy)
        properties[f"{point.variant}.artifact_digest"] = point.digest
    return pb.ModelMetadataResponse(
        name=model.name,
        versions=sorted(versions, key=int),
        platform=PLATFORM,
        inputs=[tensor(name=spec.name, datatype=DATATYPES[spec.dtype], shape=[-1, *spec.shape])],
        outputs=[tensor(name=model.manifest.output, datatype="FP32", shape=[-1, len(model.manifest.labels)])],
        properties=properties,
    )


def _name(point: Point) -> str:
    return f"{point.variant}.{point.device}.{point.steps}" + (f".margin{point.margin}" if point.margin else "")


def config(model: Model, batch_limit: int) -> pb.ModelConfigResponse:
    """Give the configuration as Triton would; its dims leave the batch out."""
    spec, manifest = model.manifest.input, model.manifest
    return pb.ModelConfigResponse(
        config=pb.ModelConfig(
            name=model.name,
            platform=PLATFORM,
            backend=PLATFORM,
            version_policy=pb.ModelVersionPolicy(all=pb.ModelVersionPolicy.All()),
            max_batch_size=batch_limit,
            input=[
                pb.ModelInput(
                    name=spec.name,
                    data_type=f"TYPE_{DATATYPES[spec.dtype]}",
                    dims=spec.shape,
                )
            ],
            output=[pb.ModelOutput(name=manifest.output, data_type=pb.TYPE_FP32, dims=[len(manifest.labels)])],
        )
    )


def index(
    models: Iterable[Model], unloaded: Iterable[tuple[str, str]], serves: Callable[[Model], bool]
) -> Iterator[pb.RepositoryIndexResponse.ModelIndex]:
    """List the versions of models, each with whether it is served, or why not."""
    entry = pb.RepositoryIndexResponse.ModelIndex
    for model in models:
        if serves(model):
            yield entry(name=model.name, version=model.version, state="READY")
        else:
            reason = "; ".join(model.problems) or "no device that could serve it is up"
            yield entry(name=model.name, version=model.version, state="UNAVAILABLE", reason=reason)
    for name, version in unloaded:
        yield entry(name=name, version=version, state="UNAVAILABLE", reason="unloaded")


def statistics(model: Model, sums: ModelStatistics) -> pb.ModelStatistics:
    """Give the sums as Triton does. Decoding and encoding are not timed apart: their times are 0."""
    untimed = pb.StatisticDuration(count=sums.success.count)
    return pb.ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=sums.last_accepted_unix // MILLISECOND,
        inference_count=sums.images,
        execution_count=sums.executions,
        inference_stats=pb.InferStatistics(
            success=_duration(sums.success),
            fail=_duration(sums.fail),
            queue=_duration(sums.queue),
            compute_input=untimed,
            compute_infer=_duration(sums.compute),
            compute_output=untimed,
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=size,
                compute_input=pb.StatisticDuration(count=runs.count),
                compute_infer=_duration(runs),
                compute_output=pb.StatisticDuration(count=runs.count),
            )
            for size, runs in sorted(sums.batches.items())
        ],
    )


def _duration(sums: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=sums.count, ns=sums.nanoseconds)
