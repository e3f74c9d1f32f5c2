"""Tables that fit the terminal: lines are broken between words, never within one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

# A figure and its unit stay on one line.
FIGURE = re.compile(r"[-+]?\d[\d.,-]*( ?(%|[num]?[JWs]))?")
# Spaces between columns, and what will do where room is scarce.
GAPS = (2, 1)
LEAST_ROOM = 8

Cells = Sequence[Sequence[str | Text]]


class _Content(NamedTuple):
    """What a table shows, and what stands above it instead of a column whose rows are all alike."""

    columns: list[str]
    rows: list[list[str]]
    alike: list[str]


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table. Columns of figures are flush right.

    Where there is no room for it, headers are broken into lines, and as many columns as needed whose rows are all alike
    are told in a line above. If that does not help, cells are broken into lines; as the last resort each row becomes a
    paragraph with a line for each column.
    """
    console = Console()
    console.print(Text(title, "table.title"), soft_wrap=True)
    whole = _Content(list(columns), [[str(cell) for cell in row] for row in rows], [])
    for broken, content in product((False, True), [whole, *_shortened(whole)]):
        table = fitting(content.columns, content.rows, console.width, broken=broken)
        if table is not None:
            if content.alike:
                console.print(Text(f"in all rows: {', '.join(content.alike)}", "table.title"))
            console.print(table)
            return
    for row in whole.rows:
        paragraph = Table.grid("", "", padding=(0, 2, 0, 0))
        for name, cell in zip(whole.columns, row, strict=True):
            paragraph.add_row(Text(name, "table.header", no_wrap=True), Text(cell))
        console.print(paragraph, "")


def _shortened(whole: _Content) -> Iterator[_Content]:
    """Leave out one more column each time, the last one first: of words, with a name, and with all rows alike."""
    columns, rows, alike = list(whole.columns), whole.rows, list[str]()
    for at in reversed(range(len(columns)) if len(rows) > 1 else ()):
        cells = [row[at] for row in rows]
        if columns[at] and len(set(cells)) == 1 and not _are_figures(cells):
            alike = [f"{columns.pop(at)} {cells[0] or 'none'}", *alike]
            rows = [row[:at] + row[at + 1 :] for row in rows]
            yield _Content(list(columns), rows, alike)


def fitting(columns: Sequence[str], rows: Cells, room: int, *, broken: bool) -> Table | None:
    """Make a table that is at most `room` wide, with several lines in headers and, if `broken`, in cells; else None."""
    stacks = [[row[at] for row in rows] for at in range(len(columns))]
    for gap in GAPS:
        widths = _widths(columns, stacks, room - gap * (len(columns) - 1), broken=broken)
        if widths is None:
            continue
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
        for name, cells, width in zip(columns, stacks, widths, strict=True):
            table.add_column(Text(name), justify="right" if _are_figures(cells) else "left", width=width)
        for row in rows:
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
        return table
    return None


def _widths(columns: Sequence[str], stacks: Cells, room: int, *, broken: bool) -> list[int] | None:
    """Give each column as much of the room as it needs at least, then of what is left as much as it can use."""
    least = [
        max(_longest_word(name), *(_longest_word(cell) if broken else cell_len(str(cell)) for cell in cells), 0)
        for name, cells in zip(columns, stacks, strict=True)
    ]
    useful = [max(cell_len(str(each)) for each in (name, *cells)) for name, cells in zip(columns, stacks, strict=True)]
    spare = room - sum(least)
    if spare < 0:
        return None
    # Who needs least is served first, so that lines are broken in as few columns as possible.
    order = sorted(range(len(columns)), key=lambda column: useful[column] - least[column])
    for served, column in enumerate(order):
        more = min(useful[column] - least[column], spare // (len(order) - served))
        least[column] += more
        spare -= more
    return least


def _are_figures(cells: Sequence[str | Text]) -> bool:
    filled = [text for text in map(str, cells) if text]
    return bool(filled) and all(map(FIGURE.fullmatch, filled))


def _longest_word(cell: str | Text) -> int:
    text = str(cell)
    return cell_len(text) if FIGURE.fullmatch(text) else max(map(cell_len, text.split()), default=0)


def room_beside(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    """Tell how wide one more column may be beside these unbroken ones; a few characters in any case."""
    stacks = [[name, *(str(row[at]) for row in rows)] for at, name in enumerate(columns)]
    return max(Console().width - sum(max(map(cell_len, stack)) + GAPS[0] for stack in stacks), LEAST_ROOM)
