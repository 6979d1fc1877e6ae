"""Readers of JSON Lines, CSV, TSV and plain text: each gives the rows of one file, with exact places of what is wrong.

All are strict: UTF-8 (a leading byte order mark is dropped), no NUL characters, at least one row.
Every reader takes the file and the name that messages give it, and raises DataError for what is wrong in it
and RecipeError for a file that can't be opened.
"""

from __future__ import annotations

import codecs
import csv
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from jaxft.data.sources.config import Documents
from jaxft.data.sources.rows import Row
from jaxft.errors import DataError, RecipeError

_EXCERPT_CHARACTERS = 40


def jsonl_rows(path: Path, name: str) -> Iterator[Row]:
    """One row per line, which must be a JSON object with distinct keys. Blank lines are passed over."""
    empty = True
    for number, line in decoded_lines(path, name):
        if line.strip():
            empty = False
            yield Row(_parse_object(line, f"{name}:{number}"), f"{name}:{number}")
    if empty:
        raise DataError(f"{name} is empty: it has only blank lines")


def csv_rows(path: Path, name: str) -> Iterator[Row]:
    """One row per record of a comma-separated file; a quoted field may span lines. Blank lines are passed over."""
    return _delimited_rows(path, name, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def tsv_rows(path: Path, name: str) -> Iterator[Row]:
    """One row per line of a tab-separated file, in which quotation marks mean nothing special."""
    return _delimited_rows(path, name, delimiter="\t", quoting=csv.QUOTE_NONE)


def text_rows(path: Path, name: str, documents: Documents) -> Iterator[Row]:
    """One row ``{"text": ...}`` per document; lines keep their indentation and are joined by newlines."""
    lines = ((number, line.rstrip("\r\n")) for number, line in decoded_lines(path, name))
    empty = True
    for number, group in _group_lines(lines, documents):
        empty = False
        yield Row({"text": "\n".join(group)}, f"{name}:{number}")
    if empty:
        raise DataError(f"{name} is empty: it has only blank lines")


def open_file(path: Path, name: str) -> BinaryIO:
    """Opens a file for reading its bytes."""
    try:
        return path.open("rb")
    except OSError as error:
        raise RecipeError(f"{name} can't be read: {error.strerror}") from error


def decoded_lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line with its line ending; only a newline byte ends a line."""
    offset = 0
    with open_file(path, name) as file:
        for number, encoded in enumerate(file, start=1):
            start = len(codecs.BOM_UTF8) if number == 1 and encoded.startswith(codecs.BOM_UTF8) else 0
            yield number, _decode(encoded[start:], f"{name}:{number}", offset + start)
            offset += len(encoded)
    if offset == 0:
        raise DataError(f"{name} is empty")


def _decode(encoded: bytes, location: str, offset: int) -> str:
    try:
        text = encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{location}: not UTF-8: byte 0x{encoded[error.start]:02x} at byte offset {offset + error.start} of the "
            "file; save the file as UTF-8"
        ) from None
    if "\0" in text:
        raise DataError(f"{location}: a NUL character at column {text.index(chr(0)) + 1}; is this a text file?")
    return text


# JSON


class _Unacceptable(ValueError):
    """Something that Python's JSON reader accepts and we don't."""


def _parse_object(line: str, location: str) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_distinct_keys, parse_constant=_no_constant)
        # A raw line holds neither surrogates nor NUL, so only an escape can bring them in.
        if "\\u" in line:
            _check_strings(value)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{location}: not valid JSON at column {error.pos + 1}: {error.msg}; found {_excerpt(line, error.pos)}. "
            "Each line must be one whole JSON object"
        ) from None
    except _Unacceptable as error:
        raise DataError(f"{location}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{location}: not readable as JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{location}: each line must be a JSON object; found {_json_kind(value)}: {_excerpt(line, 0)}")
    return value


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise _Unacceptable(f"the key {repeated!r} stands twice in one JSON object")
    return values


def _no_constant(name: str) -> NoReturn:
    raise _Unacceptable(f"{name} is not a JSON value; write null")


def _check_strings(value: Any) -> None:
    if isinstance(value, str):
        for character in value:
            if character == "\0" or "\ud800" <= character <= "\udfff":
                kind = "a NUL character" if character == "\0" else "half of a surrogate pair"
                raise _Unacceptable(f"a string holds \\u{ord(character):04x}, {kind}, which is not text")
    elif isinstance(value, dict):
        for pair in value.items():
            _check_strings(list(pair))
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)


def _json_kind(value: Any) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _excerpt(line: str, position: int) -> str:
    rest = line[position:].rstrip("\r\n")
    if not rest:
        return "the end of the line"
    return repr(rest if len(rest) <= _EXCERPT_CHARACTERS else rest[:_EXCERPT_CHARACTERS] + "…")


# CSV and TSV


def _delimited_rows(path: Path, name: str, delimiter: str, quoting: int) -> Iterator[Row]:
    records = _records(path, name, delimiter, quoting)
    number, header = next(records, (1, []))
    _check_header(header, f"{name}:{number}")
    empty = True
    for number, fields in records:
        empty = False
        location = f"{name}:{number}"
        if len(fields) != len(header):
            raise DataError(
                f"{location}: the header names {_count(len(header))}, but this row has {len(fields)}: "
                f"{_excerpt(delimiter.join(fields), 0)}"
            )
        yield Row(dict(zip(header, fields, strict=True)), location)
    if empty:
        raise DataError(f"{name} is empty: it has a header but no rows")


def _records(path: Path, name: str, delimiter: str, quoting: int) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, and the fields, of each record."""
    # The limit belongs to the process; its default of 128 KiB refuses long documents.
    csv.field_size_limit(max(csv.field_size_limit(), min(sys.maxsize, 2**31 - 1)))
    lines = (line for _, line in decoded_lines(path, name))
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{name}:{start}: malformed row: {error}") from None
        if fields is None:
            return
        if fields:
            yield start, fields


def _check_header(header: list[str], location: str) -> None:
    if not any(column.strip() for column in header):
        raise DataError(f"{location}: no header; the first line must name the columns")
    repeated = [column for column, count in Counter(header).items() if count > 1]
    if repeated:
        raise DataError(
            f"{location}: the first line must name the columns, each once; {repeated[0]!r} stands there twice"
        )


def _count(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"


# Plain text


def _group_lines(lines: Iterable[tuple[int, str]], documents: Documents) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, and the lines, of each document."""
    if documents == "lines":
        yield from ((number, [line]) for number, line in lines if line.strip())
    elif documents == "file":
        whole = [line for _, line in lines]
        if any(line.strip() for line in whole):
            yield 1, whole
    else:
        yield from _paragraphs(lines)


def _paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, list[str]]]:
    start, paragraph = 0, []
    for number, line in lines:
        if line.strip():
            start = start if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield start, paragraph
            paragraph = []
    if paragraph:
        yield start, paragraph
