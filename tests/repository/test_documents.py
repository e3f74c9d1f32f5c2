"""The commands in the documents are commands that there are, with options that they take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from daemon.cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(?:bash|sh|console)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
CALL = re.compile(r"^(?:\$ )?(?:\S*/)?jouled ((?:[^#\n\\]|\\\n)+)", re.MULTILINE)


def calls(text: str) -> list[str]:
    """List the arguments of the program wherever a block of commands calls it."""
    found = [call for block in BLOCK.findall(text) for call in CALL.findall(block)]
    return [call.replace("\\\n", " ").split("|")[0].split(">")[0].removesuffix("& ").strip() for call in found]


def complaint(call: str) -> str:
    """Read a command line as the program does, without carrying it out; give what it would complain of."""
    command, arguments = get_command(app), [each for each in shlex.split(call) if each != "&"]
    name = "jouled"
    try:
        while True:
            context = command.make_context(name, list(arguments))
            if not hasattr(command, "resolve_command"):
                return ""
            rest = [*context._protected_args, *context.args]
            name, command, arguments = command.resolve_command(context, rest)
    except Exception as error:  # noqa: BLE001 (each of them is a complaint)
        return str(error)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_the_documents_are_understood(document: Path) -> None:
    """No command, option or argument that does not exist."""
    wrong = {call: why for call in calls(document.read_text()) if (why := complaint(call))}
    assert wrong == {}


def test_what_is_wrong_is_noticed() -> None:
    """A command and an option that do not exist, found in a block."""
    text = "```\n.venv/bin/jouled energy --since 1d --by colour\njouled fly\njouled status --json   # well\n```\n"
    assert calls(text) == ["energy --since 1d --by colour", "fly", "status --json"]
    assert [bool(complaint(call)) for call in calls(text)] == [True, True, False]
