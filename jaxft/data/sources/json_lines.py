"""JSON Lines: one JSON object per line."""

from __future__ import annotations

from collections.abc import Iterator

from jaxft.data.sources.files import ReadableFile
from jaxft.data.sources.lines import read_lines
from jaxft.data.sources.rows import Row, Scanned
from jaxft.data.sources.strict_json import parse_object
from jaxft.errors import DataError


def jsonl_rows(file: ReadableFile, name: str) -> Iterator[Scanned]:
    """One row per line, which must be a JSON object with distinct keys. Blank lines are passed over.

    Raises:
      DataError: the file is empty.
      RecipeError: it can't be read.
    """
    empty = True
    for line in read_lines(file, name):
        if line.defect or line.text.strip():
            empty = False
            yield line.defect or _row(line.text, f"{name}:{line.number}")
    if empty:
        raise DataError(f"{name} is empty: it has only blank lines", "empty_file")


def _row(line: str, location: str) -> Scanned:
    try:
        return Row(parse_object(line, location), location)
    except DataError as defect:
        return defect
