"""`jouled tune`: from the artifacts of one version of a model to those of the next, with the report in a folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import onnx

from hal import artifact
from hal.errors import ArtifactError
from models import compiler, measure, onnx_import, spiking, tune, tuning_report, writer
from models.compiler import DNN, INT8, SNN
from models.data import calibration
from models.errors import ConversionError
from models.figures import Chip
from models.tune import Limits, Search, Tuner, Way
from models.tuning_report import Report, Row, Trial

if TYPE_CHECKING:
    from collections.abc import Callable

    from hal.artifact import Artifact, OperatingPoint
    from models.data.images import Images
    from models.figures import Figures

STUDY = "study.log"
ONNX = "model.onnx"
# What a model may be compared with runs at most so long.
LONGEST_UNTUNED = 64


@dataclass(frozen=True)
class Job:
    """What to tune: the folder `model/version`, the data set, where the report goes, and how hard to search."""

    folder: Path
    data: Path
    report: Path
    trials: int
    images: int
    limits: Limits
    command: str


def tune_model(job: Job, out: Path, progress: Callable[[int], Callable[[], Any]]) -> tuple[Report, list[Artifact]]:
    """Tune and write the tuned version to `out`, `model/version`; other variants are copied.

    `progress` is told how many trials are missing, and gives what is to be called after each. Raises `ArtifactError`,
    `ConversionError`, `DataError`, `CapacityError`, `OSError`; then no artifact is written, but the search can go on.
    """
    compiler.check_free(out, replace=False)
    source = artifact.read(job.folder / DNN)
    if ONNX not in source.files:
        raise ArtifactError(source.name, f"holds no {ONNX} to convert")
    chain = onnx_import.read(onnx.load_model_from_string(source.files[ONNX]))
    data = calibration.load(job.data, chain.shape)
    chosen = compiler.some(data.training, job.images)
    subject = spiking.prepare(chain, compiler.picture_values(chosen, chain))
    tuner = Tuner(subject, chosen.labels, job.limits)
    untuned = tuner.untuned()
    study = job.report / STUDY
    identity = hashlib.sha256(repr((source.digest, data.data, job.images, job.limits)).encode()).hexdigest()
    if study.exists():
        # A search of something else is refused before the work begins.
        Search(tuner, study, identity)
    fewest = tuner.fewest_steps()
    job.report.mkdir(parents=True, exist_ok=True)
    search = Search(tuner, study, identity)
    search.start_from(fewest.steps)
    search.run(job.trials, progress(max(0, job.trials - search.done)))
    best = search.cheapest() or fewest
    held_out = data.held_out
    reached = held_out_figures(best, held_out)
    _check_reached(reached.accuracy, best.steps, job.limits)
    steps, before = tune.comparable(untuned, held_out, reached.accuracy, LONGEST_UNTUNED)
    calibrated = tuner.calibrated(min(steps, job.limits.longest)).network
    rows = [
        Row("untuned: percentile, potentials at 0", steps, 0, before),
        Row("1: thresholds, potentials and biases", steps, 0, held_out_figures(Way("", calibrated, steps), held_out)),
        Row("2: fewest time steps", fewest.steps, 0, held_out_figures(fewest, held_out)),
        Row("search", best.steps, best.margin, reached),
    ]
    report = Report(
        f"{source.model}/{source.version}", data.data, data.held_out_note, rows, _trials(search),
        before.dynamic_joules / reached.dynamic_joules,
    )  # fmt: skip
    tuning_report.write(report, job.report)
    return report, _write(job, out, best, held_out)


def _check_reached(accuracy: float, steps: int, limits: Limits) -> None:
    if limits.min_accuracy is not None and accuracy < limits.min_accuracy:
        raise ConversionError(
            "accuracy",
            f"{100 * limits.min_accuracy:.2f} % is not reached on the held-out images; the best found is "
            f"{100 * accuracy:.2f} % at {steps} steps",
        )


def held_out_figures(way: Way, held_out: Images) -> Figures:
    """Run the held-out images."""
    bench = measure.Bench(way.network)
    outcome = bench.run(bench.encode(held_out.pictures()), way.steps, way.margin)
    return Chip(way.network).figures(outcome, held_out.labels)


def _trials(search: Search) -> list[Trial]:
    front = {trial.number for trial in search.front()}
    found = []
    for trial in search.complete():
        accuracy, latency_seconds, dynamic_joules = trial.values
        found.append(Trial(dict(trial.params), accuracy, latency_seconds, dynamic_joules, best=trial.number in front))
    return found


def operating_points(best: Way, held_out: Images) -> tuple[OperatingPoint, ...]:
    """Measure the chosen way, and fewer and more steps of the same network; keep what no other beats."""
    counts = sorted({best.steps, *(count for count in tune.STEPS if count <= 2 * best.steps)})
    margins = sorted({best.margin, best.margin // 2, best.margin * 2} - {0}) if best.margin else []
    ways = [(steps, 0) for steps in counts] + [(best.steps, margin) for margin in margins if best.steps > 1]
    points = measure.snn_points(best.network, held_out.pictures(), held_out.labels, ways)
    kept = [
        point
        for point in points
        if (point.steps, point.margin) == (best.steps, best.margin)
        or not any(
            other.accuracy >= point.accuracy and measure.joules(other) < measure.joules(point) for other in points
        )
    ]
    return tuple(kept)


def _write(job: Job, out: Path, best: Way, held_out: Images) -> list[Artifact]:
    """Write the tuned network beside copies of the other variants."""
    variants: dict[str, Any] = {}
    for name in (DNN, INT8):
        if (job.folder / name).exists():
            copied = artifact.read(job.folder / name)
            variants[name] = (copied.manifest, copied.files)
    manifest = artifact.read(job.folder / SNN).manifest
    origin = msgspec.structs.replace(manifest.origin, command=job.command)
    points = operating_points(best, held_out)
    tuned = msgspec.structs.replace(manifest, operating_points=points, origin=origin)
    variants[SNN] = (tuned, writer.snn_files(best.network))
    return compiler.write_variants(variants, out)


def next_version(folder: Path) -> Path:
    """Give the folder of the first version after `folder`, which is `model/version`, that does not exist."""
    if not folder.name.isdecimal():
        raise ArtifactError(str(folder), "a folder model/version is needed")
    number = int(folder.name) + 1
    while (folder.parent / str(number)).exists():
        number += 1
    return folder.parent / str(number)
