"""Augmentation: the shares of words that it says, the same for the same key, and never an empty text."""

from __future__ import annotations

import numpy as np
import pytest

from jaxft.data.augmentation import AugmentationConfig, Augmenter
from jaxft.data.batches import example_generator
from jaxft.data.store import TOKENS
from jaxft.errors import InvalidField


@pytest.fixture(scope="module")
def words(tokenizer) -> np.ndarray:
    """A text of many words."""
    return tokenizer.encode(["one two three four five six seven eight nine ten " * 20])[0]


def split(tokenizer, tokens) -> list[tuple[int, ...]]:
    continues = tokenizer.is_continuation()
    return [tuple(word.tolist()) for word in np.split(tokens, np.flatnonzero(~continues[tokens][1:]) + 1)]


def changed(tokenizer, words, number=0, longest=10_000, **rates):
    augment = Augmenter(AugmentationConfig(share=1.0, **rates), tokenizer)
    return augment(longest, {TOKENS: words, "label": 3}, example_generator(0, 0, number))


def test_the_same_key_gives_the_same_text_and_the_rest_stays(tokenizer, words):
    one, again, other = (changed(tokenizer, words, number, delete=0.2, swap=0.2) for number in (1, 1, 2))
    assert one[TOKENS].tolist() == again[TOKENS].tolist() != other[TOKENS].tolist()
    assert one["label"] == 3 and one[TOKENS].dtype == np.int32


def test_deletion_leaves_out_whole_words_at_its_rate(tokenizer, words):
    before = split(tokenizer, words)
    counts = []
    for number in range(60):
        after = split(tokenizer, changed(tokenizer, words, number, delete=0.3)[TOKENS])
        places = iter(before)
        assert all(word in places for word in after)  # the others, in their order
        counts.append(len(after) / len(before))
    assert np.mean(counts) == pytest.approx(0.7, abs=0.02)


def test_swaps_keep_all_words(tokenizer, words):
    after = split(tokenizer, changed(tokenizer, words, swap=0.3)[TOKENS])
    before = split(tokenizer, words)
    assert sorted(after) == sorted(before) and after != before


def test_insertions_repeat_words_of_the_text(tokenizer, words):
    before = split(tokenizer, words)
    counts = [len(split(tokenizer, changed(tokenizer, words, number, insert=0.25)[TOKENS])) for number in range(60)]
    assert np.mean(counts) / len(before) == pytest.approx(1.25, abs=0.02)
    assert set(split(tokenizer, changed(tokenizer, words, insert=0.25)[TOKENS])) <= set(before)


def test_masking_hides_whole_words(tokenizer, words):
    after = changed(tokenizer, words, mask=0.3)[TOKENS]
    assert len(after) == len(words)
    assert np.all((after == words) | (after == tokenizer.mask_id))
    assert (after == tokenizer.mask_id).mean() == pytest.approx(0.3, abs=0.08)


def test_never_empty_never_too_long_and_only_a_share(tokenizer, words):
    for number in range(50):
        assert len(changed(tokenizer, words[:1], number, delete=0.99)[TOKENS]) == 1
        assert len(changed(tokenizer, words, number, longest=7, insert=0.5)[TOKENS]) <= 7
    augment = Augmenter(AugmentationConfig(delete=0.5, share=0.25), tokenizer)
    same = [
        augment(10_000, {TOKENS: words}, example_generator(0, 0, n))[TOKENS].tolist() == words.tolist()
        for n in range(400)
    ]
    assert np.mean(same) == pytest.approx(0.75, abs=0.06)


@pytest.mark.parametrize(
    ("options", "field"), [({}, "delete"), ({"swap": 1.0}, "swap"), ({"mask": 0.1, "share": 0}, "share")]
)
def test_impossible_shares_are_refused(options, field):
    with pytest.raises(InvalidField) as error:
        AugmentationConfig(**options)
    assert error.value.field == field
