"""The generated reference is complete: each key, command, method and metric is in it, with its meaning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import pytest
from typer.main import get_command

from daemon.cli.main import app
from daemon.config import Config
from docs import reference
from protos import jouled_pb2, open_inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer._click import Command


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Make the reference."""
    return reference.pages()


def rows(page: str) -> dict[str, list[str]]:
    """Give the cells of a page's rows that begin with a name in code, by this name."""
    found = re.findall(r"^\| `([^`]+)` \|(.*)\|$", page, re.MULTILINE)
    return {name: [cell.strip() for cell in re.split(r"(?<!\\)\|", rest)] for name, rest in found}


def test_every_key_of_the_configuration(pages: dict[str, str]) -> None:
    """What the schema of the configuration has, the page has, each with a sentence."""
    schema = msgspec.json.schema(Config)["$defs"]
    keys = {key for section in schema.values() for key, content in section["properties"].items()}
    holders = {"device", "policy", "trigger", "server", "meters", "account", "metrics", "journal", "log", "tls"}
    found = rows(pages["configuration"])
    assert found.keys() >= keys - holders
    assert {name for name, cells in found.items() if not cells[-1].endswith(".")} == set()
    assert found["window_seconds"] == ["float, > 0, <= 3600", "`10.0`", "s", "The length of a window."]
    for holder in holders:
        assert re.search(rf"^## `\[+(meters\.)?{holder}[\].]", pages["configuration"], re.MULTILINE), holder


def commands(command: Command, path: str) -> Iterator[tuple[str, Command]]:
    """Give a command and those below it, each with its words."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{path} {name}")


def test_every_command_and_option(pages: dict[str, str]) -> None:
    """Each command has a section that names its options, each option with its help."""
    parts = re.split(r"^#+ `(.+)`$", pages["commands"], flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    for path, command in commands(get_command(app), "jouled"):
        for option in (option for parameter in command.params for option in parameter.opts if option.startswith("--")):
            assert re.search(rf"^\* `{option}\b[^`]*`: \S", found[path], re.MULTILINE), (path, option)


def test_every_method(pages: dict[str, str]) -> None:
    """Each method of both services is described."""
    found = rows(pages["rpc"])
    services = [
        *jouled_pb2.DESCRIPTOR.services_by_name.values(),
        *open_inference_pb2.DESCRIPTOR.services_by_name.values(),
    ]
    methods = [method.name for service in services for method in service.methods]
    assert len(methods) > 20
    assert {name for name in methods if not found[name][-1]} == set()
    assert found["ClassifyStream"][:2] == ["stream of `ClassifyRequest`", "stream of `ClassifyStreamReply`"]
    assert found["fallback_of"][-1]


def test_an_undocumented_key_is_noticed() -> None:
    """A key without a sentence below it has no meaning, and the one above keeps its own."""
    meanings = reference.attribute_docstrings(Config)
    assert meanings["calibration"].startswith("The file that")
    assert "trigger" not in meanings
