"""Say what tuning changed: Markdown, JSON, and the Pareto front as a picture and as a page."""

from __future__ import annotations

import dataclasses
import html
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from models.figures import Figures

COLUMNS = ("step", "steps", "margin", "accuracy %", "latency ms", "dynamic mW", "static mW", "dynamic uJ", "total uJ")
PROVENANCE = (
    "Simulated: events counted by the engine, priced by hal/energy/loihi.py (M. Davies et al., IEEE Micro 38(1), 2018; "
    "static power after SANA-FE)."
)
STYLE = (
    "body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:right}svg{max-width:60em;height:auto}"
)


@dataclass(frozen=True)
class Row:
    """What one step of the tuning led to, on the held-out images."""

    step: str
    steps: int
    margin: int
    figures: Figures


@dataclass(frozen=True)
class Trial:
    """A trial of the search, on the calibration images. `best` ones are on the Pareto front."""

    parameters: dict[str, Any]
    accuracy: float
    latency_seconds: float
    dynamic_joules: float
    best: bool


@dataclass(frozen=True)
class Report:
    """All that a tuning found. `ratio` is the dynamic energy of the comparable untuned network over the tuned one's."""

    model: str
    data: str
    held_out: str
    rows: Sequence[Row]
    trials: Sequence[Trial]
    ratio: float

    def as_json(self) -> dict[str, Any]:
        """Give it as plain data."""
        return {
            "model": self.model,
            "data": self.data,
            "held_out": self.held_out,
            "provenance": PROVENANCE,
            "rows": [
                {"step": row.step, "steps": row.steps, "margin": row.margin, **dataclasses.asdict(row.figures)}
                for row in self.rows
            ],
            "energy_ratio": self.ratio,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }

    def as_markdown(self) -> str:
        """Give it as text with a table."""
        lines = [
            f"# Tuning of {self.model}", "",
            f"Calibrated on {self.data}; figures of {self.held_out}.",
            f"{PROVENANCE}", "",
            "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS),
            *("| " + " | ".join(cells) + " |" for cells in self.cells()), "",
            f"The tuned network takes {self.ratio:.2f} times less dynamic energy than the comparable untuned one: at",
            "the fewest time steps with which that comes within 0.3 points of the tuned accuracy, or is most accurate.",
            "",
        ]  # fmt: skip
        return "\n".join(lines)

    def cells(self) -> list[tuple[str, ...]]:
        """Give the table's cells."""
        return [
            (
                row.step, str(row.steps), str(row.margin), f"{100 * row.figures.accuracy:.2f}",
                f"{1e3 * row.figures.latency_seconds:.4f}", f"{1e3 * row.figures.dynamic_watts:.2f}",
                f"{1e3 * row.figures.static_watts:.2f}", f"{1e6 * row.figures.dynamic_joules:.3f}",
                f"{1e6 * row.figures.total_joules:.3f}",
            )
            for row in self.rows
        ]  # fmt: skip


def write(report: Report, folder: Path) -> None:
    """Write `report.md`, `report.json`, `pareto.png` and `pareto.html` into a folder."""
    (folder / "report.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")
    (folder / "report.md").write_text(report.as_markdown())
    (folder / "pareto.png").write_bytes(plot(report, "png"))
    (folder / "pareto.html").write_text(page(report))


def plot(report: Report, kind: str) -> bytes:
    """Draw accuracy over dynamic energy, the latency as colour; `kind` is `png` or `svg`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    energies = [1e6 * trial.dynamic_joules for trial in report.trials]
    accuracies = [100 * trial.accuracy for trial in report.trials]
    latencies = [1e3 * trial.latency_seconds for trial in report.trials]
    dots = axes.scatter(energies, accuracies, c=latencies, s=14, cmap="viridis")
    figure.colorbar(dots, label="modelled latency / ms")
    front = sorted((1e6 * trial.dynamic_joules, 100 * trial.accuracy) for trial in report.trials if trial.best)
    axes.plot(*zip(*front, strict=True), "o", mfc="none", color="crimson", label="Pareto front (three objectives)")
    axes.set(
        xscale="log", xlabel="simulated dynamic energy per image / uJ", ylabel="accuracy on calibration images / %",
        title=f"{report.model}: {len(report.trials)} trials",
    )  # fmt: skip
    axes.legend(loc="lower right")
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=120)
    return stream.getvalue()


def page(report: Report) -> str:
    """Give one page that needs nothing else: the plot, the steps and the trials on the front."""
    drawing = plot(report, "svg").decode()
    drawing = drawing[drawing.index("<svg") :]
    best = sorted((trial for trial in report.trials if trial.best), key=lambda trial: trial.dynamic_joules)
    names = list(best[0].parameters) if best else []
    rows = [
        [
            f"{100 * trial.accuracy:.2f}", f"{1e3 * trial.latency_seconds:.4f}", f"{1e6 * trial.dynamic_joules:.3f}",
            *(_shown(trial.parameters[name]) for name in names),
        ]
        for trial in best
    ]  # fmt: skip
    title = html.escape(f"Tuning of {report.model}")
    front = _table(("accuracy %", "latency ms", "dynamic uJ", *names), rows)
    parts = [
        f"<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1><p>{html.escape(PROVENANCE)}</p>{drawing}",
        f"<h2>Steps, on {html.escape(report.held_out)}</h2>{_table(COLUMNS, report.cells())}",
        f"<h2>Pareto front, on calibration images</h2>{front}</html>\n",
    ]
    return "".join(parts)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
