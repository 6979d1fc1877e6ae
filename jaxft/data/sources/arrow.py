"""Rows of Arrow's tables, which Parquet files and Hugging Face's datasets are read as."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jaxft.data.sources.rows import Row, Scanned
from jaxft.errors import DataError

BATCH_ROWS = 256


def arrow_rows(batch: Any, name: str, number: int) -> Iterator[Scanned]:
    """The rows of a ``pyarrow.RecordBatch`` or ``Table``, of which `number` lie before it."""
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        # Arrow doesn't look whether text is UTF-8. One by one, so that only the rows that aren't are lost.
        rows = [_values(batch.slice(i, 1)) for i in range(batch.num_rows)]
    for i, values in enumerate(rows, start=number + 1):
        location = f"{name}:{i}"
        if isinstance(values, UnicodeDecodeError):
            yield DataError(f"{location}: text that is not UTF-8: {values.reason}", "not_utf8")
        else:
            yield Row(values, location)


def _values(batch: Any) -> dict[str, Any] | UnicodeDecodeError:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return error
