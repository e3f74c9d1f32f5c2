"""The commands in the documents: what calls a program, in blocks and in the text."""

from __future__ import annotations

import re
import shlex
from operator import itemgetter
from pathlib import Path

from typer.main import get_command

from daemon.cli.main import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PROGRAMS = (
    "envoy", "jouled", "journalctl", "make", "npm", "pip", "prometheus", "promtool", "pytest", "python", "ssh",
    "systemctl", "uv",
)  # fmt: skip
# What stands for something of the reader's.
MEANT = {
    "keygen FILE": "keygen operator.key",
    "--key FILE FOLDER...": "--key operator.key zoo/digits/1/snn zoo/digits/1/dnn",
    "inspect FOLDER": "inspect zoo/digits/1/snn",
    "verify DIR": "verify zoo",
    "energy NUMBER": "energy 1",
    "/var/lib/jouled": "~/.local/state/jouled",
    "policy set NAME": "policy set balanced",
    "--policy NAME": "--policy tight --config systemd/jouled.toml",
    "models/trained/NAME": "models/trained/mnist",
}
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMENT = re.compile(r"(^|\s)#\s.*")
SPAN = re.compile(r"`([^`]+)`")


def commands(text: str) -> list[str]:
    """List the commands of a document, in order: the lines of blocks and the code of sentences that call a program."""
    found: list[str] = []
    blocks = [(block.start(), line) for block in BLOCK.finditer(text) for line in _lines(block[1])]
    # What stands in a block is left out where spans are looked for, but keeps its place.
    prose = BLOCK.sub(lambda block: " " * len(block[0]), text)
    spans = [(span.start(), " ".join(span[1].split())) for span in SPAN.finditer(prose)]
    for _, words in sorted(blocks + spans, key=itemgetter(0)):
        program, _, arguments = words.partition(" ")
        if Path(program).name in PROGRAMS and arguments and words not in found:
            found.append(words)
    return found


def _lines(block: str) -> list[str]:
    """Give the lines of a block without prompts and comments, continued lines as one."""
    lines = block.replace("\\\n", " ").splitlines()
    return [" ".join(COMMENT.sub("", line.removeprefix("$ ")).split()) for line in lines]


def meant(command: str) -> str:
    """Put something of this repository where a command has a word for the reader's own."""
    for words, value in MEANT.items():
        command = command.replace(words, value)
    return command


def complaint(command: str) -> str:
    """Read a call of `jouled` as the program does, without carrying it out; give what it would complain of."""
    # What the shell reads itself.
    plain = re.split(r"[|>]", re.sub(r"\$\(.*?\)", "it", meant(command)))[0]
    parser, arguments = get_command(app), shlex.split(plain)[1:]
    name = "jouled"
    try:
        while True:
            context = parser.make_context(name, list(arguments))
            if not hasattr(parser, "resolve_command"):
                return ""
            rest = [*context._protected_args, *context.args]
            name, parser, arguments = parser.resolve_command(context, rest)
    except Exception as error:  # noqa: BLE001 (each of them is a complaint)
        return str(error)
