"""CSV and TSV: records with the columns that the first line names."""

from __future__ import annotations

import csv
import sys
from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from jaxft.data.sources.files import File
from jaxft.data.sources.lines import MAX_ROW_BYTES, Line, read_lines, too_long
from jaxft.data.sources.rows import Row, Scanned
from jaxft.data.sources.strict_json import excerpt
from jaxft.errors import DataError


def csv_rows(file: File, name: str) -> Iterator[Scanned]:
    """One row per record of a comma-separated file; a quoted field may span lines. Blank lines are passed over.

    A record that can't be parsed costs its first line alone: reading goes on with the next one, so that a quotation
    mark that is never closed doesn't swallow the rest of the file. As the next lines may be what is left of
    the record, none of them is taken for a row while its quotation marks are odd in number, which no record's are.

    Raises:
      DataError: the file is empty or its header is wrong.
      RecipeError: it can't be read.
    """
    return _delimited_rows(file, name, ",", csv.QUOTE_MINIMAL)


def tsv_rows(file: File, name: str) -> Iterator[Scanned]:
    """One row per line of a tab-separated file, in which quotation marks mean nothing special; see `csv_rows`."""
    return _delimited_rows(file, name, "\t", csv.QUOTE_NONE)


class _Record(NamedTuple):
    """The fields of a record, the number of its first line and what is wrong with it."""

    number: int
    fields: list[str]
    quotes: int
    defect: DataError | None


def _delimited_rows(file: File, name: str, delimiter: str, quoting: int) -> Iterator[Scanned]:
    # The limit belongs to the process; its default of 128 KiB refuses long documents.
    csv.field_size_limit(max(csv.field_size_limit(), min(sys.maxsize, 2**31 - 1)))
    lines = _Lines(read_lines(file, name))
    records = iter(lambda: _next_record(lines, name, delimiter, quoting), None)
    header = _header(next(records, _Record(1, [], 0, None)), name)
    last: Scanned | None = None
    for record in records:
        last = _row(record, header, name, delimiter, after_defect=isinstance(last, DataError))
        yield last
    if last is None:
        raise DataError(f"{name} is empty: it has a header but no rows", "empty_file")


def _row(record: _Record, header: list[str], name: str, delimiter: str, after_defect: bool) -> Scanned:
    location = f"{name}:{record.number}"
    if record.defect:
        return record.defect
    if len(record.fields) != len(header):
        shown = excerpt(delimiter.join(record.fields))
        problem = f"the header names {_count(len(header))}, but this row has {len(record.fields)}: {shown}"
        return DataError(f"{location}: {problem}", "wrong_columns")
    if after_defect and delimiter == "," and record.quotes % 2:
        shown = excerpt(delimiter.join(record.fields))
        problem = f"malformed row, the rest of the one before: an odd number of quotation marks: {shown}"
        return DataError(f"{location}: {problem}", "malformed_csv")
    return Row(dict(zip(header, record.fields, strict=True)), location)


class _Lines:
    """Lines of a file, some of which may be put back."""

    def __init__(self, lines: Iterator[Line]):
        self._lines = lines
        self._waiting: deque[Line] = deque()

    def take(self) -> Line | None:
        return self._waiting.popleft() if self._waiting else next(self._lines, None)

    def put_back(self, lines: list[Line]) -> None:
        self._waiting.extendleft(reversed(lines))


class _TooLong(Exception):
    """A record that would take too much memory."""


def _next_record(lines: _Lines, name: str, delimiter: str, quoting: int) -> _Record | None:
    """The next record that isn't a blank line; None at the end."""
    taken: list[Line] = []

    def texts() -> Iterator[str]:
        length = 0
        while line := lines.take():
            taken.append(line)
            length += len(line.text)
            if length > MAX_ROW_BYTES:
                raise _TooLong
            yield line.text

    fields: list[str] | None = []
    error: csv.Error | _TooLong | None = None
    while not (fields or error or any(line.defect for line in taken)):
        taken.clear()
        try:
            fields = next(csv.reader(texts(), delimiter=delimiter, quoting=quoting, strict=True), None)
        except (csv.Error, _TooLong) as caught:
            error = caught
        if fields is None:
            return None
    first, last = taken[0], taken[-1]
    defect = next((line.defect for line in taken if line.defect), None)
    if error is not None and not (last.defect and last.defect.reason in ("truncated", "corrupt")):
        lines.put_back(taken[1:])
        defect = first.defect or _malformed(error, f"{name}:{first.number}")
    return _Record(first.number, fields, sum(line.text.count('"') for line in taken), defect)


def _malformed(error: csv.Error | _TooLong, location: str) -> DataError:
    if isinstance(error, _TooLong):
        return too_long(location, "a record (is a quotation mark never closed?) is")
    return DataError(f"{location}: malformed row: {error}", "malformed_csv")


def _header(record: _Record, name: str) -> list[str]:
    if record.defect:
        raise record.defect
    location, columns = f"{name}:{record.number}", record.fields
    if not any(column.strip() for column in columns):
        raise DataError(f"{location}: no header; the first line must name the columns", "no_header")
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    if repeated:
        problem = f"the first line must name the columns, each once; {repeated[0]!r} stands there twice"
        raise DataError(f"{location}: {problem}", "no_header")
    return columns


def _count(columns: int) -> str:
    return "1 column" if columns == 1 else f"{columns} columns"
