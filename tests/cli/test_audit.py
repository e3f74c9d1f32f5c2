"""`jouled audit` says of a journal which promises it shows kept, and ends with 1 when one is broken."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from daemon.budget import Limit
from daemon.clock import NANO
from daemon.journal import Journal, Record
from tests.daemon.builders import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Jouled


def _journal(folder: Path) -> None:
    """Keep a journal of three requests that were refused."""
    clock = ManualClock()
    journal = Journal(folder, "boot", clock, clock)
    reign = journal.reign("tight", Limit(1000, NANO), 0.0, clock())
    for _ in range(3):
        number, now = journal.next_request_id(), clock()
        journal.finished(
            [Record(number, reign, "over_budget", 1, now, now, now, sequence=journal.next_sequence(), deadline=now)]
        )
    journal.close()


def test_audit_of_a_good_journal(jouled: Jouled, tmp_path: Path) -> None:
    """The folder will do as well as the file; people get a table, programs figures."""
    _journal(tmp_path)
    said = jouled("audit", tmp_path)
    assert (said.status, said.err) == (0, "")
    assert "every accepted request ends in exactly one terminal status" in said.out
    assert "broken" not in said.out
    assert "requests 3, ended 3" in said.out
    found = jouled("audit", tmp_path / "journal.db", "--json").json
    assert found["clean"] is True
    figures = {each["invariant"]: each["figures"] for each in found["findings"]}
    assert (figures["I1"]["requests"], figures["I5"]["acknowledged"]) == (3, 3)
    assert all(each["violations"] == [] for each in found["findings"])


def test_audit_of_a_journal_that_lost_a_record(jouled: Jouled, tmp_path: Path) -> None:
    """Whatever was broken is named, and the status tells programs."""
    _journal(tmp_path)
    with sqlite3.connect(tmp_path / "journal.db") as database:
        database.execute("DELETE FROM requests WHERE id = 2")
    database.close()
    said = jouled("audit", tmp_path)
    assert said.status == 1
    assert "I1: request 2: no record, and its session ended in order" in said.out
    assert "I5: session 1: terminal record 2 is missing" in said.out
    assert jouled("audit", tmp_path, "--json").status == 1


def test_audit_of_no_journal(jouled: Jouled, tmp_path: Path) -> None:
    """A file that is no journal is refused with the reason."""
    file = tmp_path / "notes.txt"
    file.write_text("no database at all" * 100)
    said = jouled("audit", file)
    assert (said.status, said.err) == (1, f"jouled: {file}: file is not a database\n")
    assert jouled("audit", tmp_path / "none").err == f"jouled: {tmp_path / 'none'}: no such file\n"
