"""What the documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# [text](target), ![text](target) and src="target", outside of code.
LINK = re.compile(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def links(text: str) -> list[str]:
    """List the targets of a document's links."""
    return [one or other for one, other in LINK.findall(CODE.sub("", text))]


def anchors(text: str) -> set[str]:
    """Give the anchors of a document's headings, as GitHub makes them."""
    headings = HEADING.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(document: Path) -> list[str]:
    """List the links of a document that lead nowhere in this repository."""
    lost = []
    for target in links(document.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = document.parent / path if path else document
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            lost.append(target)
    return lost


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link of a document names a file, and a heading of it where it names one."""
    assert broken(document) == []


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    """A file that is not there, and a heading that is not in one that is; what stands in code is no link."""
    document = tmp_path / "page.md"
    document.write_text('# One two\n[a](page.md#one-two) [b](gone.md) ![c](#three) `[d](code.md)` <img src="e.png">\n')
    assert broken(document) == ["gone.md", "#three", "e.png"]
