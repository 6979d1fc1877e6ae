"""Sources: every row arrives with its place, and whatever is wrong is an error that names the place."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from jaxft.data import embedded
from jaxft.data.sources import (
    Row,
    SourceConfig,
    read_rows,
    required_column,
    resolve_paths,
    source_fingerprint,
    text_column,
)
from jaxft.errors import DataError, InvalidField, RecipeError

GOOD = '{"text": "good", "label": 1}\n'


def read(directory: Path, name: str, content: str | bytes, **options) -> list[Row]:
    """The rows of a file that is written first; its format is its suffix."""
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    key = {"txt": "text"}.get(path.suffix[1:], path.suffix[1:])
    return list(read_rows(SourceConfig(**{key: (name,)}, **options), directory))


def values(rows: list[Row]) -> list[dict]:
    return [row.values for row in rows]


def locations(rows: list[Row]) -> list[str]:
    return [row.location for row in rows]


# Reading what is right.


def test_jsonl_counts_blank_lines_but_does_not_read_them(tmp_path):
    rows = read(tmp_path, "r.jsonl", '\ufeff{"a": "ü\\n😀"}\r\n\n   \n{"a": [1, null]}')
    assert rows == [Row({"a": "ü\n😀"}, "r.jsonl:1"), Row({"a": [1, None]}, "r.jsonl:4")]


def test_unicode_line_separators_do_not_end_a_line(tmp_path):
    text = "one\u2028two\x0cthree\x85four"
    assert values(read(tmp_path, "r.jsonl", json.dumps({"text": text}, ensure_ascii=False))) == [{"text": text}]
    assert values(read(tmp_path, "r.txt", text, documents="lines")) == [{"text": text}]


def test_csv_written_by_python_comes_back(tmp_path):
    records = [["plain", "1"], ['with "quotes", commas', ""], ["two\nlines\r\n", "x"], ["long " * 50_000, "y"]]
    with (tmp_path / "w.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["text", "label"], *records])
    rows = list(read_rows(SourceConfig(csv=("w.csv",)), tmp_path))
    assert [list(row.values.values()) for row in rows] == records
    assert locations(rows) == ["w.csv:2", "w.csv:3", "w.csv:4", "w.csv:7"]


def test_tsv_takes_quotation_marks_as_they_are(tmp_path):
    rows = read(tmp_path, "r.tsv", 'text\tlabel\n"open\t1\nsaid "no"\t0\n')
    assert values(rows) == [{"text": '"open', "label": "1"}, {"text": 'said "no"', "label": "0"}]


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ("paragraphs", [("r.txt:2", "a\n  b"), ("r.txt:6", "c")]),
        ("lines", [("r.txt:2", "a"), ("r.txt:3", "  b"), ("r.txt:6", "c")]),
        ("file", [("r.txt:1", "\na\n  b\n\n \nc")]),
    ],
)
def test_text_is_cut_into_documents(tmp_path, documents, expected):
    rows = read(tmp_path, "r.txt", "\r\na\r\n  b\r\n\r\n \r\nc\r\n", documents=documents)
    assert [(row.location, row.values["text"]) for row in rows] == expected


def test_no_word_of_a_text_is_lost(shared_data):
    words = (shared_data / "lm/tinyshakespeare.txt").read_text(encoding="utf-8").split()
    for documents in ("paragraphs", "lines", "file"):
        config = SourceConfig(text=("lm/tinyshakespeare.txt",), documents=documents)
        rows = read_rows(config, shared_data)
        assert [word for row in rows for word in row.values["text"].split()] == words


def test_real_files_agree_with_the_standard_readers(shared_data):
    rows = list(read_rows(SourceConfig(jsonl=("classification/*.jsonl",)), shared_data))
    assert len(rows) == 1000 + 1000 + 8662
    assert locations(rows)[1000] == "classification/sentence_polarity_test.jsonl:1"
    with (shared_data / "probes/crows_pairs.csv").open(newline="", encoding="utf-8") as file:
        expected = list(csv.DictReader(file))
    assert values(list(read_rows(SourceConfig(csv=("probes/crows_pairs.csv",)), shared_data))) == expected


def test_limit_reads_no_further_than_it_must(tmp_path):
    assert len(read(tmp_path, "r.jsonl", GOOD * 3 + "broken", limit=3)) == 3
    with pytest.raises(DataError):
        read(tmp_path, "r.jsonl", GOOD * 3 + "broken", limit=4)


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    (tmp_path / "r.jsonl").write_text(GOOD + "broken")
    rows = read_rows(SourceConfig(jsonl=("r.jsonl",)), tmp_path)
    assert next(rows).location == "r.jsonl:1"
    with pytest.raises(DataError, match=r"r\.jsonl:2"):
        next(rows)


@pytest.fixture
def small_library(tmp_path, monkeypatch):
    """Makes the embedded corpus small."""
    package = tmp_path / "library" / "http"
    package.mkdir(parents=True)
    for number in range(40):
        (package / f"m{number}.py").write_text(f'"""A docstring that is long enough for a row: number {number}."""')
    monkeypatch.setattr(embedded.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "library")})
    monkeypatch.setenv("JAXFT_CACHE", str(tmp_path / "cache"))


def test_the_embedded_corpus_is_a_source(small_library, tmp_path):
    parts = {
        split: list(read_rows(SourceConfig(embedded="packages", split=split), tmp_path))
        for split in ("all", "train", "heldout")
    }
    assert values(parts["all"]) == values(parts["train"] + parts["heldout"])
    assert parts["train"][0].location == "embedded packages (train):1"
    assert parts["train"][0].values.keys() == {"text", "package"}
    fingerprints = {source_fingerprint(SourceConfig(embedded="packages", split=split), tmp_path) for split in parts}
    assert len(fingerprints) == 3


# What is wrong with a file.


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", b"", "r.jsonl is empty"),
        ("r.jsonl", b"\n \n", "r.jsonl is empty"),
        ("r.txt", b"\n \n", "r.txt is empty"),
        ("r.txt", b"\xef\xbb\xbf", "r.txt is empty"),
        ("r.csv", b"", "r.csv is empty"),
        ("r.csv", b"a,b\n", "r.csv is empty"),
        ("r.jsonl", GOOD.encode() + b'{"text": "caf\xe9"}', "r.jsonl:2: not UTF-8: byte 0xe9 at byte offset 42"),
        ("r.txt", b"\xef\xbb\xbfab\xff", "r.txt:1: not UTF-8: byte 0xff at byte offset 5"),
        ("r.txt", "ab".encode("utf-16"), "r.txt:1: not UTF-8: byte 0xff at byte offset 0"),
        ("r.csv", b"a,b\n1,2\n3,\xe9\n", "r.csv:3: not UTF-8: byte 0xe9 at byte offset 10"),
        ("r.jsonl", '\n{"a": 1,, "b": 2}\n', """r.jsonl:2: not valid JSON at column 9: .*', "b": 2}'"""),
        ("r.jsonl", '{"a": 1', "r.jsonl:1: not valid JSON at column 8: .*the end of the line"),
        ("r.jsonl", '{"a": 1}{"a": 2}', "r.jsonl:1: not valid JSON at column 9: Extra data"),
        ("r.jsonl", '{"a": NaN}', "r.jsonl:1: NaN is not a JSON value"),
        ("r.jsonl", '{"a": ' + "[" * 100_000, "r.jsonl:1: not readable as JSON"),
        ("r.jsonl", '{"a": 1' + "0" * 5000 + "}", "r.jsonl:1: not readable as JSON"),
        ("r.jsonl", GOOD + '["a"]', "r.jsonl:2: each line must be a JSON object; found an array"),
        ("r.jsonl", "null", "r.jsonl:1: .* found null"),
        ("r.jsonl", '{"a": 1, "b": {"c": 1, "c": 2}}', "r.jsonl:1: the key 'c' stands twice"),
        ("r.jsonl", '{"a": ["x\\ud83d"]}', "r.jsonl:1: a string holds .ud83d, half of a surrogate pair"),
        ("r.jsonl", '{"\\udc00": 1}', "r.jsonl:1: a string holds .udc00"),
        ("r.jsonl", '{"a": "x\\u0000"}', "r.jsonl:1: a string holds .u0000, a NUL"),
        ("r.txt", "one\ntwo\0\n", "r.txt:2: a NUL character at column 4"),
        ("r.csv", "a,b\n1,\0\n", "r.csv:2: a NUL character"),
        ("r.csv", 'a,b\n"1\n1",2\n1,2,3\n', "r.csv:4: the header names 2 columns, but this row has 3: '1,2,3'"),
        ("r.csv", "a,b\n1\n", "r.csv:2: the header names 2 columns, but this row has 1"),
        ("r.csv", 'a,b\n1,2\n"1,2\n3,4\n', "r.csv:3: malformed row"),
        ("r.csv", 'a,b\n"1"x,2\n', "r.csv:2: malformed row"),
        ("r.csv", "\ufeff,\n1,2\n", "r.csv:1: no header"),
        ("r.csv", "1,1\n2,1\n", "r.csv:1: .*'1' stands there twice"),
        ("r.tsv", "a\tb\n1,2\n", "r.tsv:2: the header names 2 columns, but this row has 1"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=f"^{message}"):
        read(tmp_path, name, content)


def test_escaped_surrogate_pairs_are_text(tmp_path):
    assert values(read(tmp_path, "r.jsonl", '{"a": "\\ud83d\\ude00"}')) == [{"a": "😀"}]


def test_one_bad_byte_anywhere_is_found(tmp_path):
    lines = [json.dumps({"text": "word " * n}) for n in range(1, 6)]
    for number in range(5):
        spoilt = [line.encode() for line in lines]
        spoilt[number] = spoilt[number].replace(b"word", b"wor\xc3", 1)
        with pytest.raises(DataError, match=f"r.jsonl:{number + 1}: not UTF-8"):
            read(tmp_path, "r.jsonl", b"\n".join(spoilt))


# Paths.


def test_paths_start_from_the_base_directory_then_from_the_working_directory(tmp_path, monkeypatch):
    base, working = tmp_path / "base [1]", tmp_path / "working"
    for directory, names in ((base, ["both.txt", "b.txt", "a.txt", ".hidden.txt"]), (working, ["both.txt", "w.log"])):
        (directory / "folder.txt").mkdir(parents=True)
        for name in names:
            (directory / name).write_text("x")
    monkeypatch.chdir(working)

    def resolve(*paths: str) -> list[Path]:
        return resolve_paths(SourceConfig(text=paths), base)

    assert resolve("both.txt") == [base / "both.txt"]
    assert resolve("w.log", str(working / "both.txt")) == [working / "w.log", working / "both.txt"]
    assert resolve("*.txt") == [base / "a.txt", base / "b.txt", base / "both.txt"]
    assert resolve("*.log", "../base [[]1]/a*") == [working / "w.log", base / "../base [1]/a.txt"]
    assert [row.location for row in read_rows(SourceConfig(text=("w.log",)), base)] == ["w.log:1"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data/reviws.jsonl", r"jsonl: there is no file 'data/reviws.jsonl'; looked in .*data.*'reviews\.jsonl'\?"),
        ("data/*.json", r"jsonl: no file matches 'data/\*\.json'; looked in .*data"),
        ("nowhere/x.jsonl", r"jsonl: there is no file 'nowhere/x.jsonl'; .*nowhere \(no such directory\)"),
        ("data", r"jsonl: 'data' is a directory .*data/\*"),
    ],
)
def test_a_path_that_is_no_file_is_a_mistake_in_the_recipe(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "data").mkdir(parents=True)
    (tmp_path / "recipes" / "data" / "reviews.jsonl").write_text(GOOD)
    for read_something in (source_fingerprint, resolve_paths, lambda *arguments: list(read_rows(*arguments))):
        with pytest.raises(RecipeError, match=message):
            read_something(SourceConfig(jsonl=(path,)), tmp_path / "recipes")


def test_a_file_named_twice_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD)
    with pytest.raises(RecipeError, match="a second time"):
        resolve_paths(SourceConfig(jsonl=("a.jsonl", "*.jsonl")), tmp_path)


# The fingerprint.


def test_fingerprint_follows_content_and_options_only(tmp_path):
    def fingerprint(directory: str, name: str, content: str, **options) -> str:
        (tmp_path / directory).mkdir(exist_ok=True)
        (tmp_path / directory / name).write_text(content)
        return source_fingerprint(SourceConfig(**{"text": (name,), **options}), tmp_path / directory)

    assert fingerprint("a", "x.txt", "one") == fingerprint("b", "y.txt", "one")
    others = {
        fingerprint("a", "x.txt", "one"),
        fingerprint("a", "x.txt", "onE"),
        fingerprint("a", "x.txt", "one", limit=1),
        fingerprint("a", "x.txt", "one", documents="lines"),
        fingerprint("a", "x.txt", "one", text=None, jsonl=("x.txt",)),
    }
    assert len(others) == 5


def test_fingerprint_tells_where_one_file_ends(tmp_path):
    fingerprints = set()
    for first, second in (("ab", "c"), ("a", "bc"), ("c", "ab")):
        (tmp_path / "1").write_text(first)
        (tmp_path / "2").write_text(second)
        fingerprints.add(source_fingerprint(SourceConfig(text=("1", "2")), tmp_path))
    assert len(fingerprints) == 3


# Configs and columns.


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "jsonl"),
        ({"jsonl": ("a",), "text": ("b",)}, "text"),
        ({"csv": ("a",), "embedded": "packages"}, "embedded"),
        ({"jsonl": ()}, "jsonl"),
        ({"text": ("a", "")}, "text"),
        ({"embedded": "package"}, "embedded"),
        ({"embedded": "packages", "split": "test"}, "split"),
        ({"text": ("a",), "documents": "sentences"}, "documents"),
        ({"jsonl": ("a",), "split": "train"}, "split"),
        ({"jsonl": ("a",), "documents": "lines"}, "documents"),
        ({"jsonl": ("a",), "limit": 0}, "limit"),
    ],
)
def test_impossible_configs_name_the_field(options, field):
    with pytest.raises(InvalidField) as caught:
        SourceConfig(**options)
    assert caught.value.field == field


def test_a_missing_column_is_named_with_the_nearest():
    row = Row({"text": "a", "label": None}, "r.jsonl:7")
    assert required_column(row, "label") is None
    message = "r.jsonl:7: there is no column 'lable'; the columns are: 'text', 'label'. Did you mean 'label'?"
    with pytest.raises(DataError, match=re.escape(message)):
        required_column(row, "lable")


@pytest.mark.parametrize("value", [None, 3, ["a"], "", " \n\t\u3000"])
def test_a_text_column_holds_text(value):
    with pytest.raises(DataError, match=r"^r\.jsonl:7: .*'text'"):
        text_column(Row({"text": value}, "r.jsonl:7"), "text")
    assert text_column(Row({"text": " a\n"}, "r.jsonl:7"), "text") == " a\n"
