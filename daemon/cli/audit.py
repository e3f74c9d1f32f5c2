"""`jouled audit`: check a journal, whether a daemon uses it or not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.options import AsJson
from daemon.cli.output import EXIT_REFUSED, fail, joules, print_json, print_table


def audit(
    journal: Annotated[Path, typer.Argument(help="The file journal.db, or the folder that it is in.")],
    json: AsJson = False,
) -> None:
    """Check a journal against what the daemon promises; the exit status is 1 when a promise was broken.

    Records of the last half second of a running daemon are not looked at yet.
    """
    from daemon.audit import audit as check
    from daemon.history import read_journal
    from daemon.identity import check_identity
    from daemon.journal_reader import NoJournal

    store = journal / "journal.db" if journal.is_dir() else journal
    try:
        findings = sorted([*check(read_journal(store)), check_identity(store)], key=lambda each: each.invariant)
    except NoJournal as error:
        fail(str(error))
    violations = [f"{each.invariant}: {violation}" for each in findings for violation in each.violations]
    if json:
        print_json({"clean": not violations, "findings": [asdict(each) for each in findings]})
    else:
        rows = [
            (
                each.invariant, each.promise, "broken" if each.violations else "kept",
                ", ".join(_figure(name, value) for name, value in each.figures.items()),
            )
            for each in findings
        ]  # fmt: skip
        print_table(f"audit of {journal}", ("", "promise", "", "figures"), rows)
        for violation in violations:
            print(violation)
    if violations:
        raise typer.Exit(EXIT_REFUSED)


def _figure(name: str, value: float) -> str:
    """Write a figure for people: an energy with a fitting unit, a count in full."""
    words = name.replace("_", " ")
    if name.endswith("_nanojoules"):
        return f"{words.removesuffix(' nanojoules')} {joules(value)}"
    if name.endswith("_seconds"):
        return f"{words.removesuffix(' seconds')} {value:.4g} s"
    return f"{words} {value}" if isinstance(value, int) else f"{words} {value:.4g}"
