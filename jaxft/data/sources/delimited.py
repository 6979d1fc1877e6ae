"""CSV and TSV: records with the columns that the first line names."""

from __future__ import annotations

import csv
import sys
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Literal

from jaxft.data.sources.files import ReadableFile
from jaxft.data.sources.lines import MAX_ROW_BYTES, Line, read_lines, too_long
from jaxft.data.sources.rows import Row, Scanned
from jaxft.data.sources.strict_json import excerpt
from jaxft.errors import DataError

# How Python's csv calls the two ways of quotation marks.
Quoting = Literal[0, 3]


def csv_rows(file: ReadableFile, name: str) -> Iterator[Scanned]:
    """One row per record of a comma-separated file; a quoted field may span lines. Blank lines are passed over.

    A record that can't be parsed costs its first line alone: reading goes on with the next one, so that a quotation
    mark that is never closed doesn't swallow the rest of the file. As the next lines may be what is left of
    the record, none of them is taken for a row while its quotation marks are odd in number, which no record's are.

    Raises:
      DataError: the file is empty or its header is wrong.
      RecipeError: it can't be read.
    """
    return _delimited_rows(file, name, ",", csv.QUOTE_MINIMAL)


def tsv_rows(file: ReadableFile, name: str) -> Iterator[Scanned]:
    """One row per line of a tab-separated file, in which quotation marks mean nothing special; see `csv_rows`."""
    return _delimited_rows(file, name, "\t", csv.QUOTE_NONE)


def _delimited_rows(file: ReadableFile, name: str, delimiter: str, quoting: Quoting) -> Iterator[Scanned]:
    # The limit belongs to the process; its default of 128 KiB refuses long documents.
    csv.field_size_limit(max(csv.field_size_limit(), min(sys.maxsize, 2**31 - 1)))
    records = _records(_Lines(read_lines(file, name)), name, delimiter, quoting)
    header = _header(next(records, ([], [])), name)
    last: Scanned | None = None
    for fields, lines in records:
        last = _row(fields, lines, header, name, delimiter, after_defect=isinstance(last, DataError))
        yield last
    if last is None:
        raise DataError(f"{name} is empty: it has a header but no rows", "empty_file")


def _row(
    fields: list[str] | DataError, lines: list[Line], header: list[str], name: str, delimiter: str, after_defect: bool
) -> Scanned:
    if isinstance(fields, DataError):
        return fields
    location = f"{name}:{lines[0].number}"
    if len(fields) != len(header):
        shown = excerpt(delimiter.join(fields))
        problem = f"the header names {_count(len(header))}, but this row has {len(fields)}: {shown}"
        return DataError(f"{location}: {problem}", "wrong_columns")
    if after_defect and delimiter == "," and sum(line.text.count('"') for line in lines) % 2:
        problem = "malformed row, the rest of the one before: an odd number of quotation marks"
        return DataError(f"{location}: {problem}: {excerpt(delimiter.join(fields))}", "malformed_csv")
    return Row(dict(zip(header, fields, strict=True)), location)


class _TooLong(Exception):
    """A record that would take too much memory."""


class _Lines:
    """The lines of a file as the csv module takes them, which may be put back.

    Attributes:
      taken: those of the present record.
    """

    def __init__(self, lines: Iterator[Line]):
        self._lines = lines
        self._waiting: deque[Line] = deque()
        self.taken: list[Line] = []
        self._length = 0

    def begin_record(self) -> None:
        """Says that the next line is the first of a record."""
        self.taken = []
        self._length = 0

    def texts(self) -> Iterator[str]:
        """The texts of the lines from here on."""
        while line := self._waiting.popleft() if self._waiting else next(self._lines, None):
            self.taken.append(line)
            self._length += len(line.text)
            if self._length > MAX_ROW_BYTES:
                raise _TooLong
            yield line.text

    def put_back(self) -> None:
        """Puts back the lines of the present record but its first."""
        self._waiting.extendleft(reversed(self.taken[1:]))


def _records(
    lines: _Lines, name: str, delimiter: str, quoting: Quoting
) -> Iterator[tuple[list[str] | DataError, list[Line]]]:
    """The fields of each record that isn't a blank line, or what is wrong with it, and its lines."""

    def new_reader() -> Any:
        return csv.reader(lines.texts(), delimiter=delimiter, quoting=quoting, strict=True)

    reader = new_reader()
    while True:
        lines.begin_record()
        try:
            fields = next(reader, None)
        except (csv.Error, _TooLong) as error:
            yield _defect_of(error, lines, name), lines.taken
            reader = new_reader()
            continue
        if fields is None:
            return
        defect = next((line.defect for line in lines.taken if line.defect), None)
        if defect or fields:
            yield defect or fields, lines.taken


def _defect_of(error: csv.Error | _TooLong, lines: _Lines, name: str) -> DataError:
    """What is wrong with a record that can't be parsed, of which all but the first line is read again."""
    first, last = lines.taken[0], lines.taken[-1]
    if last.defect and last.defect.reason in ("truncated", "corrupt"):
        return last.defect
    lines.put_back()
    return first.defect or _malformed(error, f"{name}:{first.number}")


def _malformed(error: csv.Error | _TooLong, location: str) -> DataError:
    if isinstance(error, _TooLong):
        return too_long(location, "a record (is a quotation mark never closed?) is")
    return DataError(f"{location}: malformed row: {error}", "malformed_csv")


def _header(record: tuple[list[str] | DataError, list[Line]], name: str) -> list[str]:
    columns, lines = record
    if isinstance(columns, DataError):
        raise columns
    location = f"{name}:{lines[0].number if lines else 1}"
    if not any(column.strip() for column in columns):
        raise DataError(f"{location}: no header; the first line must name the columns", "no_header")
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    if repeated:
        problem = f"the first line must name the columns, each once; {repeated[0]!r} stands there twice"
        raise DataError(f"{location}: {problem}", "no_header")
    return columns


def _count(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"
