"""The options that all formats share: columns, filter, shuffle, limit. Rows chosen alike, whatever they come from."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from made_sources import prepare_tfds, scan, write_delimited, write_hf, write_jsonl, write_parquet

from jaxft.data.sources import SourceConfig, read_rows, scan_rows, selection
from jaxft.errors import DataError, InvalidField

ROWS = [{"text": f"text {i}", "label": i % 4, "language": "dee"[i % 3] + "en"[i % 2]} for i in range(120)]
FORMATS = ("jsonl", "csv", "tsv", "parquet", "hf", "tfds")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The same rows in every format."""
    library = pytest.importorskip("tensorflow_datasets")
    path = tmp_path_factory.mktemp("rows")
    write_jsonl(path / "r.jsonl", ROWS)
    write_delimited(path / "r.csv", ROWS, ",")
    write_delimited(path / "r.tsv", ROWS, "\t")
    write_parquet(path / "r.parquet", ROWS, row_group_size=7)
    write_hf(path / "hf", ROWS)
    text, number = library.features.Text(), library.features.ClassLabel(num_classes=4)
    features = library.features.FeaturesDict({"text": text, "label": number, "language": text})
    prepare_tfds(path, {"train": ROWS}, features, "rows")
    return path


@pytest.fixture(params=FORMATS)
def source(request, directory, monkeypatch):
    """Reads ROWS of one format with options."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(directory))
    named = {"hf": {"hf": "hf"}, "tfds": {"tfds": "rows", "split": "train"}}
    place = named.get(request.param, {request.param: (f"r.{request.param}",)})
    return lambda **options: [as_numbers(row) for row in scan(directory, **place, **options)]


def as_numbers(row: dict | str) -> dict | str:
    """A row whose numbers are numbers, also where all values are text; a reason as it is."""
    if isinstance(row, str):
        return row
    return {name: int(value) if value.isdecimal() else value for name, value in ((k, str(v)) for k, v in row.items())}


def by_text(row: dict) -> str:
    return row["text"]


def test_columns_are_chosen_and_renamed(source):
    rows = source()
    assert sorted(rows, key=by_text) == sorted(ROWS, key=by_text)
    assert source(columns={"label": "text", "again": "text", "class of text": "label"}) == [
        {"label": row["text"], "again": row["text"], "class of text": row["label"]} for row in rows
    ]


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({"label": 2}, lambda row: row["label"] == 2),
        ({"label": (0, 3)}, lambda row: row["label"] in (0, 3)),
        ({"label": (1, "x"), "language": "en"}, lambda row: row["label"] == 1 and row["language"] == "en"),
        ({"language": ("de", "dn")}, lambda row: row["language"][0] == "d"),
        ({"label": 7}, lambda row: False),
    ],
)
def test_filters_keep_rows_with_these_values(source, options, passes):
    rows = source()
    kept = [row for row in rows if passes(row)]
    assert source(filter=options) == kept
    assert source(filter=options, columns={"t": "text"}) == [{"t": row["text"]} for row in kept]


@pytest.mark.parametrize(
    ("options", "leaves"),
    [
        ({"label": 2}, lambda row: row["label"] == 2),
        ({"label": (0, 3)}, lambda row: row["label"] in (0, 3)),
        ({"label": 1, "language": "en"}, lambda row: row["label"] == 1 or row["language"] == "en"),
        ({"label": 7}, lambda row: False),
    ],
)
def test_rows_with_excluded_values_are_left_out(source, options, leaves):
    kept = [row for row in source() if not leaves(row)]
    assert source(exclude=options) == kept
    assert source(exclude=options, columns={"t": "text"}) == [{"t": row["text"]} for row in kept]


def test_a_filter_and_its_exclusion_share_all_rows(source):
    one, other = source(filter={"label": (0, 2)}), source(exclude={"label": (0, 2)})
    assert one and other and sorted([*one, *other], key=by_text) == sorted(source(), key=by_text)


def test_a_limit_takes_the_first_rows_that_pass(source):
    rows = source()
    assert source(limit=7) == rows[:7]
    assert source(limit=1000) == rows
    assert source(filter={"label": 1}, limit=5) == [row for row in rows if row["label"] == 1][:5]


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_shuffling_is_an_order_of_all_rows_that_the_seed_decides(source, seed):
    rows, shuffled = source(), source(shuffle=seed)
    assert shuffled != rows and sorted(shuffled, key=by_text) == sorted(rows, key=by_text)
    assert source(shuffle=seed) == shuffled != source(shuffle=seed + 1)
    for limit in (1, 50, 120, 500):
        assert source(shuffle=seed, limit=limit) == shuffled[:limit]


@pytest.mark.parametrize(
    "options", [{"columns": {"a": "text", "b": "txt"}}, {"filter": {"txt": 1}}, {"filter": {"label": 9, "txt": 1}}]
)
def test_a_missing_column_is_a_defect_of_every_row(source, options):
    assert source(**options) == ["missing_column"] * len(ROWS)


def test_types_are_compared_as_json_has_them(tmp_path):
    values = [1, 1.0, True, "1", None, [1], 0, False, "true"]
    write_jsonl(tmp_path / "r.jsonl", ({"v": value} for value in values))

    def kept(*allowed) -> list:
        return [row["v"] for row in scan(tmp_path, jsonl=("r.jsonl",), filter={"v": allowed})]

    assert [repr(value) for value in kept(1)] == ["1", "1.0"]
    assert kept(True) == [True] and kept(False) == [False] and kept("1") == ["1"] and kept("true") == ["true"]
    (tmp_path / "r.csv").write_text("v\n1\n1.0\nTrue\ntrue\nfalse\n01\n")
    for value, found in ((1, ["1"]), ("1", ["1"]), (1.0, ["1.0"]), (True, ["True", "true"]), (False, ["false"])):
        assert [row["v"] for row in scan(tmp_path, csv=("r.csv",), filter={"v": value})] == found


def test_defects_are_passed_on_and_count_for_no_limit(tmp_path):
    lines = [f'{{"n": {i}, "odd": {i % 2}}}' if i % 5 else "broken" for i in range(40)]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))

    def found(**options) -> tuple[list, int]:
        rows = scan(tmp_path, jsonl=("r.jsonl",), **options)
        return [row["n"] for row in rows if isinstance(row, dict)], rows.count("malformed_json")

    good = [i for i in range(40) if i % 5]
    assert found(limit=5) == (good[:5], 2)
    assert found(filter={"odd": 1}, limit=5) == ([1, 3, 7, 9, 11], 3)
    numbers, defects = found(shuffle=3)
    assert sorted(numbers) == good and defects == 8
    assert found(shuffle=3, limit=4) == (numbers[:4], 8)
    with pytest.raises(DataError, match=r"r\.jsonl:1"):
        list(read_rows(SourceConfig(jsonl=("r.jsonl",), limit=4), tmp_path))


def test_every_row_is_as_likely_in_every_place(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", ({"n": i} for i in range(4)))
    orders = [tuple(row["n"] for row in scan(tmp_path, jsonl=("r.jsonl",), shuffle=seed)) for seed in range(2400)]
    counts = [orders.count(order) for order in itertools.permutations(range(4))]
    # 23 degrees of freedom: above 49.7 once in a thousand times.
    assert sum((count - 100) ** 2 / 100 for count in counts) < 49.7


def test_the_order_of_a_seed_is_the_same_for_ever(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", ({"n": i} for i in range(10)))
    assert [row["n"] for row in scan(tmp_path, jsonl=("r.jsonl",), shuffle=0)] == [3, 7, 5, 2, 8, 4, 9, 1, 6, 0]


@pytest.mark.parametrize("limit", [None, 20])
def test_rows_are_shuffled_in_bounded_memory(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(selection, "_BUCKET_BYTES_IN_MEMORY", 2**12)
    write_jsonl(tmp_path / "r.jsonl", ({"n": i, "text": "x" * 4000} for i in range(4000)))
    tracemalloc.start()
    rows = scan_rows(SourceConfig(jsonl=("r.jsonl",), shuffle=1, limit=limit), tmp_path)
    numbers = [row.values["n"] for row in rows]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(numbers)) == len(numbers) == (limit or 4000)
    assert peak < 4 * 2**20


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"columns": {}}, "columns"),
        ({"columns": {"a": ""}}, "columns"),
        ({"filter": {}}, "filter"),
        ({"filter": {"a": ()}}, "filter.a"),
        ({"exclude": {}}, "exclude"),
        ({"exclude": {"a": ()}}, "exclude.a"),
        ({"shuffle": -1}, "shuffle"),
        ({"config_name": "x"}, "config_name"),
        ({"split": "all"}, "split"),
        ({"documents": "lines"}, "documents"),
        ({"jsonl": None, "tfds": "mnist"}, "split"),
        ({"jsonl": None, "tfds": " ", "split": "train"}, "tfds"),
        ({"jsonl": None, "tfds": "mnist", "split": "train", "config_name": "x"}, "config_name"),
        ({"jsonl": None, "hf": ""}, "hf"),
        ({"jsonl": None, "hf": "x", "split": ""}, "split"),
        ({"jsonl": None, "images": ()}, "images"),
        ({"hf": "x"}, "hf"),
    ],
)
def test_impossible_options_name_the_field(options, field):
    with pytest.raises(InvalidField) as caught:
        SourceConfig(**{"jsonl": ("r.jsonl",), **options})
    assert caught.value.field == field
