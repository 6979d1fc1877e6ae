"""Bad rows of every kind: each is one defect in the row's place, with its reason, and costs no other row."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zstandard
from made_sources import scan
from PIL import Image

from jaxft.data.sources import Row, SourceConfig, read_rows, required_column, scan_rows, text_column
from jaxft.errors import DataError

MEGABYTE = 2**20
COMPRESSIONS = {
    "gz": gzip.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zst": zstandard.ZstdCompressor().compress,
}


def deep(depth: int) -> bytes:
    return b'{"a": ' + b"[" * depth + b"]" * depth + b"}"


BAD_JSON = [
    (b'{"a": 1,}', "malformed_json"),
    (b'{"a": 1', "malformed_json"),
    (b'{"a": 1}{"a": 2}', "malformed_json"),
    (b"{'a': 1}", "malformed_json"),
    (b'{"a": 1' + b"0" * 5000 + b"}", "malformed_json"),
    (b'{"a": "\t"}', "malformed_json"),
    (b'{"a": 1, "b": {"c": 1, "c": 1}}', "duplicate_key"),
    (b'{"a": NaN}', "not_a_number"),
    (b'{"a": [-Infinity]}', "not_a_number"),
    (b'{"a": 1e999}', "not_a_number"),
    (b'{"a": "\\ud83d"}', "lone_surrogate"),
    (b'{"\\udc00": 1}', "lone_surrogate"),
    (b'{"a": "x\\u0000"}', "nul"),
    (b'{"a": "\0"}', "nul"),
    (b'{"a": "\xe9"}', "not_utf8"),
    (b'{"a": "\xed\xa0\x80"}', "not_utf8"),
    (deep(201), "too_deep"),
    (deep(900), "too_deep"),
    (deep(100_000), "too_deep"),
    (b'["a"]', "not_an_object"),
    (b"null", "not_an_object"),
    (b'{"a": "' + b"x" * (17 * MEGABYTE) + b'"}', "too_long"),
]
BAD_CSV = [
    (b"1\n", "wrong_columns"),
    (b"1,2,3\n", "wrong_columns"),
    (b'"1\n', "malformed_csv"),
    (b'"1"x,2\n', "malformed_csv"),
    (b'"1\n1",2,3\n', "wrong_columns"),
    (b'"1\n\xff\n1",2\n', "not_utf8"),
    (b"\0,2\n", "nul"),
    (b'1,"\xe9"\n', "not_utf8"),
    (b"x" * (17 * MEGABYTE) + b"\n", "too_long"),
]
BAD_TSV = [
    (b"1\n", "wrong_columns"),
    (b'"1\t2\t3"\n', "wrong_columns"),
    (b"1\t\0\n", "nul"),
    (b"\xe9\t1\n", "not_utf8"),
    (b"1\r2\t3\n", "malformed_csv"),
]
BAD_SENTENCES = [
    (b"A\tO\nB\nC\tO\n\n", "wrong_columns"),
    (b"A\tO\nB O\nC\tO\n \t \n", "wrong_columns"),
    (b"A\tO\tO\n\n", "wrong_columns"),
    (b"\tO\n\n", "wrong_columns"),
    (b"A\t\n\n", "wrong_columns"),
    (b"A\tO\n\xff\tO\nB\n\n", "not_utf8"),
    (b"A\tO\nB\0\tO\n\n", "nul"),
    (b"A\tO\n" + b"x" * (17 * MEGABYTE) + b"\tO\nB\tO\n\n", "too_long"),
]
BAD_PARAGRAPHS = [
    (b"one\ntw\xe9\nthree\n\n", "not_utf8"),
    (b"one\n\0\n\xff\n\n", "nul"),
    (b"one\n" + b"x" * (17 * MEGABYTE) + b"\ntwo\n\n", "too_long"),
    ((b"lines " * 200 + b"\n") * (17 * MEGABYTE // 1201) + b"\n", "too_long"),
]


def mixed(good: list[tuple[bytes, dict]], bad: list[tuple[bytes, str]], seed: int) -> tuple[bytes, list]:
    """Records, each bad one among them once and each good one several times, and what should come of them."""
    records = [*bad, *good * (1 + len(bad) // len(good))]
    random.Random(seed).shuffle(records)
    return b"".join(record for record, _ in records), [expected for _, expected in records]


@pytest.mark.parametrize("seed", range(2))
def test_every_line_of_json_is_a_row_or_a_defect(tmp_path, seed):
    good = [(b'{"a": 1}\n', {"a": 1}), (b"\n \t\r\n" + deep(199) + b"\r\n", json.loads(deep(199)))]
    good += [(b'{"a": "\\ud83d\\ude00 \xc3\xa9 NaN"}\n', {"a": "😀 é NaN"})]
    content, expected = mixed(good, [(line + b"\n", reason) for line, reason in BAD_JSON], seed)
    (tmp_path / "r.jsonl").write_bytes(content)
    assert scan(tmp_path, jsonl=("r.jsonl",)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_every_record_of_csv_is_a_row_or_a_defect(tmp_path, seed):
    good = [(b"x,y\n", {"a": "x", "b": "y"}), (b'\n"1, ""2""\n\n3",\r\n', {"a": '1, "2"\n\n3', "b": ""})]
    content, expected = mixed(good, BAD_CSV, seed)
    (tmp_path / "r.csv").write_bytes(b"a,b\n" + content)
    assert scan(tmp_path, csv=("r.csv",)) == expected


def test_a_quotation_mark_that_is_never_closed_costs_one_row(tmp_path):
    rows = [f"{i},text number {i}" for i in range(50_000)]
    rows[3] = '3,"lost'
    (tmp_path / "r.csv").write_text("a,b\n" + "\n".join(rows))
    scanned = list(scan_rows(SourceConfig(csv=("r.csv",)), tmp_path))
    assert [str(row) for row in scanned if isinstance(row, DataError)] == [
        "r.csv:5: malformed row: unexpected end of data"
    ]
    assert [row.values["a"] for row in scanned if isinstance(row, Row)] == [str(i) for i in range(50_000) if i != 3]


def test_a_record_that_never_ends_is_too_long(tmp_path):
    rows = ["a,b", '"lost,1', *(f"{i},{'x' * 200}" for i in range(100_000))]
    (tmp_path / "r.csv").write_text("\n".join(rows))
    found = scan(tmp_path, csv=("r.csv",))
    assert found[0] == "too_long" and len(found) == 100_001
    assert all(isinstance(values, dict) for values in found[1:])


def test_what_is_left_of_a_broken_record_is_no_row(tmp_path):
    (tmp_path / "r.csv").write_text('a,b\n1,2\n"He said "hi" to\nme, and left",1\n3,4\n5" pipe,6\n')
    found = scan(tmp_path, csv=("r.csv",))
    assert found == [
        {"a": "1", "b": "2"},
        "malformed_csv",
        "wrong_columns",
        {"a": "3", "b": "4"},
        {"a": '5" pipe', "b": "6"},
    ]
    (tmp_path / "r.csv").write_text('a,b\n"He said "hi" to\nme",1\n3,4\n')
    assert scan(tmp_path, csv=("r.csv",)) == ["malformed_csv", "malformed_csv", {"a": "3", "b": "4"}]


@pytest.mark.parametrize("seed", range(2))
def test_every_line_of_tsv_is_a_row_or_a_defect(tmp_path, seed):
    good = [(b"x\ty\n", {"a": "x", "b": "y"}), (b'"\t"z"\n', {"a": '"', "b": '"z"'})]
    content, expected = mixed(good, BAD_TSV, seed)
    (tmp_path / "r.tsv").write_bytes(b"a\tb\n" + content)
    assert scan(tmp_path, tsv=("r.tsv",)) == expected


@pytest.mark.parametrize("seed", range(2))
def test_every_sentence_is_a_row_or_a_defect(tmp_path, seed):
    good = [(b"A\tO\nB\tB-x\n\n", {"tokens": ["A", "B"], "tags": ["O", "B-x"]})]
    good += [(b"# id = 1\n#x\tO\n\t\n\n", {"tokens": ["#x"], "tags": ["O"]})]
    content, expected = mixed(good, BAD_SENTENCES, seed)
    (tmp_path / "r.conll").write_bytes(b"-DOCSTART-\tO\n\nA\tO\n\n" + content)
    assert scan(tmp_path, conll=("r.conll",)) == [{"tokens": ["A"], "tags": ["O"]}, *expected]


@pytest.mark.parametrize("seed", range(2))
def test_every_paragraph_is_a_row_or_a_defect(tmp_path, seed):
    good = [(b"one\ntwo\n\n", {"text": "one\ntwo"}), (b" \n\xc3\xa9\r\n\n\n", {"text": "é"})]
    content, expected = mixed(good, BAD_PARAGRAPHS, seed)
    (tmp_path / "r.txt").write_bytes(content)
    assert scan(tmp_path, text=("r.txt",)) == expected


def test_lines_and_whole_files_of_text_have_defects_of_their_own(tmp_path):
    (tmp_path / "r.txt").write_bytes(b"one\ntw\xe9\n\nthree\n\0\n")
    assert scan(tmp_path, text=("r.txt",), documents="lines") == [{"text": "one"}, "not_utf8", {"text": "three"}, "nul"]
    assert scan(tmp_path, text=("r.txt",), documents="file") == ["not_utf8"]


# SQuAD.


def question(**changes) -> dict:
    values = {"id": "q", "question": "Who?", "answers": [{"text": "é🙂b", "answer_start": 2}], **changes}
    return {key: value for key, value in values.items() if value is not None}


GOOD_ANSWERS = [{"text": "é🙂b", "start": 2}]
QUESTIONS = [
    (question(), GOOD_ANSWERS),
    (question(answers=[{"text": "a ", "answer_start": 0}, {"text": "b", "answer_start": 4}]),
     [{"text": "a ", "start": 0}, {"text": "b", "start": 4}]),
    (question(is_impossible=True, answers=[], plausible_answers=[{"text": "x", "answer_start": 99}]), []),
    (question(is_impossible=True, answers=[{"text": "x", "answer_start": 99}]), []),
    (question(answers=None), []),
    (question(answers=[]), []),
    (question(answers=[{"text": "é🙂b", "answer_start": 3}]), "answer_not_found"),
    (question(answers=[{"text": "é🙂b", "answer_start": -3}]), "answer_not_found"),
    (question(answers=[{"text": "b", "answer_start": -1}]), "answer_not_found"),
    (question(answers=[{"text": "", "answer_start": 0}]), "answer_not_found"),
    (question(answers=[{"text": "É🙂b", "answer_start": 2}]), "answer_not_found"),
    (question(answers=[{"text": "b", "answer_start": 4}, {"text": "b", "answer_start": 9}]), "answer_not_found"),
    (question(answers=[{"text": "b", "answer_start": "4"}]), "wrong_type"),
    (question(answers=[{"text": "b", "answer_start": True}]), "wrong_type"),
    (question(answers=[{"text": "b"}]), "missing_column"),
    (question(answers={"text": ["b"], "answer_start": [4]}), "wrong_type"),
    (question(id=None), "missing_column"),
    (question(question=None), "missing_column"),
    (question(question=3), "not_text"),
    (question(question="\ud800"), "lone_surrogate"),
    (question(question="\0"), "nul"),
    (question(score=float("nan")), "not_a_number"),
    ("no object", "not_an_object"),
]  # fmt: skip


def squad(path: Path, *paragraphs: object) -> None:
    path.write_text(json.dumps({"version": "2.0", "data": [{"title": "T", "paragraphs": list(paragraphs)}]}))


def test_every_question_is_a_row_or_a_defect(tmp_path):
    questions = [
        {**one, "id": str(i)} if isinstance(one, dict) and "id" in one else one for i, (one, _) in enumerate(QUESTIONS)
    ]
    squad(tmp_path / "q.json", {"context": "a é🙂b", "qas": questions[:9]}, {"context": "a é🙂b", "qas": questions[9:]})
    found = scan(tmp_path, squad=("q.json",))
    expected = [
        answers
        if isinstance(answers, str)
        else {"id": str(i), "title": "T", "context": "a é🙂b", "question": "Who?", "answers": answers}
        for i, (_, answers) in enumerate(QUESTIONS)
    ]
    assert found == expected


def test_a_defect_of_a_paragraph_is_one_of_each_of_its_questions(tmp_path):
    qas = [question(), question()]
    squad(
        tmp_path / "q.json",
        {"context": "a \0", "qas": qas},
        {"qas": qas},
        {"context": 3, "qas": qas},
        {"context": "a é🙂b", "qas": qas},
        "x",
        {"context": "a"},
        {"context": "a", "qas": 3},
    )
    good = {"id": "q", "title": "T", "context": "a é🙂b", "question": "Who?", "answers": GOOD_ANSWERS}
    found = scan(tmp_path, squad=("q.json",))
    assert found == ["nul"] * 2 + ["missing_column"] * 2 + ["not_text"] * 2 + [good] * 2 + [
        "not_an_object",
        "missing_column",
        "wrong_type",
    ]
    content = (tmp_path / "q.json").read_text()
    (tmp_path / "q.json").write_text(content.replace('"context": 3', '"context": 3, "context": 3'))
    assert scan(tmp_path, squad=("q.json",)) == found[:4] + ["not_text"] * 2 + found[6:]
    (tmp_path / "q.json").write_text(content.replace('"context": 3', '"context": "a", "context": "b"'))
    assert scan(tmp_path, squad=("q.json",)) == found[:4] + ["duplicate_key"] * 2 + found[6:]
    (tmp_path / "q.json").write_text(content.replace('"title": "T"', '"title": "\\ud800"'))
    assert scan(tmp_path, squad=("q.json",))[6:8] == ["lone_surrogate"] * 2


def test_where_an_answer_stands_is_said(tmp_path):
    squad(tmp_path / "q.json", {"context": "a é🙂b", "qas": [question(answers=[{"text": "🙂b", "answer_start": 4}])]})
    with pytest.raises(DataError) as caught:
        list(read_rows(SourceConfig(squad=("q.json",)), tmp_path))
    assert str(caught.value) == (
        "q.json:data[0].paragraphs[0].qas[0].answers[0]: the answer '🙂b' is not in the context at 4, where 'b' "
        "stands. It stands at 3: answer_start counts characters."
    )


@pytest.mark.parametrize(
    ("content", "reason", "said"),
    [
        (b"", "empty_file", "is empty"),
        (b'{"data": []}', "empty_file", "is empty"),
        (b'{"data": [}', "malformed_json", "q.json:1: not valid JSON at column 11"),
        (b'{"data":\n\n [}', "malformed_json", "q.json:3: not valid JSON at column 3"),
        (b'{"data": "\xff"}', "not_utf8", "byte 0xff at byte offset 10"),
        (deep(1000), "too_deep", "more than 200 deep"),
        (b'[{"paragraphs": []}]', "not_an_object", 'expected the JSON of SQuAD: {"data"'),
    ],
)
def test_a_document_that_is_not_squad(tmp_path, content, reason, said):
    (tmp_path / "q.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        scan(tmp_path, squad=("q.json",))
    assert caught.value.reason == reason and said in str(caught.value)


# Images, arrays and tables.


def image_bytes(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


def test_every_file_of_a_folder_is_an_image_or_a_defect(tmp_path):
    png, jpeg = image_bytes("PNG"), image_bytes("JPEG")
    files = {
        "cat/a.png": png,
        "cat/b.png": png[:-60],
        "cat/c.png": png[: len(png) // 2],
        "cat/d.png": b"",
        "cat/deeper/e.jpg": jpeg,
        "dog/f.jpg": jpeg[: len(jpeg) // 2],
        "dog/g.png": b"GIF89a",
        "dog/h.txt": b"text",
        "dog/i.jpeg": jpeg,
        ".git/j.png": png,
        "dog/.DS_Store": b"x",
        "README.md": b"x",
    }
    for name, content in files.items():
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    scanned = list(scan_rows(SourceConfig(images=("pets",)), tmp_path))
    assert [row.reason if isinstance(row, DataError) else row.location for row in scanned] == [
        "pets/cat/a.png",
        *["unreadable_image"] * 3,
        "pets/cat/deeper/e.jpg",
        *["unreadable_image"] * 3,
        "pets/dog/i.jpeg",
    ]
    assert scanned[0].values == {"image": str(tmp_path / "pets/cat/a.png"), "label": "cat"}
    assert scanned[4].values["label"] == "cat"
    assert str(scanned[1]).startswith("pets/cat/b.png: not a readable image: ")


def test_numbers_of_an_array_are_finite(tmp_path):
    images = np.arange(24, dtype=np.float32).reshape(6, 2, 2)
    images[1, 0, 1], images[4, 1, 1] = np.nan, np.inf
    np.savez(tmp_path / "a.npz", images=images, labels=[0.0, 0.5, 1.0, np.nan, 1.0, 2.0])
    found = scan(tmp_path, arrays=("a.npz",))
    assert [one if isinstance(one, str) else one["label"] for one in found] == [
        0.0,
        "not_a_number",
        1.0,
        "not_a_number",
        "not_a_number",
        2.0,
    ]


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": np.zeros((3, 2)), "labels": [0, 1]}, "wrong_columns"),
        ({"images": np.zeros((3, 2)), "labels": np.zeros((3, 1))}, "wrong_columns"),
        ({"images": np.zeros(3), "labels": [0, 1, 2]}, "wrong_columns"),
        ({"images": np.asfortranarray(np.zeros((3, 2))), "labels": [0, 1, 2]}, "wrong_columns"),
        ({"images": np.zeros((3, 2)).astype(str), "labels": [0, 1, 2]}, "wrong_columns"),
        ({"image": np.zeros((3, 2)), "labels": [0, 1, 2]}, "missing_column"),
        ({"images": np.zeros((3, 2))}, "missing_column"),
        ({"images": np.zeros((0, 2)), "labels": []}, "empty_file"),
        ({"images": np.zeros((2, 2)), "labels": np.array([None, 1])}, "corrupt"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, reason):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError) as caught:
        scan(tmp_path, arrays=("a.npz",))
    assert caught.value.reason == reason and str(caught.value).startswith("a.npz")


@pytest.mark.parametrize("part", [0.3, 0.7, 0.99])
def test_arrays_that_are_cut_off_or_changed(tmp_path, part):
    np.savez_compressed(tmp_path / "a.npz", images=np.random.default_rng(0).random((50, 8)), labels=np.arange(50))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    (tmp_path / "cut.npz").write_bytes(content[: int(part * len(content))])
    content[int(0.3 * len(content))] ^= 1
    (tmp_path / "changed.npz").write_bytes(content)
    for name in ("cut.npz", "changed.npz"):
        with pytest.raises(DataError, match=f"^{name}") as caught:
            scan(tmp_path, arrays=(name,))
        assert caught.value.reason == "corrupt"


def test_text_of_parquet_that_is_not_utf8(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = arrow.array([b"one", b"tw\xe9", None, "é".encode(), b"\xff"] * 200, arrow.binary()).view(arrow.string())
    parquet.write_table(arrow.table({"a": texts}), tmp_path / "r.parquet", row_group_size=300)
    expected = [{"a": "one"}, "not_utf8", {"a": None}, {"a": "é"}, "not_utf8"] * 200
    assert scan(tmp_path, parquet=("r.parquet",)) == expected


@pytest.mark.parametrize("damage", ["empty", "cut", "changed", "none"])
def test_parquet_that_is_damaged(tmp_path, damage):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": np.arange(5000)}), tmp_path / "r.parquet")
    content = (tmp_path / "r.parquet").read_bytes()
    changed = content[:1000] + bytes(500) + content[1500:]
    damaged = {"empty": b"", "cut": content[:-9], "changed": changed, "none": b"{}\n" * 9}
    (tmp_path / "r.parquet").write_bytes(damaged[damage])
    with pytest.raises(DataError, match=r"^r\.parquet") as caught:
        scan(tmp_path, parquet=("r.parquet",))
    assert caught.value.reason == "corrupt"


# Compressed files.


def numbered(count: int, noise: int = 40) -> list[dict]:
    generator = random.Random(0)
    return [{"n": i, "text": "".join(generator.choices("abcdefgh", k=noise))} for i in range(count)]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("part", [0.0001, 0.01, 0.3, 0.8, 0.9999])
def test_compressed_data_that_is_cut_off_ends_with_one_defect(tmp_path, suffix, part):
    rows = numbered(5_000)
    compressed = COMPRESSIONS[suffix]("".join(json.dumps(row) + "\n" for row in rows).encode())
    (tmp_path / f"r.jsonl.{suffix}").write_bytes(compressed[: int(part * len(compressed))])
    scanned = list(scan_rows(SourceConfig(jsonl=(f"r.jsonl.{suffix}",)), tmp_path))
    *found, last = scanned
    assert last.reason == "truncated" and str(last).startswith(f"r.jsonl.{suffix}:{len(found) + 1}: the compressed")
    assert [row.values for row in found] == rows[: len(found)]
    # All that the data gives is used: the last block alone may be missing.
    assert len(found) >= (part - 0.5 if part < 0.9 else 0.7) * len(rows)
    for config in (SourceConfig(text=(f"r.jsonl.{suffix}",)), SourceConfig(squad=(f"r.jsonl.{suffix}",))):
        with pytest.raises(DataError, match="cut off") as caught:
            list(read_rows(config, tmp_path))
        assert caught.value.reason == "truncated"


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compressed_data_that_is_damaged_ends_with_one_defect(tmp_path, suffix):
    compress = COMPRESSIONS[suffix]
    parts = ["".join(json.dumps(row) + "\n" for row in numbered(n)).encode() for n in (100, 200)]
    whole = compress(parts[0])
    for behind, reason in ((b"garbage", "corrupt"), (compress(parts[1])[:1], "truncated")):
        (tmp_path / f"r.jsonl.{suffix}").write_bytes(whole + behind)
        found = scan(tmp_path, jsonl=(f"r.jsonl.{suffix}",))
        assert found[:-1] == numbered(100) and found[-1] in (reason, "corrupt")
    changed = bytearray(whole)
    changed[len(changed) // 2] ^= 0x55
    (tmp_path / f"r.jsonl.{suffix}").write_bytes(changed)
    if suffix != "zst":  # whose frames have no checksum unless asked for
        assert scan(tmp_path, jsonl=(f"r.jsonl.{suffix}",))[-1] == "corrupt"


@pytest.mark.parametrize("documents", ["paragraphs", "lines"])
def test_a_cut_file_of_csv_sentences_or_text_ends_with_one_defect(tmp_path, documents):
    contents = {"csv": "a,b\n" + '"some\ntext",2\n' * 5000, "conll": "A\tO\nB\tO\n\n" * 5000, "text": "A\nB\n\n" * 5000}
    for key, content in contents.items():
        (tmp_path / "r.gz").write_bytes(gzip.compress(content.encode(), 1)[:-30])
        found = scan(tmp_path, **{key: ("r.gz",)}, **({"documents": documents} if key == "text" else {}))
        assert found[-1] == "truncated" and len(found) > 1
        assert all(isinstance(one, dict) for one in found[:-1])


# Memory.


@pytest.mark.parametrize("key", ["jsonl", "csv", "tsv", "text", "conll"])
def test_a_line_of_60_megabytes_takes_no_memory(tmp_path, key):
    good = {"jsonl": b'{"a": 1}\n', "csv": b"1,2\n", "tsv": b"1\t2\n", "text": b"text\n\n", "conll": b"A\tO\n\n"}[key]
    with (tmp_path / "r").open("wb") as file:
        file.write({"csv": b"a,b\n", "tsv": b"a\tb\n"}.get(key, b"") + good)
        for _ in range(60):
            file.write(b"x" * 10**6)
        file.write(b"\n\n" + good)
    tracemalloc.start()
    found = scan(tmp_path, **{key: ("r",)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one if isinstance(one, str) else type(one) for one in found] == [dict, "too_long", dict]
    assert peak < 40 * MEGABYTE


@pytest.mark.parametrize("key", ["text", "conll"])
def test_60_megabytes_without_a_blank_line_take_no_memory(tmp_path, key):
    line = b"A\t" + b"x" * 998 + b"\n"
    (tmp_path / "r").write_bytes(b"A\tO\n\n" + line * 60_000 + b"\nA\tO\n")
    tracemalloc.start()
    found = scan(tmp_path, **{key: ("r",)})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [one if isinstance(one, str) else type(one) for one in found] == [dict, "too_long", dict]
    assert peak < 40 * MEGABYTE


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for count in (2_000, 20_000):
        (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(b'{"text": "%s"}\n' % (b"x" * 500) * count, 1))
        tracemalloc.start()
        assert sum(1 for _ in read_rows(SourceConfig(jsonl=("r.jsonl.gz",)), tmp_path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 3 * MEGABYTE


# Columns.


@pytest.mark.parametrize(
    ("value", "reason"),
    [(None, "not_text"), (3, "not_text"), ("", "empty_text"), (" \n", "empty_text"), ("a\0", "nul")],
)
def test_a_text_column_says_what_is_wrong(value, reason):
    with pytest.raises(DataError) as caught:
        text_column(Row({"text": value}, "r:1"), "text")
    assert caught.value.reason == reason
    with pytest.raises(DataError) as caught:
        required_column(Row({"text": value}, "r:1"), "txt")
    assert caught.value.reason == "missing_column"
