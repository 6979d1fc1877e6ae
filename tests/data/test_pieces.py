"""Pieces of records: their tokens, parts and bytes, and the other documents that they are given."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from jaxft.data.batches import StreamBatches
from jaxft.data.packing import plan_rows, split_records
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row
from jaxft.data.store import BYTES, PART_ENDS, TOKENS, Fields, cut, encode_fields

# --- Parts ---


def test_parts_are_encoded_each_by_itself_and_keep_their_ends(tokenizer):
    texts = [("We met.", " We spoke.", " We left."), "We met. We spoke. We left.", ("One",), ("", "two", "\u200b")]
    encoded = encode_fields(texts, tokenizer)
    for text, (tokens, ends) in zip(texts, encoded, strict=True):
        parts = (text,) if isinstance(text, str) else text
        alone = [ids.tolist() for ids in tokenizer.encode(parts)]
        assert tokens.tolist() == list(itertools.chain(*alone)) and tokens.dtype == np.int32
        if isinstance(text, str):
            assert ends is None
        else:
            assert [part.tolist() for part in np.split(tokens, ends[:-1])] == alone
            assert ends[-1] == len(tokens) and ends.dtype == np.int32


def test_a_store_keeps_parts_and_bytes(tokenizer, tmp_path):
    sentences = [("We met.", " We spoke."), ("A longer one, by far.", " No.", " Yes.")]
    rows = [Row({"number": number}, f"made:{number}") for number in range(2)]

    def fields(row):
        parts = sentences[row.values["number"]]
        return Fields({TOKENS: parts}, {BYTES: len("".join(parts).encode())})

    store = open_or_build(tmp_path / "a", lambda: rows, fields, tokenizer, "made")
    for record, parts in zip(store.read([0, 1]), sentences, strict=True):
        lengths = [len(ids) for ids in tokenizer.encode(parts)]
        assert record[PART_ENDS].tolist() == list(itertools.accumulate(lengths))
        assert record[BYTES] == len("".join(parts))


# --- Pieces ---


@pytest.mark.parametrize("seed", range(20))
def test_pieces_make_up_the_record(seed):
    generator = np.random.default_rng(seed)
    length = int(generator.integers(1, 60))
    ends = np.unique([*generator.integers(1, length + 1, 6), length]).astype(np.int32)
    record = {TOKENS: generator.integers(0, 99, length), PART_ENDS: ends, BYTES: 7 * length + 3, "label": 5}
    _, offsets, sizes = split_records(np.array([length]), int(generator.integers(1, 30)))
    pieces = [cut(record, start, start + size) for start, size in zip(offsets.tolist(), sizes.tolist(), strict=True)]
    assert np.concatenate([piece[TOKENS] for piece in pieces]).tolist() == record[TOKENS].tolist()
    assert sum(piece[BYTES] for piece in pieces) == pytest.approx(record[BYTES], rel=1e-12)
    assert [piece["begins"] for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert [piece["ends"] for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    # The parts of all pieces end where the record's do, and where it was cut.
    found = [start + end for start, piece in zip(offsets, pieces, strict=True) for end in piece[PART_ENDS].tolist()]
    assert found == sorted({*ends.tolist(), *(offsets + sizes).tolist()})
    assert all(piece["label"] == 5 and piece[PART_ENDS][-1] == len(piece[TOKENS]) for piece in pieces)
    assert record[PART_ENDS] is ends and len(record[TOKENS]) == length  # unchanged


def test_bytes_are_shared_out_by_tokens():
    record = {TOKENS: np.arange(8), BYTES: 20}
    assert [cut(record, *ends)[BYTES] for ends in ((0, 8), (0, 2), (2, 8))] == [20, 5, 15]


# --- Partners ---

DOCUMENTS = 6


@pytest.fixture(scope="module")
def batches(tokenizer, tmp_path_factory) -> StreamBatches:
    """One row of each of six documents, with another one as its partner."""
    rows = [Row({"text": f"Number {i}", "number": i}, f"made:{i}") for i in range(DOCUMENTS)]
    store = open_or_build(
        tmp_path_factory.mktemp("partners") / "a",
        lambda: rows,
        lambda row: Fields({TOKENS: row.values["text"]}, {"number": row.values["number"]}),
        tokenizer,
        "made",
    )
    plan = plan_rows(store.lengths, 32, 32, lambda sizes: sizes, pack=False, truncate=True)

    def make_row(records, keys):
        (record,) = records
        return {
            "number": np.int32(record["number"]),
            "partner": np.int32(record["partner"]["number"]),
            "tokens": np.int32(len(record["partner"][TOKENS])),
            "draw": np.float64(keys[0].random()),
        }

    return StreamBatches(store, plan, make_row, DOCUMENTS, seed=1, shuffle=False, partner=True)


def test_every_other_document_is_as_likely_a_partner_as_any_other(batches):
    counts = np.zeros((DOCUMENTS, DOCUMENTS), int)
    for epoch in range(400):
        batch = batches.batch(epoch)
        np.add.at(counts, (batch["number"], batch["partner"]), 1)
    assert not np.diag(counts).any() and (counts.sum(1) == 400).all()
    for document in range(DOCUMENTS):
        assert stats.chisquare(np.delete(counts[document], document)).pvalue > 1e-4


def test_partners_are_whole_and_the_same_however_a_batch_is_made(batches):
    whole = batches.batch(3)
    assert (whole["tokens"] == batches.store.lengths[whole["partner"]]).all()
    halves = [batches.batch(3, slice(0, 3)), batches.batch(3, slice(3, 6))]
    small = dataclasses.replace(batches, batch_size=2)
    for name in ("partner", "draw"):
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), whole[name])
        np.testing.assert_array_equal(np.concatenate([small.batch(step)[name] for step in (9, 10, 11)]), whole[name])
    other = dataclasses.replace(batches, seed=2)
    assert any((other.batch(step)["partner"] != batches.batch(step)["partner"]).any() for step in range(3))
