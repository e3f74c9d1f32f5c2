"""Compile a trained network: from ONNX to a dense artifact, one in 8-bit integers, and a spiking one."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hal import artifact
from hal.artifact import FORMAT, Artifact, Manifest, OperatingPoint, Origin, TensorSpec
from hal.dense import DenseNetwork
from hal.device import Kind
from hal.errors import ArtifactError, CapacityError
from hal.runtimes import default_directory
from hal.snn.placement import CORES_PER_CHIP, place
from models import fold, ir, measure, ncs2, onnx_export, onnx_file, onnx_import, spiking, writer
from models.calibrate import PERCENTILE
from models.chain import Chain, Pool
from models.convert import WEIGHT_BITS, Target
from models.data import calibration
from models.errors import ConversionError, DataError
from models.fold import Affine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from hal.snn.network import Network
    from models.convert import Reset
    from models.data.calibration import Calibration
    from models.data.images import Images

DNN, INT8, SNN = "dnn", "dnn-int8", "snn"
# Drivers.
CPU, NCS2 = "cpu", "ncs2"
DEFAULT_STEPS = 8
DEFAULT_IMAGES = 1000
# With early exit, the share of calibration images that are to end after the first steps.
SHARES = (0.9, 0.7)
BATCH = 64
# What float32 rounding may move scores by, relative to the largest.
SCORE_TOLERANCE = 1e-3
CHIPS_LIMIT = 64


# Manifest and files by the name of the variant.
Variants = dict[str, tuple[Manifest, dict[str, bytes]]]


@dataclass(frozen=True)
class Options:
    """How to compile. `mean` and `std` of the picture in [0, 1], channel by channel, as the network was trained.

    `steps` is the number of time steps to calibrate for, `images` how many calibration images are used. `labels`
    replace the names that the data set has. `command` is what the manifest says made it. With `compact`, the dense
    network stores its weights in 8 bits, as ONNX alone.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    steps: int = DEFAULT_STEPS
    images: int = DEFAULT_IMAGES
    reset: Reset = "subtract"
    bits: int = WEIGHT_BITS
    percentile: float = PERCENTILE
    labels: tuple[str, ...] = ()
    command: str = "jouled compile"
    compact: bool = False
    runtimes: Path | None = None


@dataclass(frozen=True)
class Finding:
    """One line of the report: the form of the network, its accuracy on the held-out images, and a remark."""

    form: str
    accuracy: float
    dynamic_joules: float | None = None
    remark: str = ""


@dataclass(frozen=True)
class Compiled:
    """Artifacts in memory, the `spiking` network among them, and the report of what was measured."""

    variants: Variants
    findings: list[Finding]
    subject: spiking.Subject
    spiking: Network
    data: Calibration
    capacity: str


def read_chain(path: Path, options: Options) -> Chain:
    """Read an ONNX file, with the normalisation of its pictures folded in. Raises `ConversionError`, `OSError`."""
    chain = onnx_import.read(onnx_file.read(path))
    if not options.mean and not options.std:
        return chain
    mean, std = (np.array(part, np.float64).reshape(-1, 1, 1) for part in (options.mean or (0,), options.std or (1,)))
    if {mean.size, std.size} - {1, chain.shape[0]}:
        raise ConversionError(
            "mean and std", f"{mean.size} and {std.size} numbers for pictures of {chain.shape[0]} channels"
        )
    if not (np.isfinite(mean).all() and (std > 0).all()):
        raise ConversionError("mean and std", "must be finite, and std above 0")
    return fold.ahead_of(chain, 0, Affine(1 / std, -mean / std))


def compile_file(path: Path, data_path: Path, options: Options) -> Compiled:
    """Compile an ONNX file. Raises `ConversionError`, `DataError` and `OSError`; nothing is written."""
    chain = read_chain(path, options)
    data = calibration.load(data_path, chain.shape)
    _check_labels(chain, data, options)
    values = picture_values(some(data.training, options.images), chain)
    _check_same(path, chain, values[:BATCH], options)
    return compile_chain(chain, values, data, options)


def compile_chain(chain: Chain, values: NDArray[np.float32], data: Calibration, options: Options) -> Compiled:
    """Compile what was read, with calibration `values` (N, C, H, W) in [0, 1]."""
    held_out = data.held_out
    onnx_model = onnx_export.export(chain, compact=options.compact).SerializeToString(deterministic=True)
    template = _template(data, options)
    variants, findings = {}, []
    few = values[:BATCH]
    verified = ncs2.verified(onnx_model, few, ir.run_onnx(onnx_model, few)[0], options.runtimes or default_directory())
    # Of 8-bit integers the stick knows nothing.
    dense = ir.dnn_files(onnx_model, half=True, compact=options.compact)
    for name, files, marks in (
        (DNN, dense, {"unverified": () if verified else (NCS2,)}),
        (INT8, ir.int8_files(onnx_model, values), {"drivers": (CPU,)}),
    ):
        manifest = _dense_manifest(msgspec.structs.replace(template, **marks), chain, files, held_out, name)
        variants[name] = (manifest, files)
        findings.append(Finding(f"dense, {name}", manifest.operating_points[0].accuracy))
    subject = spiking.prepare(chain, values)
    if any(isinstance(stage.operation, Pool) and stage.operation.kind == "max" for stage in chain.stages):
        findings.append(_average_finding(subject, held_out, findings[0].accuracy))
    found = spiking.candidates(subject, options.steps, Target(options.reset, options.bits), options.percentile)
    chosen = spiking.best(found)
    findings += [_spiking_finding(each, held_out, options.steps, chosen=each is chosen) for each in found]
    variants[SNN] = (
        spiking_manifest(template, chosen.network, subject, held_out, options),
        writer.snn_files(chosen.network),
    )
    return Compiled(variants, findings, subject, chosen.network, data, capacity(chosen.network))


def some(images: Images, count: int) -> Images:
    """Choose images evenly, whatever the order of the classes is."""
    if count >= len(images):
        return images
    return images.take(np.sort(np.random.default_rng(0).permutation(len(images))[:count]))


def picture_values(images: Images, chain: Chain) -> NDArray[np.float32]:
    """Give images as a chain takes them, (N, C, H, W) in [0, 1]."""
    return images.pictures().astype(np.float32).reshape(len(images), *chain.shape)


def _check_labels(chain: Chain, data: Calibration, options: Options) -> None:
    names = options.labels or data.training.names
    if len(names) != chain.classes:
        given = "given" if options.labels else "in the data set"
        raise DataError("labels", f"the network gives {chain.classes} scores, {len(names)} classes are {given}")
    highest = max(int(data.training.labels.max()), int(data.held_out.labels.max()))
    if highest >= chain.classes:
        raise DataError("labels", f"the network gives {chain.classes} scores, the data set has a label {highest}")


def _check_same(path: Path, chain: Chain, values: NDArray[np.float32], options: Options) -> None:
    """Raise unless the chain gives what OpenVINO makes of the file itself, but for a softmax."""
    mean, std = (np.array(part, np.float32).reshape(-1, 1, 1) for part in (options.mean or (0,), options.std or (1,)))
    original = ir.run_onnx(onnx_file.read(path).SerializeToString(), (values - mean) / std)[0].reshape(len(values), -1)
    scores = ir.run_onnx(onnx_export.export(chain).SerializeToString(), values)[0].astype(np.float64)
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances = exponentials / exponentials.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        forms = (scores, chances, np.log(chances))
    worst = min(float(np.abs(form - original).max() / max(np.abs(form).max(), 1e-9)) for form in forms)
    if not worst <= SCORE_TOLERANCE:
        raise ConversionError(
            path.name, f"is not understood: scores differ by {worst:.2g} of the largest from OpenVINO's"
        )


def _template(data: Calibration, options: Options) -> Manifest:
    """Give a manifest with all that the variants have in common."""
    shape = data.training.shape
    origin = Origin(
        data=data.data,
        held_out=data.held_out_note,
        accuracy="top-1 on the held-out images, measured with the daemon's engines",
        command=options.command,
    )
    return Manifest(
        format=FORMAT,
        kind=Kind.DNN,
        input=TensorSpec("image", "uint8", shape[1:] if shape[0] == 1 else shape),
        output=onnx_export.OUTPUT,
        labels=options.labels or data.training.names,
        operating_points=(OperatingPoint(0.0),),
        origin=origin,
        tool=f"jouled {importlib.metadata.version('jouled')}",
        files={},
    )


def _dense_manifest(template: Manifest, chain: Chain, files: dict[str, bytes], held_out: Images, name: str) -> Manifest:
    manifest = msgspec.structs.replace(template, multiplies=chain.multiplies)
    network = DenseNetwork(Artifact(name, "1", name, "", manifest, files), threads=os.cpu_count() or 1)
    pixels = held_out.pixels.reshape(len(held_out), *manifest.input.shape)
    scores = np.concatenate([network(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])
    point = OperatingPoint(measure.accuracy(scores, held_out.labels))
    return msgspec.structs.replace(manifest, operating_points=(point,))


def _average_finding(subject: spiking.Subject, held_out: Images, before: float) -> Finding:
    model = onnx_export.export(subject.without_max).SerializeToString()
    scores = ir.run_onnx(model, picture_values(held_out, subject.without_max))[0]
    accuracy = measure.accuracy(scores, held_out.labels)
    return Finding(
        "dense, average instead of max pooling",
        accuracy,
        remark=f"the replacement costs {100 * (before - accuracy):.2f} points",
    )


def _spiking_finding(
    candidate: spiking.Candidate, held_out: Images, steps: int, *, chosen: bool
) -> Finding:  # fmt: skip
    bench = measure.Bench(candidate.network)
    point = measure.point(bench.run(bench.encode(held_out.pictures()), steps), held_out.labels, steps)
    remark = f"agrees with the dense network on {100 * candidate.agreement:.2f} % of the calibration images"
    return Finding(
        f"spiking, {steps} steps, {candidate.step}",
        point.accuracy,
        measure.joules(point),
        remark + (", chosen" if chosen else ""),
    )


def spiking_manifest(
    template: Manifest, network: Network, subject: spiking.Subject, held_out: Images, options: Options
) -> Manifest:  # fmt: skip
    """Measure a spiking network at powers of two up to twice the steps it is calibrated for, and with early exit."""
    counts = [
        1 << exponent for exponent in range((2 * options.steps).bit_length()) if 1 << exponent <= 2 * options.steps
    ]
    longest = options.steps
    if longest not in counts:
        counts.append(longest)
    pictures = subject.values.astype(np.float64)
    margins = sorted({measure.lead(network, pictures, max(1, longest // 4), share) for share in SHARES} - {0})
    ways = [(steps, 0) for steps in sorted(counts)] + [(longest, margin) for margin in margins if margin > 0]
    points = measure.snn_points(network, held_out.pictures(), held_out.labels, ways)
    return msgspec.structs.replace(template, kind=Kind.SNN, operating_points=points)


def capacity(network: Network) -> str:
    """Say whether a network fits on Loihi 1, and on how many cores and chips."""
    try:
        placement = place(network, CHIPS_LIMIT)
    except CapacityError as error:
        return f"does not fit Loihi: {error}"
    if placement.chips > 1:
        return f"needs {placement.cores} cores on {placement.chips} chips, one chip has {CORES_PER_CHIP}"
    return f"takes {placement.cores} of the {CORES_PER_CHIP} cores of one Loihi chip"


def model_folder(out: Path, name: str) -> Path:
    """Give the folder `model/version`: `out` itself where its name is a version, and else `out`/NAME/1."""
    out = out.resolve()
    if re.fullmatch(r"[1-9][0-9]{0,8}", out.name) and artifact.NAME.fullmatch(out.parent.name):
        return out
    plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:64]
    return out / (plain or "network") / "1"


def check_free(folder: Path, *, replace: bool) -> None:
    """Raise `ArtifactError` where a variant is in the way, before anything takes its time."""
    for variant in (DNN, INT8, SNN):
        if os.path.lexists(folder / variant) and not replace:
            raise ArtifactError(
                "/".join((*folder.parts[-2:], variant)),
                "exists already; an artifact is never changed, write a new version instead, or replace it",
            )


def write_variants(variants: Variants, folder: Path, *, replace: bool = False) -> list[Artifact]:
    """Write all variants into `folder`, which is `model/version`; what was not there before goes again on failure."""
    check_free(folder, replace=replace)
    with _removed_on_failure(folder, [name for name in variants if not os.path.lexists(folder / name)]):
        return [
            writer.write(folder / name, manifest, files, replace=replace)
            for name, (manifest, files) in variants.items()
        ]


@contextlib.contextmanager
def _removed_on_failure(folder: Path, names: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for name in names:
            shutil.rmtree(folder / name, ignore_errors=True)
        raise
