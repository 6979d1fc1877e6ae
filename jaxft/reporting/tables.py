"""Values and tables as plain text."""

from __future__ import annotations

import math
import numbers
import re
import unicodedata
from collections.abc import Sequence

Cell = str | float | int | None

_MISSING = "–"
_NUMBER_LIKE = re.compile(r"[+\-−]?\d[\d.,e+\-−± /%kMBT]*")


def format_value(value: Cell) -> str:
    """A value as a person would write it in a table.

    Args:
      value: text is returned as it is; whole numbers get thousands separators; other numbers get about four
        significant digits; None, which stands for a number that was not finite, becomes a dash.
    """
    if value is None:
        return _MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        return _format_real(float(value))
    return str(value)


def _format_real(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    magnitude = abs(value)
    if magnitude == 0:
        return "0"
    if magnitude < 1e-3 or magnitude >= 1e9:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if magnitude >= 1000:
        return f"{value:,.0f}"
    if magnitude < 0.01:
        return f"{value:.5f}"
    decimals = 4 if magnitude < 1 else 3 if magnitude < 10 else 2 if magnitude < 100 else 1
    return f"{value:.{decimals}f}"


def numeric_columns(rows: Sequence[Sequence[Cell]]) -> tuple[bool, ...]:
    """For each column, whether all that is in it reads as a number and so belongs on the right.

    Text such as `+0.3`, `12 %` or `0.91 ± 0.02` reads as a number. Columns without any value are text.
    """
    if not rows:
        return ()
    return tuple(_is_numeric(column) for column in zip(*rows, strict=True))


def _is_numeric(column: Sequence[Cell]) -> bool:
    known = [cell for cell in column if cell not in (None, "", _MISSING)]
    return bool(known) and all(_reads_as_number(cell) for cell in known)


def _reads_as_number(cell: Cell) -> bool:
    if isinstance(cell, str):
        return _NUMBER_LIKE.fullmatch(cell.strip()) is not None
    return not isinstance(cell, bool)


def text_table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """An aligned table for standard output: numbers on the right, text on the left, a rule under the header.

    Args:
      header: the names of the columns.
      rows: one sequence of cells a row, each as long as the header.

    Returns:
      The lines of the table without a newline at the end.

    Raises:
      ValueError: a row is not as long as the header.
    """
    lines = [[_single_line(name) for name in header]]
    lines += [[_single_line(format_value(cell)) for cell in row] for row in rows]
    widths = [max(_display_width(text) for text in column) for column in zip(*lines, strict=True)]
    to_the_right = numeric_columns(rows) or (False,) * len(widths)
    lines.insert(1, ["─" * width for width in widths])
    return "\n".join(_aligned(line, widths, to_the_right) for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int], to_the_right: Sequence[bool]) -> str:
    cells = []
    for text, width, right in zip(line, widths, to_the_right, strict=True):
        padding = " " * (width - _display_width(text))
        cells.append(padding + text if right else text + padding)
    return "  ".join(cells).rstrip()


def _single_line(text: str) -> str:
    return " ".join(text.split())


def _display_width(text: str) -> int:
    """Columns of a terminal that `text` takes: wide East Asian characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
