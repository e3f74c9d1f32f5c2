"""What the Open Inference Protocol tells of models: metadata, configuration, the repository's index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from daemon.clock import NANO
from protos import open_inference_pb2 as pb

if TYPE_CHECKING:
    from daemon.points import Model, Point

DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
PLATFORM = "jouled"


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


def index(models: Iterable[Model], serves: Callable[[Model], bool]) -> Iterator[pb.RepositoryIndexResponse.ModelIndex]:
    """List the versions of models, each with whether it is served, or why not."""
    for model in models:
        ready = serves(model)
        yield pb.RepositoryIndexResponse.ModelIndex(
            name=model.name,
            version=model.version,
            state="READY" if ready else "UNAVAILABLE",
            reason="" if ready else "no device that could serve it is up",
        )
