"""Lines of the journal's tails: what a crash of this release, or of an earlier one, left to be entered in the store.

A tail does not say which release wrote it; the length of its lines does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from daemon.journal_sums import FINAL

# How many parts a line of each kind has, with its kind.
LENGTHS = {"reign": 10, "reserved": 7, "finished": 21, "attempt": 10, "finals": 8, "ledger": 13}
# Of format 1 there are no limits on bursts, no deadlines and no sequences. Up to format 2 a record names its figure
# before its seconds, and no labels.
REIGN_1 = 8
FINISHED_1, FINISHED_2 = 17, 19
RESERVED_PART = 11

_decode = msgspec.json.Decoder(Annotated[list[Any], msgspec.Meta(min_length=7)]).decode


class Misfit(Exception):
    """A record of a shape that no release up to this one wrote: the message says which."""


def read_line(raw: bytes, provenances: Mapping[int, str]) -> list[Any] | None:
    """Give a line as this release writes it, or None for what is no record. Raises `Misfit`.

    `provenances` are the labels of the operating points by their numbers, which early records do not repeat.
    """
    try:
        line: list[Any] = _decode(raw)
    except msgspec.DecodeError:
        return None
    kind, length = line[0], len(line)
    if not isinstance(kind, str) or kind not in LENGTHS:
        return None
    if kind == "reign" and length == REIGN_1:
        return [*line, None, 0.0]
    if kind == "finished" and length in {FINISHED_1, FINISHED_2}:
        return _with_labels(line, provenances)
    if length != LENGTHS[kind]:
        raise Misfit(f"a record {kind!r} of {length} parts, of which this release knows {LENGTHS[kind]}")
    return line


def _with_labels(line: list[Any], provenances: Mapping[int, str]) -> list[Any]:
    """Bring a record of format 1 or 2 up: no figure became final later then, the model's was all there was."""
    point = line[4]
    dynamic, static, uncertainty, _, device_seconds, *rest = line[RESERVED_PART + 1 :]
    deadline, sequence = rest or (0, 0)
    labels = [provenances.get(point, ""), "shared", FINAL]
    return [*line[: RESERVED_PART + 1], device_seconds, deadline, sequence, dynamic, static, uncertainty, *labels]
