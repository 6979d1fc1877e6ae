"""Numbers that are none: a bad row wherever a column that is read holds one, whatever the format."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from made_sources import prepare_tfds, write_hf, write_parquet

from jaxft.data.preparing import BadRowsConfig, Preparation, open_or_build
from jaxft.data.sources import Row, SourceConfig, required_column, scan_rows
from jaxft.data.store import TOKENS, Fields
from jaxft.errors import DataError

SCORES = (0.5, math.nan, math.inf, 2.0, -math.inf)
ROWS = [{"text": f"text {i}", "score": score, "unread": math.nan} for i, score in enumerate(SCORES)]


@pytest.fixture(params=["parquet", "hf", "tfds"])
def source(request, tmp_path, monkeypatch):
    """The rows in a format that can hold such numbers, and where it lies."""
    if request.param == "parquet":
        write_parquet(tmp_path / "r.parquet", ROWS)
        return SourceConfig(parquet=("r.parquet",)), tmp_path
    if request.param == "hf":
        write_hf(tmp_path / "hf", ROWS)
        return SourceConfig(hf="hf"), tmp_path
    library = pytest.importorskip("tensorflow_datasets")
    features = {"text": library.features.Text(), "score": np.float64, "unread": np.float64}
    prepare_tfds(tmp_path, {"train": ROWS}, library.features.FeaturesDict(features), "made")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    return SourceConfig(tfds="made", split="train"), tmp_path


def _fields(row: Row) -> Fields:
    return Fields({TOKENS: required_column(row, "text")}, {"score": float(required_column(row, "score"))})


def test_rows_with_numbers_that_are_none_are_counted(source, tokenizer, tmp_path):
    build = functools.partial(open_or_build, rows=lambda: scan_rows(*source), fields=_fields, tokenizer=tokenizer)
    how = Preparation(BadRowsConfig("skip", limit=5))
    store = build(tmp_path / "skipped", where="made", how=how)
    assert store.bad == {"not_a_number": 3}
    assert [record["score"] for record in store.read([0, 1])] == [0.5, 2.0]
    with pytest.raises(DataError, match=r":\d: column 'score' holds NaN") as error:
        build(tmp_path / "raised", where="made")
    assert error.value.reason == "not_a_number"


@pytest.mark.parametrize(
    "value",
    [[1.0, [math.nan]], {"x": [math.inf]}, (1.0, -math.inf), np.array([[1, np.nan]], np.float16), np.float32("inf")],
)
def test_numbers_inside_of_a_value_count_too(value):
    with pytest.raises(DataError):
        required_column(Row({"value": value}, "made:1"), "value")


@pytest.mark.parametrize("value", [[1.0, ["nan"]], {"x": None}, 3, True, np.arange(4, dtype=np.uint8), "inf", None])
def test_other_values_are_given_as_they_are(value):
    assert required_column(Row({"value": value}, "made:1"), "value") is value
