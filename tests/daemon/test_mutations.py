"""Altered requests and artifacts by the thousand: a tenth of them here, all under `make soak`."""

from __future__ import annotations

import io
import os
import re
import shutil
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from PIL import Image

from daemon.repository import SHIPPED
from hal import artifact, signature
from hal.artifact import MANIFEST
from hal.errors import ArtifactError
from hal.signature import SIGNATURE
from protos import jouled_pb2 as pb
from protos import open_inference_pb2 as oip
from tests.daemon.refusals import INSIDE
from tests.daemon.serving import CALL_SECONDS, Daemon, digit_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message
    from numpy.typing import NDArray

    Record = Callable[[str, Any], None]

SHARE = 1 if os.environ.get("JOULED_SOAK_SECONDS") else 10
REQUESTS = 100_000 // SHARE
ARTIFACTS = 5_000 // SHARE
IN_FLIGHT = 64
FLAWS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS}
# What a message quotes is the client's own.
QUOTED = re.compile(r"'(\\.|[^'\\])*'|\"(\\.|[^\"\\])*\"")


def altered(content: bytes, chance: np.random.Generator) -> bytes:
    """Change some bytes: other values, fewer, more, or some of them twice."""
    found = bytearray(content)
    for _ in range(chance.integers(1, 4, endpoint=True)):
        place, length = int(chance.integers(len(found) + 1)), int(chance.integers(1, 9))
        match int(chance.integers(5)):
            case 0 if place < len(found):
                found[place] ^= 1 << int(chance.integers(8))
            case 1 if place < len(found):
                found[place] = int(chance.integers(256))
            case 2:
                del found[place : place + length]
            case 3:
                found[place:place] = chance.bytes(length)
            case _:
                found[place:place] = found[max(place - length, 0) : place]
    return bytes(found)


def sound_requests(image: NDArray[np.uint8]) -> list[tuple[str, Message]]:
    """Give sound requests by method, of both services; those that carry images three times, as they hold the most."""
    raw = oip.ModelInferRequest(model_name="digits", id="a", raw_input_contents=[image.tobytes()])
    raw.inputs.add(name="image", datatype="UINT8", shape=[1, 8, 8])
    raw.parameters["max_energy_joules"].double_param = 1.0
    typed = oip.ModelInferRequest(model_name="digits", model_version="1")
    typed.inputs.add(name="image", datatype="UINT8", shape=[1, 8, 8]).contents.uint_contents.extend(
        image.ravel().tolist()
    )
    typed.outputs.add(name="scores").parameters["classification"].int64_param = 3
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG")
    picture = pb.ClassifyRequest(model="digits", image=png.getvalue(), top_k=3)
    classify, infer = "jouled.v1.Classifier/Classify", "inference.GRPCInferenceService/ModelInfer"
    others: dict[str, Message] = {
        "ModelReady": oip.ModelReadyRequest(name="digits", version="1"),
        "ModelMetadata": oip.ModelMetadataRequest(name="digits"),
        "ModelConfig": oip.ModelConfigRequest(name="digits"),
        "ModelStatistics": oip.ModelStatisticsRequest(name="digits"),
        "RepositoryIndex": oip.RepositoryIndexRequest(ready=True),
        "RepositoryModelLoad": oip.RepositoryModelLoadRequest(model_name="digits"),
        "RepositoryModelUnload": oip.RepositoryModelUnloadRequest(model_name="digits"),
    }
    return [
        *3
        * [
            (classify, digit_request(image, tag="a", min_accuracy=0.5)),
            (classify, picture),
            (infer, raw),
            (infer, typed),
        ],
        *((f"inference.GRPCInferenceService/{name}", request) for name, request in others.items()),
    ]


def test_altered_requests(daemon: Daemon, image: NDArray[np.uint8], record_property: Record) -> None:
    """Whatever is sent, it is answered or refused in words fit for clients, and the daemon answers as before."""
    chance = np.random.default_rng(8)
    sound = [(method, request.SerializeToString()) for method, request in sound_requests(image)]
    calls = {method: daemon.inference_channel.unary_unary(f"/{method}", bytes, bytes) for method, _ in sound}

    def made() -> Iterator[tuple[str, bytes]]:
        for _ in range(REQUESTS):
            method, content = sound[int(chance.integers(len(sound)))]
            yield method, altered(content, chance)

    sent, ends = made(), dict[grpc.StatusCode, int]()
    while batch := list(islice(sent, IN_FLIGHT)):
        under_way = [calls[method].future(content, timeout=CALL_SECONDS) for method, content in batch]
        for (method, content), call in zip(batch, under_way, strict=True):
            code, said = call.code(), call.details() or ""
            assert code not in FLAWS, (method, content.hex(), said)
            assert not INSIDE.search(QUOTED.sub("", said)), (method, content.hex(), said)
            ends[code] = ends.get(code, 0) + 1
    assert sum(ends.values()) == REQUESTS
    record_property("altered", REQUESTS)
    record_property("internal_errors", sum(ends.get(flaw, 0) for flaw in FLAWS))
    # Alterations were small enough to get past the first check, and large enough to be found.
    assert min(ends[grpc.StatusCode.OK], ends[grpc.StatusCode.INVALID_ARGUMENT]) > REQUESTS // 50, ends
    assert daemon.classify(image).labels[0].name == "0"
    assert daemon.status().budget.reserved_nanojoules == 0


def _extra(path: Path) -> None:
    path.with_name("extra").write_bytes(b"")


def _link(path: Path) -> None:
    path.rename(path.parent.with_name("moved"))
    path.symlink_to(path.parent.with_name("moved"))


def _exchange(path: Path) -> None:
    other = next(each for each in path.parent.iterdir() if each != path)
    kept = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(kept)


@pytest.mark.parametrize("variant", ["snn", "dnn"])
def test_altered_artifacts(tmp_path: Path, variant: str, record_property: Record) -> None:
    """No artifact is accepted of which anything was altered since it was signed, whatever was altered."""
    chance, key = np.random.default_rng(8), signature.new_private_key()
    signed, folder = tmp_path / "signed" / "digits" / "1" / variant, tmp_path / "digits" / "1" / variant
    shutil.copytree(SHIPPED / "digits" / "1" / variant, signed)
    (signed / SIGNATURE).write_bytes(signature.sign(key, f"digits/1/{variant}", artifact.read(signed).digest))
    trusted = [signature.public_key(key)]
    names = sorted(path.name for path in signed.iterdir())
    odd: list[Callable[[Path], None]] = [Path.unlink, _extra, _link, _exchange]
    refused = 0
    for _ in range(ARTIFACTS // 2):
        shutil.copytree(signed, folder)
        victim = folder / str(chance.choice(names))
        if chance.random() < 0.1:
            odd[int(chance.integers(len(odd)))](victim)
        else:
            content = victim.read_bytes()
            while (changed := altered(content, chance)) == content:
                pass
            victim.write_bytes(changed)
        with pytest.raises(ArtifactError):
            artifact.read(folder, trusted)
        # Without a key, the digests alone find what is not the manifest's or the signature's own.
        if victim.name not in {MANIFEST, SIGNATURE}:
            with pytest.raises(ArtifactError):
                artifact.read(folder)
        shutil.rmtree(folder)
        refused += 1
    record_property("altered", ARTIFACTS // 2)
    record_property("accepted", ARTIFACTS // 2 - refused)
    assert refused == ARTIFACTS // 2
    assert artifact.read(signed, trusted).name == f"digits/{variant}"
