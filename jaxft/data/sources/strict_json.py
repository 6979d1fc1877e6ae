"""JSON as its standard has it, where Python's reader takes more: duplicate keys, NaN, halves of surrogate pairs."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxft.errors import DataError

# Deeper data has never been seen, and what a computer's stack bears differs between versions of Python.
MAX_DEPTH = 200
_EXCERPT_CHARACTERS = 40
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a part of a JSON document.

    Attributes:
      reason: as in :class:`DataError`.
      problem: what is wrong, as a clause.
      value: what Python's reader makes of the part.
    """

    reason: str
    problem: str
    value: Any = None


class _Unacceptable(ValueError):
    """A flaw in a document that must have none."""

    def __init__(self, flaw: Flaw):
        super().__init__(flaw.problem)
        self.flaw = flaw


def parse_object(line: str, location: str) -> dict[str, Any]:
    """The JSON object that a line holds, in which nothing is wrong.

    Raises:
      DataError: ``malformed_json``, ``duplicate_key``, ``not_a_number``, ``lone_surrogate``, ``nul``, ``too_deep`` or
        ``not_an_object``.
    """
    line = line.rstrip("\r\n")
    try:
        value = _parse(line, location, _REFUSING)
    except json.JSONDecodeError as error:
        problem = f"not valid JSON at column {error.colno}: {error.msg}; found {excerpt(line, error.pos)}"
        problem += ". Each line must be one whole JSON object"
        raise DataError(f"{location}: {problem}", "malformed_json") from None
    except _Unacceptable as error:
        raise DataError(f"{location}: {error}", error.flaw.reason) from None
    # A line that is UTF-8 without NUL holds no bad character as it stands: only an escape can bring one in.
    if "\\u" in line and (flaw := find_flaw(value)):
        raise DataError(f"{location}: {flaw.problem}", flaw.reason)
    if not isinstance(value, dict):
        problem = f"each line must be a JSON object; found {_kind(value)}: {excerpt(line)}"
        raise DataError(f"{location}: {problem}", "not_an_object")
    return value


def parse_document(text: str, name: str) -> Any:
    """The value of a whole document, with a :class:`Flaw` in place of each object and number that has one.

    Raises:
      DataError: ``malformed_json`` or ``too_deep``.
    """
    try:
        return _parse(text, name, _MARKING)
    except json.JSONDecodeError as error:
        problem = f"not valid JSON at column {error.colno}: {error.msg}; found {excerpt(text, error.pos)}"
        raise DataError(f"{name}:{error.lineno}: {problem}", "malformed_json") from None


def find_flaw(value: Any) -> Flaw | None:
    """The first flaw in a value, also in its strings."""
    if isinstance(value, Flaw):
        return value
    if isinstance(value, str):
        return _string_flaw(value)
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list):
        return next(filter(None, map(find_flaw, value)), None)
    return None


def excerpt(text: str, position: int = 0) -> str:
    """The beginning of a text, from a position, as a message shows it."""
    rest = text[position : position + _EXCERPT_CHARACTERS].rstrip("\r\n")
    if not rest:
        return "the end of the line"
    return repr(rest + "…" if position + _EXCERPT_CHARACTERS < len(text) else rest)


def _decoder(flawed: Callable[[Flaw], Any]) -> json.JSONDecoder:
    """A reader of JSON; `flawed` says what stands in place of an object or number that has a flaw."""

    def pairs(items: list[tuple[str, Any]]) -> Any:
        values = dict(items)
        if len(values) == len(items):
            return values
        repeated = Counter(key for key, _ in items).most_common(1)[0][0]
        return flawed(Flaw("duplicate_key", f"the key {repeated!r} stands twice in one JSON object", values))

    def constant(name: str) -> Any:
        return flawed(Flaw("not_a_number", f"{name} is not a JSON value; write null"))

    def number(written: str) -> Any:
        value = float(written)
        return value if math.isfinite(value) else flawed(Flaw("not_a_number", f"{written} is too large a number"))

    return json.JSONDecoder(object_pairs_hook=pairs, parse_constant=constant, parse_float=number)


def _refuse(flaw: Flaw) -> Any:
    raise _Unacceptable(flaw)


_REFUSING = _decoder(_refuse)
_MARKING = _decoder(lambda flaw: flaw)


def _parse(text: str, location: str, decoder: json.JSONDecoder) -> Any:
    try:
        value = decoder.decode(text)
        too_deep = text.count("{") + text.count("[") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH)
    except (json.JSONDecodeError, _Unacceptable):
        raise
    except RecursionError:
        too_deep = True
    except ValueError as error:
        raise DataError(f"{location}: not readable as JSON: {error}", "malformed_json") from None
    if too_deep:
        problem = f"objects and arrays are nested more than {MAX_DEPTH} deep"
        raise DataError(f"{location}: not readable as JSON: {problem}", "too_deep")
    return value


def _string_flaw(text: str) -> Flaw | None:
    found = _NO_TEXT.search(text)
    if found is None:
        return None
    nul = found[0] == "\0"
    kind = "a NUL character" if nul else "half of a surrogate pair"
    problem = f"a string holds \\u{ord(found[0]):04x}, {kind}, which is not text"
    return Flaw("nul" if nul else "lone_surrogate", problem)


def _is_deeper(value: Any, depth: int) -> bool:
    if isinstance(value, Flaw):
        value = value.value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(_is_deeper(part, depth - 1) for part in parts if isinstance(part, (dict, list, Flaw)))


def _kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")
