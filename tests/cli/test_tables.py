"""Tables in a terminal of 80 columns: none is wider, and no word or figure in them is folded or cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len

from daemon.cli import energy, tables
from daemon.repository import SHIPPED
from models import tuning_report
from protos import jouled_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.cli.conftest import Jouled
    from tests.daemon.serving import Daemon

TERMINAL = 80
SNN = pb.EnergyRow(model="digits", variant="snn", device="loihi-sim", provenance="simulated", status="ok")
DNN = pb.EnergyRow(model="digits", variant="dnn", device="cpu", provenance="modelled", status="ok")
print_table = tables.print_table


def check(printed: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Find that a table fits, and that every word and figure of it stands in one piece. A title may be a long path."""
    assert max(map(cell_len, printed.splitlines()[1:])) <= TERMINAL, printed
    texts = [*columns, *(str(cell) for row in rows for cell in row)]
    pieces = {piece for text in texts for piece in ([text] if tables.FIGURE.fullmatch(text) else text.split())}
    assert {piece for piece in pieces if piece not in printed} == set(), printed


@pytest.mark.parametrize(
    "command",
    [
        "devices", "policy list", "policy show frugal", "models list", "models verify", "models inspect SNN",
        "runtime list", "energy", "energy --by variant", "energy --by time --since 1d", "audit STATE", "compare digits",
        "energy replay --policy frugal --config CONFIG --state-directory STATE",
    ],
)  # fmt: skip
def test_commands_fit(
    jouled: Jouled, daemon: Daemon, pictures: list[Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], command: str,
) -> None:  # fmt: skip
    """What a daemon, a journal and artifacts give, after answers under two policies."""
    for policy in ("frugal", "accurate"):
        jouled("policy", "set", policy)
        jouled("classify", "digits", *pictures)
    printed: list[tuple[Any, ...]] = []
    monkeypatch.setattr(tables, "print_table", lambda *table: printed.append(table))
    monkeypatch.setenv("COLUMNS", str(TERMINAL))
    places = {
        "STATE": daemon.places.state, "CONFIG": daemon.places.folder / "jouled.toml",
        "SNN": SHIPPED / "digits" / "1" / "snn",
    }  # fmt: skip
    assert jouled(*(places.get(word, word) for word in command.split()), columns=TERMINAL).status == 0
    assert printed
    capsys.readouterr()
    for title, columns, rows in printed:
        print_table(title, columns, rows)
        check(capsys.readouterr().out, columns, rows)


TUNED = [
    ("untuned, 8 steps", "8", "0", "99.17", "0.1442", "8.12", "107.70", "1.171", "16.702"),
    ("untuned, 4 steps", "4", "0", "98.61", "0.0721", "8.13", "107.70", "0.586", "8.351"),
    ("thresholds and early exit", "4", "736", "99.17", "0.0272", "8.09", "107.70", "0.220", "3.149"),
]
CALIBRATED = [
    ("asl-digits/snn", "16-1280", "112.1 uJ", "12.31 uJ", "118.2 uJ", "280.3 uJ", "1.93"),
    ("asl-digits/dnn", "1", "2.012 mJ", "109.8 uJ", "2.1 mJ", "5.03 mJ", "2.15"),
]
COMPILED = [
    ("dense, int8", "99.17", "", ""),
    ("spiking, 16 steps, thresholds balanced", "98.89", "1.171 uJ",
     "agrees with the dense network on 99.40 % of the calibration images, chosen"),
]  # fmt: skip
SERVED = [
    ("digits/1/snn", "loihi-sim", "8", "", "98.89%", "1.171 uJ", "0.144", "simulated"),
    ("asl-digits/1/snn", "loihi-sim", "16", "1280", "99.51%", "112.1 uJ", "19.31", "simulated"),
    ("mnist/1/dnn-int8", "ncs2-sim", "1", "", "99.44%", "2.012 mJ", "2.15", "simulated"),
]


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (tuning_report.COLUMNS, TUNED),
        (("variant", "steps", "mean", "spread", "half load", "bound", "time [ms]"), CALIBRATED),
        (("form", "accuracy %", "dynamic energy", ""), COMPILED),
        (("variant", "device", "steps", "margin", "accuracy", "dynamic", "time [ms]", "provenance"), SERVED),
    ],
)
def test_what_takes_long_fits(
    columns: tuple[str, ...], rows: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The tables of tuning, calibrating, compiling, and of a daemon with all shipped models."""
    monkeypatch.setenv("COLUMNS", str(TERMINAL))
    print_table("typical rows", columns, rows)
    printed = capsys.readouterr().out
    check(printed, columns, rows)
    assert "─" in printed


@pytest.mark.parametrize("busy", [False, True])
def test_energy_fits_while_requests_come_and_are_refused(
    busy: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stays a table with a line for each kind of answer, whatever else the rows tell; nothing of the CSV is lost."""
    monkeypatch.setenv("COLUMNS", str(TERMINAL))
    rows = []
    for policy, kind in (("balanced", SNN), ("generous", DNN), ("tight", SNN)):
        row = pb.EnergyRow(policy=policy, requests=18571, dynamic_nanojoules=2_173_000, static_nanojoules=30_196_000)
        row.MergeFrom(kind)
        rows.append(row)
    if busy:
        rows[0].provisional_requests = 7
        rows.append(pb.EnergyRow(policy="tight", status="over_budget", requests=12, provenance="modelled"))
    energy._print_rows(rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= TERMINAL
    said = " ".join(" ".join(lines).split())
    for piece in ("balanced", "generous", "tight", "18571", "2.173 mJ", "117 nJ", "simulated", "modelled", "30.2 mJ"):
        assert piece in said
    assert any(line.startswith("─") for line in lines)
    if busy:
        assert "over" in said
        assert "balanced, digits/snn on loihi-sim, ok: 7 not final yet, not in the joules" in lines
    else:
        assert lines[1] == "in all rows: status ok"
        assert len(lines) == 2 + 2 + 1 + len(rows)


def test_a_narrow_terminal_gets_paragraphs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where not even words fit beside each other, each row has a line for each column."""
    monkeypatch.setenv("COLUMNS", "22")
    print_table(
        "devices", ("device", "health", "detail"), [("loihi-sim", "up", "cores 3"), ("cpu", "lost", "it hangs")]
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:5] == [["device", "loihi-sim"], ["health", "up"], ["detail", "cores", "3"], []]
    assert lines[5:8] == [["device", "cpu"], ["health", "lost"], ["detail", "it", "hangs"]]
