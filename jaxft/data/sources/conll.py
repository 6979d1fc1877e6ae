"""CoNLL: a token with its tags per line, sentences between blank lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jaxft.data.sources.files import ReadableFile
from jaxft.data.sources.lines import Line, group_lines, read_lines
from jaxft.data.sources.rows import Row, Scanned
from jaxft.data.sources.strict_json import excerpt
from jaxft.errors import DataError

_DOCUMENT_START = "-DOCSTART-"
# "#gold<TAB>O" is a token.
_COMMENT = "# "
# Of named entities, in any of the usual schemes.
_ENTITY_TAG = re.compile(r"O|[BIESLU]-.+")


def conll_rows(file: ReadableFile, name: str) -> Iterator[Scanned]:
    """One row per sentence: ``{"tokens": [...], "tags": [...]}`` from the first and the last column.

    Columns between them are ``column_2`` and so on. Columns are separated by tabs where the first line that has several
    holds a tab, else by spaces; every line must have as many as that one. A line of whitespace alone ends a sentence.
    Before a sentence, ``-DOCSTART-`` lines and comments (``# ...``) are passed over. A line like a comment that has all
    columns is a token, where spaces separate them only if its tag is that of an entity (``# O``, not ``# text = Yes``).

    Raises:
      DataError: the file is empty.
      RecipeError: it can't be read.
    """
    columns: _Columns | None = None
    empty = True
    for group in group_lines(read_lines(file, name), name, "a sentence"):
        columns = columns or _find_columns(group)
        sentence = _without_preface(group, columns)
        if sentence:
            empty = False
            yield _row(sentence, columns, name)
    if empty:
        raise DataError(f"{name} is empty: it has no tokens", "empty_file")


class _Columns:
    """How the lines of a file are cut."""

    def __init__(self, line: str):
        self._delimiter = "\t" if "\t" in line else None
        self.count = len(self.split(line))

    def split(self, line: str) -> list[str]:
        return [field.strip() for field in line.rstrip("\r\n").split(self._delimiter)]

    def is_token(self, comment: str) -> bool:
        """Whether a line that looks like a comment has a token and its tag."""
        fields = self.split(comment)
        return len(fields) == self.count and (self._delimiter == "\t" or _ENTITY_TAG.fullmatch(fields[-1]) is not None)


def _find_columns(group: list[Line]) -> _Columns | None:
    """How the first line with several columns is cut; None where no line has."""
    for line in _without_preface(group, None):
        if line.defect is None and (columns := _Columns(line.text)).count > 1:
            return columns
    return None


def _without_preface(group: list[Line], columns: _Columns | None) -> list[Line]:
    """The lines of a sentence without those before its first token."""
    for start, line in enumerate(group):
        comment = line.text.startswith(_COMMENT) and not (columns and columns.is_token(line.text))
        if line.defect or not (comment or line.text.startswith(_DOCUMENT_START)):
            return group[start:]
    return []


def _row(sentence: list[Line], columns: _Columns | None, name: str) -> Scanned:
    if defect := next((line.defect for line in sentence if line.defect), None):
        return defect
    cut = []
    for line in sentence:
        fields = columns.split(line.text) if columns else [line.text]
        if columns is None or len(fields) != columns.count or not all((fields[0], fields[-1])):
            return _wrong_columns(line, fields, columns, name)
        cut.append(fields)
    tokens, *between, tags = map(list, zip(*cut, strict=True))
    values = {"tokens": tokens, "tags": tags, **{f"column_{i}": tag for i, tag in enumerate(between, start=2)}}
    return Row(values, f"{name}:{sentence[0].number}")


def _wrong_columns(line: Line, fields: list[str], columns: _Columns | None, name: str) -> DataError:
    if columns is None:
        expected = "a token and its tag, separated by a tab or a space"
    else:
        expected = f"{columns.count} columns, as in the lines before"
    found = f"{sum(map(bool, fields))} ({excerpt(line.text)})"
    return DataError(f"{name}:{line.number}: expected {expected}; found {found}", "wrong_columns")
