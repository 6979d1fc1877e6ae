"""A row, and how a column is asked of it."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxft.errors import DataError


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
      values: value of each column.
      location: where it begins, like ``reviews.jsonl:12`` (lines count from 1).
    """

    values: dict[str, Any]
    location: str


# What scanning a source gives: a row, or what is wrong with the row that stood there.
Scanned = Row | DataError


def required_column(row: Row, column: str) -> Any:
    """The value of a column.

    Raises:
      DataError: the row has no such column (``missing_column``), or a number in it is NaN or infinite
        (``not_a_number``), which files of numbers hold where JSON has null.
    """
    if column in row.values:
        value = row.values[column]
        if not _is_finite(value):
            problem = f"column {column!r} holds NaN or an infinite number"
            raise DataError(f"{row.location}: {problem}, from which nothing can be learned", "not_a_number")
        return value
    names = ", ".join(map(repr, row.values)) or "none"
    nearest = difflib.get_close_matches(column, row.values, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise DataError(f"{row.location}: there is no column {column!r}; the columns are: {names}.{hint}", "missing_column")


def text_column(row: Row, column: str) -> str:
    """The value of a column that must be text.

    Raises:
      DataError: the row has no such column (``missing_column``), or its value isn't a string (``not_text``), holds a
        NUL character (``nul``), or is empty or only whitespace (``empty_text``).
    """
    value = required_column(row, column)
    if not isinstance(value, str):
        raise DataError(f"{row.location}: column {column!r} must be text; found {_describe(value)}", "not_text")
    if "\0" in value:
        raise DataError(f"{row.location}: column {column!r} holds a NUL character, which is not text", "nul")
    if not value.strip():
        raise DataError(f"{row.location}: empty text in column {column!r}", "empty_text")
    return value


def _is_finite(value: Any) -> bool:
    """Whether all numbers in a value are finite."""
    if isinstance(value, (float, np.floating)):
        return math.isfinite(value)
    if isinstance(value, np.ndarray):
        return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_finite, value))


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    written = repr(value)
    return f"{type(value).__name__} {written if len(written) <= 40 else written[:40] + '…'}"
