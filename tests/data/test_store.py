"""The token store: what was tokenized comes back, and a store that exists is whole."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from jaxft.data import preparing
from jaxft.data import store as store_module
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row
from jaxft.data.store import TOKENS, Fields, fingerprint_of
from jaxft.errors import DataError

TEXTS = [f"The number {i} and its square {i * i}; " + "so on " * (i % 7) for i in range(53)]


def rows():
    return (Row({"text": text, "number": i}, f"numbers.jsonl:{i + 1}") for i, text in enumerate(TEXTS))


def fields(row: Row) -> Fields:
    number = row.values["number"]
    values = {"label": number, "score": number / 3, "name": f"№ {number}"}
    # Every third row has a second text without a token in it.
    return Fields({TOKENS: row.values["text"], "pair": "" if number % 3 else row.values["text"][::-1]}, values)


def build(directory: Path, tokenizer, source=rows, take=fields):
    return open_or_build(directory, source, take, tokenizer, "streams.task")


@pytest.fixture(params=[1_000_000, 10, 53, 1], ids=["one shard", "six shards", "exactly one", "one record each"])
def shard_records(request, monkeypatch):
    monkeypatch.setattr(preparing, "SHARD_ROWS", request.param)
    return request.param


def test_records_come_back_as_they_were(tmp_path, tokenizer, shard_records, monkeypatch):
    monkeypatch.setattr(preparing, "_BATCH_ROWS", 7)
    store = build(tmp_path / "a", tokenizer)
    assert len(store) == len(TEXTS)
    assert len(list((tmp_path / "a").glob("shard-*"))) == -(-len(TEXTS) // shard_records)
    for i, record in enumerate(store.read(list(range(len(TEXTS))))):
        assert set(record) == {TOKENS, "pair", "label", "score", "name"}
        assert record[TOKENS].dtype == record["pair"].dtype == np.int32
        assert record[TOKENS].tolist() == tokenizer.encode([TEXTS[i]])[0].tolist()
        assert record["pair"].tolist() == ([] if i % 3 else tokenizer.encode([TEXTS[i][::-1]])[0].tolist())
        assert (record["label"], record["score"], record["name"]) == (i, i / 3, f"№ {i}")
        assert store.lengths[i] == len(record[TOKENS])
    store.close()


def test_any_order_repeated_and_none(tmp_path, tokenizer, shard_records):
    store = build(tmp_path / "a", tokenizer)
    asked = np.random.default_rng(0).integers(0, len(TEXTS), 200).tolist()
    assert [record["label"] for record in store.read(asked)] == asked
    assert store.read([]) == []


def test_an_existing_store_is_opened_and_not_built_again(tmp_path, tokenizer):
    build(tmp_path / "a", tokenizer).close()

    def never():
        raise AssertionError("the source was read again")

    assert len(build(tmp_path / "a", tokenizer, never)) == len(TEXTS)


def test_the_fingerprint_depends_on_every_part(monkeypatch):
    parts = {"source": "abc", "tokenizer": "def", "options": "text=a"}
    names = {fingerprint_of(**parts)}
    for key in parts:
        names.add(fingerprint_of(**{**parts, key: parts[key] + "x"}))
    names.add(fingerprint_of(source="def", tokenizer="abc", options="text=a"))
    names.add(fingerprint_of(source="abcdef", tokenizer="", options="text=a"))
    names.add(fingerprint_of(source="abc", tokenizer="def"))
    monkeypatch.setattr(store_module, "FORMAT", store_module.FORMAT + 1)
    names.add(fingerprint_of(**parts))
    assert len(names) == 8
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in names)


def test_the_fingerprint_does_not_depend_on_the_order_of_its_parts():
    assert fingerprint_of(source="a", tokenizer="b") == fingerprint_of(tokenizer="b", source="a")


def test_a_build_that_fails_leaves_nothing_and_can_be_repeated(tmp_path, tokenizer):
    def torn():
        yield from itertools.islice(rows(), 30)
        raise DataError("numbers.jsonl:31: torn")

    with pytest.raises(DataError, match="torn"):
        build(tmp_path / "stores" / "a", tokenizer, torn)
    assert list((tmp_path / "stores").iterdir()) == []
    assert len(build(tmp_path / "stores" / "a", tokenizer)) == len(TEXTS)
    assert [path.name for path in (tmp_path / "stores").iterdir()] == ["a"]


def test_a_field_that_is_refused_leaves_nothing(tmp_path, tokenizer):
    def refuse(row: Row) -> Fields:
        raise DataError(f"{row.location}: label 'x' was not seen in training")

    with pytest.raises(DataError, match=r"numbers\.jsonl:1: label"):
        build(tmp_path / "a", tokenizer, rows, refuse)
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_an_error(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"streams\.task: no examples"):
        build(tmp_path / "a", tokenizer, lambda: [])
    assert list(tmp_path.iterdir()) == []


def test_a_text_without_tokens_is_named(tmp_path, tokenizer):
    assert len(tokenizer.encode(["\u200b"])[0]) == 0  # a space without width is normalized away
    bad = [*itertools.islice(rows(), 5), Row({"text": "\u200b", "number": 5}, "numbers.jsonl:77")]
    with pytest.raises(DataError, match=r"numbers\.jsonl:77: the tokenizer makes no token"):
        build(tmp_path / "a", tokenizer, lambda: bad)
    assert list(tmp_path.iterdir()) == []
