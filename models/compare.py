"""The study's table for a model: its spiking variant on Loihi against its dense one on the NCS2, both simulated."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hal import artifact
from hal.dense import DenseNetwork
from hal.device import Kind
from hal.energy.loihi import Events
from hal.errors import ArtifactError
from hal.snn.reader import read_network
from models import figures, measure
from models.data import folder as folders
from models.errors import DataError
from models.figures import Chip, Figures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hal.artifact import Artifact, OperatingPoint
    from models.data.images import Images

LOIHI, NCS2 = "loihi-sim", "ncs2-sim"
PROVENANCE = {
    LOIHI: "simulated: counted events, energies of Davies et al., IEEE Micro 38(1), 2018; static power of SANA-FE",
    NCS2: "simulated: power and time of the logs of abr/power_benchmarks, time per multiplication of prg_prgncs",
}
# Less power and less energy per inference of the SNN on Loihi, in ratios: "Energy-Efficient Deployment of Machine
# Learning Workloads on Neuromorphic Hardware" (IGSC 2022), headline; ASL digits: arXiv 2207.12559.
PUBLISHED = {"headline, up to": (27.0, 5.0), "ASL digits": (20.64, 4.10)}
# The spiking point that the ratios are of may be so far below the dense network, else the most accurate is taken.
COMPARABLE_LOSS = 0.01
COLUMNS = (
    "variant", "device", "steps", "accuracy %", "latency ms", "static W", "dynamic W", "dynamic mJ", "total mJ",
)  # fmt: skip
BATCH = 64


@dataclass(frozen=True)
class Row:
    """One variant at one operating point: the most `steps` that an image takes, and their mean with early exit."""

    variant: str
    device: str
    steps: int
    mean_steps: float
    figures: Figures

    @property
    def shown_steps(self) -> str:
        """Give the steps, with their mean where that is another."""
        return str(self.steps) if self.mean_steps == self.steps else f"{self.steps}, mean {self.mean_steps:.2f}"


@dataclass(frozen=True)
class Comparison:
    """All operating points of both kinds, and the two that the ratios are of. `images` is 0 for manifests' figures."""

    model: str
    images: int
    rows: Sequence[Row]
    spiking: Row
    dense: Row

    @property
    def ratios(self) -> dict[str, float]:
        """Give how many times more the dense network takes: power and energy with their static share, and time."""
        one, other = self.dense.figures, self.spiking.figures
        return {
            "power": (one.static_watts + one.dynamic_watts) / (other.static_watts + other.dynamic_watts),
            "energy": one.total_joules / other.total_joules,
            "latency": one.latency_seconds / other.latency_seconds,
        }

    def as_json(self) -> dict[str, Any]:
        """Give it as plain data."""
        rows = [
            {
                "variant": row.variant,
                "device": row.device,
                "steps": row.steps,
                **dataclasses.asdict(row.figures),
                "provenance": PROVENANCE[row.device],
            }
            for row in self.rows
        ]
        return {"model": self.model, "images": self.images, "rows": rows, "ratios": self.ratios}

    def cells(self) -> list[tuple[str, ...]]:
        """Give the table's cells."""
        return [
            (
                row.variant, row.device, row.shown_steps,
                f"{100 * row.figures.accuracy:.2f}", f"{1e3 * row.figures.latency_seconds:.4f}",
                f"{row.figures.static_watts:.4f}", f"{row.figures.dynamic_watts:.4f}",
                f"{1e3 * row.figures.dynamic_joules:.5f}", f"{1e3 * row.figures.total_joules:.5f}",
            )
            for row in self.rows
        ]  # fmt: skip

    def ratio_cells(self) -> list[tuple[str, ...]]:
        """Give the ratios beside the published ones; a published latency is what power and energy imply."""
        ratios = self.ratios
        dynamic = self.dense.figures.dynamic_watts / self.spiking.figures.dynamic_watts
        dynamic_energy = self.dense.figures.dynamic_joules / self.spiking.figures.dynamic_joules
        here = [
            (f"{self.model}, total", ratios["power"], ratios["energy"], ratios["latency"]),
            (f"{self.model}, dynamic only", dynamic, dynamic_energy, ratios["latency"]),
        ]
        there = [(f"published, {name}", power, energy, energy / power) for name, (power, energy) in PUBLISHED.items()]
        return [(name, *(f"{number:.2f}" for number in numbers)) for name, *numbers in (*here, *there)]

    def reasons(self) -> list[str]:
        """Say where the ratios agree with the published ones, and why they differ."""
        ratios = self.ratios
        headline = PUBLISHED["headline, up to"]
        agree = "as published" if ratios["power"] > 1 and ratios["energy"] > 1 else "other than published"
        less = f"{ratios['power']:.1f} times less power and {ratios['energy']:.1f} times less energy"
        words = [f"The spiking network takes {less}: the direction is {agree}."]
        if (ratios["power"] > ratios["energy"]) != (headline[0] > headline[1]):
            words.append(
                "The published power ratio exceeds the energy ratio: there Loihi took about "
                f"{headline[0] / headline[1]:.1f} times longer per inference than the stick. Here it is modelled to be "
                f"{ratios['latency']:.1f} times quicker, since only events and barriers are counted: neither the host "
                "that feeds a board of Loihi nor its input and output per step is in the model."
            )
        if ratios["power"] < headline[0]:
            words.append(
                "The power ratio is smaller than the headline's, because the static power of whole chips and of their "
                f"used cores ({self.spiking.figures.static_watts:.3f} W) is charged to the spiking network; the ratio "
                "without it is in the table."
            )
        words.append(
            "Networks differ as well: the ratio of energies falls with the size of a spiking network and rises with "
            "early exit, while the stick's time is mostly a fixed 2.15 ms per request. Nothing here is measured."
        )
        return words

    def as_markdown(self) -> str:
        """Give it as text with tables."""
        of = f"{self.images} images" if self.images else "the held-out images of its manifests"
        tables = (
            (COLUMNS, self.cells()),
            (("less than the DNN on the NCS2", "power", "energy", "latency"), self.ratio_cells()),
        )
        lines = [f"# {self.model}: spiking on Loihi against dense on the NCS2", "", f"Figures of {of}.", ""]
        for columns, rows in tables:
            lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
            lines += ["| " + " | ".join(row) + " |" for row in rows]
            lines.append("")
        lines += [f"- {device}: {source}" for device, source in PROVENANCE.items()]
        return "\n".join([*lines, "", *self.reasons(), ""])


def compare(folder: Path, data: Path | None = None) -> Comparison:
    """Compare the variants in `folder`, which is `model/version`.

    With the folder of a data set, all its test images are run; else the figures are those of the manifests. Raises
    `ArtifactError`, `CapacityError` where the network cannot be placed, and `DataError`.
    """
    spiking, dense = _variant(folder, Kind.SNN), _variant(folder, Kind.DNN)
    images = None if data is None else _images(data, dense)
    rows = [*_spiking_rows(spiking, images), _dense_row(dense, images)]
    floor = rows[-1].figures.accuracy - COMPARABLE_LOSS
    good = [row for row in rows[:-1] if row.figures.accuracy >= floor]
    chosen = min(good, key=_energy) if good else max(rows[:-1], key=lambda row: (row.figures.accuracy, -_energy(row)))
    name = f"{dense.model}/{dense.version}"
    return Comparison(name, 0 if images is None else len(images), rows, chosen, rows[-1])


def _energy(row: Row) -> float:
    return row.figures.dynamic_joules


def _variant(folder: Path, kind: Kind) -> Artifact:
    """Give the variant of a kind that runs on accelerators."""
    if not folder.is_dir():
        raise ArtifactError(str(folder), "is not a folder model/version")
    for path in sorted(path for path in folder.iterdir() if artifact.NAME.fullmatch(path.name)):
        found = artifact.read(path)
        if found.manifest.kind is kind and not found.manifest.drivers:
            return found
    raise ArtifactError("/".join(folder.parts[-2:]), f"has no variant of kind {kind.value}")


def _images(data: Path, dense: Artifact) -> Images:
    shape = dense.manifest.input.shape
    wanted = (1, *shape) if len(shape) == 2 else shape
    if len(wanted) != 3:
        raise DataError(str(data), f"{dense.name} takes {list(shape)}, which is no picture")
    images = folders.load(data, "test", (wanted[0], wanted[1], wanted[2]))
    if int(images.labels.max()) >= len(dense.manifest.labels):
        figure = f"a label {images.labels.max()}, {dense.name} has {len(dense.manifest.labels)} classes"
        raise DataError(str(data), f"has {figure}")
    return images


def _spiking_rows(spiking: Artifact, images: Images | None) -> list[Row]:
    network = read_network(spiking)
    chip, bench = Chip(network), measure.Bench(network)
    bias = None if images is None else bench.encode(images.pictures())
    rows = []
    for point in spiking.manifest.operating_points:
        if bias is None or images is None:
            cost, steps = _from_manifest(chip, point), point.mean_steps or point.steps
        else:
            outcome = bench.run(bias, point.steps, point.margin)
            cost, steps = chip.figures(outcome, images.labels), float(outcome.steps.mean())
        rows.append(Row(spiking.variant, LOIHI, point.steps, steps, cost))
    return rows


def _from_manifest(chip: Chip, point: OperatingPoint) -> Figures:
    """Price a manifest's mean counts, which it has for the network as a whole."""
    counts = Events(point.synaptic_operations, point.active_updates, point.inactive_updates)
    return chip.estimate(counts, point.mean_steps or point.steps, point.accuracy)


def _dense_row(dense: Artifact, images: Images | None) -> Row:
    accuracy = dense.manifest.operating_points[0].accuracy
    if images is not None:
        network = DenseNetwork(dense, threads=2, half_precision=True)
        pixels = images.pixels.reshape(len(images), *dense.manifest.input.shape)
        scores = np.concatenate([network(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])
        accuracy = measure.accuracy(scores, images.labels)
    return Row(dense.variant, NCS2, 1, 1, figures.stick(accuracy, dense.manifest.multiplies))


def write(comparison: Comparison, folder: Path) -> None:
    """Write `compare.json`, `compare.md` and `compare.png` into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(comparison.as_json(), indent=2) + "\n")
    (folder / "compare.md").write_text(comparison.as_markdown())
    (folder / "compare.png").write_bytes(plot(comparison))


def plot(comparison: Comparison) -> bytes:
    """Draw power, energy and latency of the two compared rows as a PNG, in logarithmic bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    compared = (comparison.spiking.figures, comparison.dense.figures)
    bars_of = {
        "power / W": [each.static_watts + each.dynamic_watts for each in compared],
        "energy per image / mJ": [1e3 * each.total_joules for each in compared],
        "latency / ms": [1e3 * each.latency_seconds for each in compared],
    }
    for axes, (title, values) in zip(figure.subplots(1, len(bars_of)), bars_of.items(), strict=True):
        bars = axes.bar(["SNN, Loihi", "DNN, NCS2"], values, color=["tab:blue", "tab:orange"])
        axes.bar_label(bars, [f"{each:.3g}" for each in values])
        axes.set(title=title, yscale="log", ylim=(10 ** math.floor(math.log10(min(values)) - 1), 3 * max(values)))
    figure.suptitle(f"{comparison.model}, simulated")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
