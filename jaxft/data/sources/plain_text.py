"""Plain text, cut into documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jaxft.data.sources.config import Documents
from jaxft.data.sources.files import ReadableFile
from jaxft.data.sources.lines import Line, group_lines, read_lines
from jaxft.data.sources.rows import Row, Scanned
from jaxft.errors import DataError


def text_rows(file: ReadableFile, name: str, documents: Documents) -> Iterator[Scanned]:
    """One row ``{"text": ...}`` per document; lines keep their indentation and are joined by newlines.

    A document with a defect in any line is one bad row. A paragraph is bounded as a line is,
    only a whole file may be of any size.

    Raises:
      DataError: the file is empty.
      RecipeError: it can't be read.
    """
    empty = True
    for group in _GROUPS[documents](read_lines(file, name), name):
        empty = False
        defect = next((line.defect for line in group if line.defect), None)
        text = "\n".join(line.text.rstrip("\r\n") for line in group)
        yield defect or Row({"text": text}, f"{name}:{group[0].number}")
    if empty:
        raise DataError(f"{name} is empty: it has only blank lines", "empty_file")


def _paragraphs(lines: Iterable[Line], name: str) -> Iterator[list[Line]]:
    return group_lines(lines, name, "a paragraph (see the option `documents`)")


def _lines(lines: Iterable[Line], name: str) -> Iterator[list[Line]]:
    return ([line] for line in lines if not line.is_blank)


def _whole(lines: Iterable[Line], name: str) -> Iterator[list[Line]]:
    whole = list(lines)
    if not all(line.is_blank for line in whole):
        yield whole


_GROUPS = {"paragraphs": _paragraphs, "lines": _lines, "file": _whole}
