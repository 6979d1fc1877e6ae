"""Properties of values and tables as text."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jaxft.reporting.tables import format_value, numeric_columns, text_table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (None, "–"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (np.int64(2000), "2,000"),
        (0.0, "0"),
        (0.9123456, "0.9123"),
        (np.float32(2.5), "2.500"),
        (-12.345, "-12.35"),
        (18300.4, "18,300"),
        (0.00456, "0.00456"),
        (5e-5, "5e-5"),
        (1.5e12, "1.5e12"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
    ],
)
def test_values_read_as_a_person_would_write_them(value, text):
    assert format_value(value) == text


def test_no_value_is_rounded_by_more_than_half_a_percent():
    for exponent in np.linspace(-12, 14, 500):
        value = float(10**exponent)
        assert float(format_value(value).replace(",", "")) == pytest.approx(value, rel=5e-3)


def test_numbers_stand_on_the_right_and_text_on_the_left():
    lines = text_table(("arm", "accuracy"), [("one_way", 0.91), ("b", 12345)]).splitlines()
    assert lines[0] == "arm      accuracy"
    assert lines[2] == "one_way    0.9100"
    assert lines[3] == "b          12,345"


def test_wide_characters_keep_columns_aligned():
    lines = text_table(("label", "note"), [("正面", "x"), ("abcd", "y")]).splitlines()
    assert lines[2] == "正面   x"
    assert lines[3] == "abcd   y"


def test_a_cell_with_line_breaks_stays_on_its_row():
    assert len(text_table(("a",), [("one\ntwo",)]).splitlines()) == 3


def test_a_table_without_rows_shows_its_header():
    assert text_table(("a", "b"), []).splitlines()[0] == "a  b"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError):
        text_table(("a", "b"), [(1,)])


def test_text_that_reads_as_a_number_counts_as_one_and_gaps_do_not_matter():
    rows = [("0.91 ± 0.02", None, "3 layers", None), ("+0.3", 1.0, "12 %", None)]
    assert numeric_columns(rows) == (True, True, False, False)
