"""Sections of a TOML file as immutable structures: what does not fit is told with its key and the reason."""

from __future__ import annotations

import re
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect

from hal.names import near


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of all sections: immutable, unknown keys refused."""


S = TypeVar("S", bound=Section)


def within(kind: inspect.Type) -> type[Section] | None:
    """Give the section that a key's type holds, one or many, with or without a name each."""
    match kind:
        case inspect.StructType(cls=cls):
            return cls if issubclass(cls, Section) else None
        case inspect.DictType(value_type=inner) | inspect.VarTupleType(item_type=inner):
            return within(inner)
        case inspect.UnionType(types=types):
            return next((found for found in map(within, types) if found), None)
        case _:
            return None


def fields(section: type[Section]) -> tuple[inspect.Field, ...]:
    """List the keys of a section."""
    return cast("inspect.StructType", inspect.type_info(section)).fields


def convert(content: Any, section: type[S], key: str) -> S:
    """Convert one section. Raises `ValueError` that names the key and the reason."""
    try:
        return msgspec.convert(content, section)
    except msgspec.ValidationError as error:
        match = re.fullmatch(r"(?P<reason>.*?)(?: - at `(?P<key>.*)`)?", str(error), re.DOTALL)
        reason = match["reason"] if match else str(error)
        where = (match["key"] or "").removeprefix("$") if match else ""
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", reason)
        if unknown:
            known = [field.encode_name for field in fields(_section_at(section, where))]
            where, reason = f"{where}.{unknown[1]}", f"unknown key{near(unknown[1], known)}"
        elif reason.startswith("Expected"):
            reason += _given(content, where)
        place = (key + where).removeprefix(".")
        raise ValueError(f"{place}: {reason}" if place else reason) from None


def _section_at(section: type[Section], where: str) -> type[Section]:
    """Give the section at a place such as `.server` or `.meters.account[0]` of one."""
    for name in re.sub(r"\[.*?\]", "", where).split(".")[1:]:
        kinds = {field.encode_name: field.type for field in fields(section)}
        section = within(kinds[name]) or section
    return section


def _given(content: Any, where: str) -> str:
    """Tell the number or the word that stands at a place such as `.server.batch_limit` or `.account[0].meters`."""
    try:
        for part in re.findall(r"[^.\[\]]+", where):
            content = content[int(part)] if isinstance(content, list) else content[part]
    except (LookupError, ValueError, TypeError):
        return ""
    return f", not {content!r}" if isinstance(content, (str, int, float)) else ""
