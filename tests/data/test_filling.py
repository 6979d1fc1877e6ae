"""Filled texts: only masked words change, as the model expects, the same for the same numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from jaxft.data import preparing
from jaxft.data.augmentation import AugmentationConfig, FilledCopies
from jaxft.data.batches import StreamBatches
from jaxft.data.filling import Copy, FillConfig, Filler, copies
from jaxft.data.packing import plan_rows
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row, text_column
from jaxft.data.store import TOKENS, Fields
from jaxft.data.tokenizers import ByteBPEConfig, WordPieceConfig, train_tokenizer
from jaxft.errors import DataError, InvalidField

LONGEST = 32
TEXTS = [
    "The state of the Union is strong, and it's our duty to keep it so.",
    "Mr. Speaker -- Members of Congress:\n\tmy fellow citizens (all of you)!",
    "Peace",
    "... !!! --",
    "We have gone through a year of the state of the world, and of people who want peace and work, " * 4,
    "国家 and the Union é",
]
SHORT = "The state of the Union."


class Likes:
    """A masked language model that expects one token in every place, or any equally; keeps what it read."""

    def __init__(self, vocab_size: int, token: int | None = None):
        self._scores = np.zeros(vocab_size, np.float32)
        if token is not None:
            self._scores[token] = 50.0
        self.read = []

    def __call__(self, token_ids, segment_ids, places):
        self.read.append((token_ids, segment_ids, places))
        return np.broadcast_to(self._scores, (*places.shape, len(self._scores)))


@pytest.fixture(scope="module", params=["unigram", "wordpiece", "byte_bpe"])
def any_tokenizer(request, tokenizer, tmp_path_factory):
    """The kinds of vocabulary, which mark words differently."""
    if request.param == "unigram":
        return tokenizer
    config = WordPieceConfig(200) if request.param == "wordpiece" else ByteBPEConfig(400)
    return train_tokenizer(TEXTS, config, tmp_path_factory.mktemp(request.param))


def filler(tokenizer, token=None, **options) -> tuple[Filler, Likes]:
    likes = Likes(tokenizer.vocab_size, token)
    return Filler(FillConfig(**{"model": "m", "rate": 0.3, **options}), tokenizer, LONGEST, likes), likes


def words(text: str) -> list[str]:
    return re.findall(r"[\u4e00-\u9fff]|[^\W_\u4e00-\u9fff]+(?:['’][^\W_]+)*", text)


def test_filled_texts_differ_only_at_masked_words(any_tokenizer):
    fill, likes = filler(any_tokenizer)
    filled = fill.fill(TEXTS, [(i, 0) for i in range(len(TEXTS))])
    for before, after in zip(TEXTS, filled, strict=True):
        assert len(words(before)) == len(words(after))
        between = re.split("|".join(map(re.escape, sorted(words(before), key=len, reverse=True))) or "$^", before)
        assert all(piece in after for piece in between)
        differing = sum(a != b for a, b in zip(words(before), words(after), strict=True))
        assert differing <= max(5, round(0.3 * len(words(before))) + 5)
    assert filled[3] == TEXTS[3]
    masks = sum(int((ids == any_tokenizer.mask_id).sum()) for ids, _, _ in likes.read)
    changed = sum(a != b for x, y in zip(TEXTS, filled, strict=True) for a, b in zip(words(x), words(y), strict=True))
    assert 0.8 * masks <= changed <= masks


def test_a_whole_word_is_one_mask_in_its_context(any_tokenizer):
    fill, likes = filler(any_tokenizer, rate=0.01)
    fill.fill([SHORT], [(0, 0)])
    ((ids, segments, places),) = likes.read
    row = ids[0][segments[0] > 0]
    (place,) = np.flatnonzero(row == any_tokenizer.mask_id)
    assert place == places[0, 0]
    (plain,) = any_tokenizer.encode([SHORT])
    inside = row[1:-1].tolist()
    before, after = inside[: place - 1], inside[place:]
    assert plain.tolist()[: len(before)] == before and plain.tolist()[len(plain) - len(after) :] == after
    hidden = any_tokenizer.decode(plain[len(before) : len(plain) - len(after)])
    assert hidden.strip() in [word.lower() for word in words(SHORT)] + words(SHORT)


def test_words_are_those_that_the_model_expects(any_tokenizer):
    whole = ~any_tokenizer.is_continuation()
    token = next(
        number
        for number in range(any_tokenizer.vocab_size)
        if whole[number]
        and len(any_tokenizer.decode([number]).strip()) > 2
        and number not in any_tokenizer.special_ids
        and any_tokenizer.decode([number]).strip().isalpha()
    )
    fill, _ = filler(any_tokenizer, token)
    (filled,) = fill.fill(TEXTS[:1], [(0, 0)])
    new = [b for a, b in zip(words(TEXTS[0]), words(filled), strict=True) if a != b]
    assert set(new) == {any_tokenizer.decode([token]).strip()}


def test_continuations_and_special_tokens_are_never_filled_in(any_tokenizer):
    never = [any_tokenizer.mask_id, any_tokenizer.separator_id, int(np.flatnonzero(any_tokenizer.is_continuation())[0])]
    for token in never:
        fill, _ = filler(any_tokenizer, token)
        (filled,) = fill.fill(TEXTS[:1], [(0, 0)])
        assert any_tokenizer.tokens([token])[0] not in filled or any_tokenizer.tokens([token])[0] in TEXTS[0]
        assert not np.isin(any_tokenizer.encode([filled])[0], [any_tokenizer.mask_id]).any()


def test_the_numbers_alone_decide(tokenizer):
    fill, _ = filler(tokenizer)
    numbers = [(i, variant) for variant in range(2) for i in range(len(TEXTS))]
    together = fill.fill(TEXTS * 2, numbers)
    alone = [fill.fill([text], [number])[0] for text, number in zip(TEXTS * 2, numbers, strict=True)]
    assert together == alone
    assert together[0] != together[len(TEXTS)] != TEXTS[0]


def test_long_texts_are_filled_everywhere(tokenizer):
    fill, likes = filler(tokenizer)
    (filled,) = fill.fill([TEXTS[4]], [(0, 0)])
    changed = [a != b for a, b in zip(words(TEXTS[4]), words(filled), strict=True)]
    assert all(any(quarter) for quarter in np.array_split(changed, 4))
    assert all(ids.shape[1] <= LONGEST for ids, _, _ in likes.read)


def test_copies_stand_one_after_the_other_and_bad_rows_have_none():
    rows = [Row({"text": "a"}, "r:1"), DataError("bad", "malformed"), Row({}, "r:3"), Row({"text": "b"}, "r:4")]
    found = list(copies(rows, lambda row: text_column(row, "text"), 2))
    assert [(one.row.location, one.index, one.variant) for one in found if isinstance(one, Copy)] == [
        ("r:1", 0, 0),
        ("r:1", 0, 1),
        ("r:4", 1, 0),
        ("r:4", 1, 1),
    ]
    assert [one.reason for one in found if isinstance(one, DataError)] == ["malformed", "missing_column"]


@pytest.fixture(scope="module")
def batches(tokenizer, tmp_path_factory):
    """Ten texts with two copies each, which say what they are."""
    directory = tmp_path_factory.mktemp("stores")

    def store(name, texts):
        rows = [Row({"text": text}, f"{name}:{i}") for i, text in enumerate(texts)]
        return open_or_build(
            directory / name, lambda: rows, lambda row: Fields({TOKENS: row.values["text"]}), tokenizer, name
        )

    originals = store("texts", [f"text {i} a" for i in range(10)])
    filled = store("filled", [f"text {i} {copy} {'long ' * 20}" for i in range(10) for copy in "bc"])
    plan = plan_rows(originals.lengths, 16, 14, lambda sizes: sizes + 2, pack=False, truncate=True)

    def make_row(records, keys):
        return {"text": np.array(tokenizer.decode(records[0][TOKENS])), "size": np.array(len(records[0][TOKENS]))}

    return StreamBatches(originals, plan, make_row, 4, 3, filled=FilledCopies(filled, 2, 14))


def test_every_example_is_itself_and_each_copy_in_turn(batches):
    texts = [batches.batch(step)["text"].tolist() for step in range(15)]  # three epochs... of two and a half steps
    seen = [text.split()[:3] for batch in texts for text in batch][:30]
    by_example = {i: [kind for _, number, kind in seen if number == str(i)] for i in range(10)}
    assert all(sorted(kinds) == ["a", "b", "c"] for kinds in by_example.values())
    first_epoch = {kind for _, _, kind in seen[:10]}
    assert first_epoch == {"a", "b", "c"}
    assert max(batch.max() for batch in (batches.batch(step)["size"] for step in range(8))) == 14


def test_any_process_at_any_time_makes_the_same_batch(batches):
    later = batches.batch(5)
    halves = [batches.batch(5, part) for part in (slice(0, 2), slice(2, 4))]
    assert later["text"].tolist() == [text for half in halves for text in half["text"].tolist()]


def test_what_was_filled_before_a_kill_is_not_filled_again(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(preparing, "SHARD_ROWS", 4)
    monkeypatch.setattr(preparing, "_BATCH_ROWS", 2)
    rows, asked = [Row({"text": f"text {i}"}, f"r:{i}") for i in range(10)], []

    def change(batch):
        asked.extend(row.location for row in batch)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return [Row({"text": row.values["text"] + " filled"}, row.location) for row in batch]

    def build():
        return open_or_build(
            tmp_path / "s",
            lambda: rows,
            lambda row: Fields({TOKENS: row.values["text"]}),
            tokenizer,
            "r",
            change=change,
        )

    with pytest.raises(KeyboardInterrupt):
        build()
    asked.clear()
    asked.append("resumed")
    store = build()
    assert asked == ["resumed", *(f"r:{i}" for i in range(4, 10))]
    assert [tokenizer.decode(record[TOKENS]) for record in store.read([0, 9])] == ["text 0 filled", "text 9 filled"]


@pytest.mark.parametrize(
    ("options", "field"), [({"rate": 0}, "rate"), ({"rate": 0.6}, "rate"), ({"variants": 0}, "variants")]
)
def test_impossible_options_are_refused(options, field):
    with pytest.raises(InvalidField) as error:
        FillConfig("m", **options)
    assert error.value.field == field
    assert not AugmentationConfig(fill=FillConfig("m")).changes_words
