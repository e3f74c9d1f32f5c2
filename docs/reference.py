"""The reference, made from the code: of configuration, command line, RPC and metrics.

A hook of MkDocs (`make docs`), so that no page of it can be older than what it tells of.
"""

from __future__ import annotations

import ast
import html
import inspect
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc
from msgspec import inspect as types
from typer.cli import get_docs_for_click
from typer.main import get_command

from daemon import oip_parameters
from daemon.cli.main import app
from daemon.config import Config
from daemon.families import FAMILIES, Family
from daemon.sections import Section, fields, within

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
DEFINITIONS = ("protos/jouled.proto", "protos/open_inference.proto")
# A key says its unit in its name.
UNITS = {"bytes": "B", "celsius": "°C", "joules": "J", "pixels": "pixel", "seconds": "s", "watts": "W"}
# Numbers of FileDescriptorProto, DescriptorProto and ServiceDescriptorProto, which make the path of a comment.
MESSAGE, SERVICE, FIELD, METHOD = 4, 6, 2, 2
SUFFIXES = {"counter": "_total", "info": "_info"}
# What the text format makes of types that it does not have.
SERVED_AS = {"info": "gauge", "stateset": "gauge"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference to the files of docs/."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def pages() -> dict[str, str]:
    """Give the text of each page by its name."""
    return {"configuration": configuration(), "commands": commands(), "rpc": rpc(), "metrics": metrics()}


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Give the lines of a table, and an empty one behind it."""
    for row in (columns, ["---" for _ in columns], *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def configuration() -> str:
    """Describe every key of the configuration file."""
    lines = [
        "# Configuration",
        "",
        "One TOML file: `jouled serve --config FILE`. An unknown key is refused, and so is a value of another type.",
        "What is required must be there in each section of its kind.",
        "",
    ]
    for section in sections(Config):
        heading, _, purpose = inspect.cleandoc(section.__doc__ or "").partition(": ")
        lines += [f"## {heading}", "", purpose[:1].upper() + purpose[1:], ""]
        lines += table(("key", "type", "default", "unit", "meaning"), keys(section))
    return "\n".join(lines)


def sections(section: type[Section]) -> Iterator[type[Section]]:
    """Give a section and all those within it."""
    yield section
    for inner in (within(field.type) for field in fields(section)):
        if inner:
            yield from sections(inner)


def keys(section: type[Section]) -> Iterator[tuple[str, str, str, str, str]]:
    """Give key, type, default, unit and meaning of what a section holds besides sections. A meaning may be missing."""
    meanings = attribute_docstrings(section)
    for field in fields(section):
        if within(field.type):
            continue
        default = "required" if field.required else "none" if field.default is None else f"`{toml(field.default)}`"
        name = field.encode_name
        unit = next((unit for word, unit in UNITS.items() if word in name.split("_")), "")
        yield f"`{name}`", kind(field.type), default, unit, meanings.get(field.name, "")


def attribute_docstrings(section: type) -> dict[str, str]:
    """Give the string that stands below each attribute of a class."""
    (definition,) = ast.parse(inspect.getsource(section)).body
    body = cast("ast.ClassDef", definition).body
    found = {}
    for above, below in pairwise(body):
        match above, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def toml(value: object) -> str:
    """Write a value as it would stand in the file."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple():
            return f"[{', '.join(map(toml, value))}]"
        case _:
            return str(value)


def kind(of: types.Type) -> str:
    """Name a type as TOML does, with its range."""
    match of:
        case types.BoolType():
            return "boolean"
        case types.IntType() | types.FloatType():
            name = "integer" if isinstance(of, types.IntType) else "float"
            low = [f"> {of.gt:g}"] if of.gt is not None else [f">= {of.ge:g}"] if of.ge is not None else []
            high = [f"<= {of.le}"] if of.le is not None else []
            return ", ".join([name, *low, *high])
        case types.StrType():
            return "string"
        case types.LiteralType(values=values):
            return "one of " + ", ".join(f'`"{value}"`' for value in values)
        case types.VarTupleType(item_type=item):
            return f"array of {kind(item)}s"
        case types.DictType(value_type=value):
            return f"table of {kind(value)}"
        case types.UnionType(types=several):
            return " or ".join(kind(each) for each in several if not isinstance(each, types.NoneType))
        case _:
            raise TypeError(f"no name for {of}")


def commands() -> str:
    """Describe every command with its arguments and options, as Typer does."""
    command = get_command(app)
    text: str = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="jouled"), name="jouled")
    # Typer escapes for HTML, which code does not need.
    return re.sub(r"`[^`\n]+`", lambda code: html.unescape(code[0]), text)


def rpc() -> str:
    """Describe services, methods and messages with the comments of their definitions, and the parameters."""
    lines = ["# RPC", ""]
    for file in definitions():
        said = comments(file)
        lines += [f"## {file.package}", "", said.get((12,), ""), ""]
        for place, service in enumerate(file.service):
            lines += [f"### {file.package}.{service.name}", "", said.get((SERVICE, place), ""), ""]
            rows = (
                (
                    f"`{method.name}`",
                    f"{'stream of ' if method.client_streaming else ''}`{short(method.input_type)}`",
                    f"{'stream of ' if method.server_streaming else ''}`{short(method.output_type)}`",
                    said.get((SERVICE, place, METHOD, index), ""),
                )
                for index, method in enumerate(service.method)
            )
            lines += table(("method", "takes", "gives", "meaning"), rows)
        if file.package == "inference":
            lines += parameters()
        for place, message in enumerate(file.message_type):
            lines += [f"### {message.name}", "", said.get((MESSAGE, place), ""), ""]
            if message.field:
                lines += table(("field", "number", "type", "meaning"), message_fields(message, place, said))
    return "\n".join(lines)


def definitions() -> list[FileDescriptorProto]:
    """Read the definitions with their comments."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "definitions"
        status = protoc.main(
            ["protoc", f"-I{ROOT}", "--include_source_info", f"--descriptor_set_out={compiled}", *DEFINITIONS]
        )
        if status:
            raise RuntimeError(f"protoc ended with {status}")
        return list(FileDescriptorSet.FromString(compiled.read_bytes()).file)


def comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    """Give what is said at each place of a definition, above it and behind it."""
    said: dict[tuple[int, ...], str] = defaultdict(str)
    for location in file.source_code_info.location:
        text = " ".join(f"{location.leading_comments} {location.trailing_comments}".split())
        if text:
            said[tuple(location.path)] += text[:1].upper() + text[1:]
    return said


def message_fields(
    message: DescriptorProto, place: int, said: dict[tuple[int, ...], str]
) -> Iterator[tuple[str, str, str, str]]:
    """Give name, number, type and meaning of each field of a message."""
    for index, field in enumerate(message.field):
        many = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
        scalar = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        name = short(field.type_name) or scalar
        yield f"`{field.name}`", str(field.number), f"{many}{name}", said.get((MESSAGE, place, FIELD, index), "")


def short(name: str) -> str:
    """Leave the package off a type's name."""
    return name.rpartition(".")[2]


def parameters() -> Iterator[str]:
    """Describe what requests and responses of the Open Inference Protocol may carry besides tensors."""
    for message, known in (
        ("ModelInferRequest", oip_parameters.REQUEST),
        ("ModelInferResponse", oip_parameters.RESPONSE),
    ):
        yield from [f"### Parameters of {message}", ""]
        yield from table(("parameter", "meaning"), ((f"`{name}`", meaning) for name, meaning in known.items()))


def metrics() -> str:
    """Describe every family of metrics, by the name and type under which Prometheus stores it."""
    lines = ["# Metrics", "", "What `GET /metrics` serves, beside the usual `process_*` of the daemon's process.", ""]
    lines += table(("metric", "type", "labels", "meaning"), map(metric, FAMILIES))
    return "\n".join(lines)


def metric(family: Family) -> tuple[str, str, str, str]:
    """Give name, type, labels and meaning of a family."""
    labels = sorted([*family.labels, *([family.name] if family.kind == "stateset" else [])])
    return (
        f"`{family.name}{SUFFIXES.get(family.kind, '')}`",
        SERVED_AS.get(family.kind, family.kind),
        " ".join(f"`{label}`" for label in labels),
        family.meaning,
    )
