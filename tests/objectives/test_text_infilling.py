"""Text infilling: the exact number of words, one mask for each span, insertions, and sentences in any order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from handmade import assert_drawn, assert_share, read, record_of, row_of, runs_of, texts, without
from support.settings import setting_of

from jaxft.data.batches import example_generator
from jaxft.data.packing import plan_rows
from jaxft.data.store import PART_ENDS, TOKENS, cut
from jaxft.errors import InvalidField, RecipeError
from jaxft.objectives.text_infilling import TextInfilling, TextInfillingConfig, draw_spans, permuted

LENGTH = 256


def make(tokenizer, length=LENGTH, **options) -> TextInfilling:
    return TextInfilling(TextInfillingConfig(**options), setting_of(tokenizer, length, family="encoder_decoder"))


@pytest.fixture(params=["tokenizer", "chinese_tokenizer"])
def language(request):
    """A tokenizer of words in pieces, or of ideographs, each of which is a word."""
    return request.getfixturevalue(request.param)


def distinct(tokenizer, size: int, seed: int) -> np.ndarray:
    """Tokens of which none occurs twice, so that each can be found again."""
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    return np.random.default_rng(seed).permutation(ordinary)[:size].astype(np.int32)


def words_of(tokenizer, tokens) -> np.ndarray:
    """Number of the word of each token, from how the vocabulary writes it."""
    written = tokenizer.tokens(tokens.tolist())
    starts = [i == 0 or token[0] == "▁" or "\u3400" <= token[0] <= "\u9fff" for i, token in enumerate(written)]
    return np.cumsum(starts) - 1


def source_of(objective, tokens, key, ends=None) -> list[int]:
    """The corrupted text without its first and last token; the target is checked."""
    tokenizer = objective.tokenizer
    source, target = objective.example(record_of(tokens, [len(tokens)] if ends is None else ends), key)
    assert target.tolist() == [tokenizer.start_id, *tokens.tolist(), tokenizer.separator_id]
    assert (source[0], source[-1]) == (tokenizer.start_id, tokenizer.separator_id)
    return source[1:-1].tolist()


# --- Words ---


@pytest.mark.parametrize("rate", [0.3, 0.15, 0.7])
def test_the_exact_number_of_words_is_hidden_whole(language, rate):
    objective = make(language, noise_rate=rate)
    for size in [*range(1, 30), 80, 200]:
        tokens = distinct(language, size, size)
        source = source_of(objective, tokens, example_generator(0, 0, size))
        words, hidden = words_of(language, tokens), ~np.isin(tokens, source)
        assert len(set(words[hidden])) == math.ceil(rate * (words[-1] + 1))
        assert not set(words[hidden]) & set(words[~hidden])
        # What is left stands in its order.
        assert [token for token in source if token != language.mask_id] == tokens[~hidden].tolist()


def masks_in_gaps(tokens, source, mask_id) -> list[tuple[bool, int]]:
    """For each gap before, between and after kept tokens: whether something is missing there, and how many masks."""
    places = {token: place for place, token in enumerate(tokens.tolist())}
    gaps, last, masks = [], -1, 0
    for token in [*source, None]:
        if token == mask_id:
            masks += 1
            continue
        place = len(tokens) if token is None else places[token]
        gaps.append((place > last + 1, masks))
        last, masks = place, 0
    return gaps


def test_each_span_becomes_one_mask(language):
    objective = make(language, span_length=25.0)  # of which none is empty
    for seed in range(60):
        tokens = distinct(language, 200, seed)
        source = source_of(objective, tokens, example_generator(0, 0, seed))
        gaps = masks_in_gaps(tokens, source, language.mask_id)
        assert {masks for missing, masks in gaps if missing} == {1}
        assert {masks for missing, masks in gaps if not missing} <= {0}


def test_spans_without_a_word_insert_a_mask_anywhere(tokenizer):
    objective = make(tokenizer)
    spans = insertions = 0
    between = set()
    for seed in range(300):
        tokens = distinct(tokenizer, 250, seed)
        source = source_of(objective, tokens, example_generator(0, 0, seed))
        gaps = masks_in_gaps(tokens, source, tokenizer.mask_id)
        assert all(masks >= missing for missing, masks in gaps)
        spans += sum(masks for _, masks in gaps)
        insertions += sum(masks - missing for missing, masks in gaps)
        between |= {gap / (len(gaps) - 1) for gap, (missing, masks) in enumerate(gaps) if masks and not missing}
    assert_share(insertions, spans, math.exp(-3))
    assert min(between) < 0.05 and max(between) > 0.95


def test_lengths_of_spans_are_those_of_a_poisson_distribution():
    counts = np.zeros(10, int)
    for i in range(10):
        lengths = draw_spans(3000, 3.0, example_generator(0, 0, i))
        assert lengths.sum() == 3000 and lengths[-1] > 0
        counts += np.bincount(np.minimum(lengths[:-1], 9), minlength=10)
    shares = [math.exp(-3) * 3**k / math.factorial(k) for k in range(9)]
    assert_drawn(counts, [*shares, 1 - sum(shares)])


@pytest.mark.parametrize("mean", [0.3, 1.0, 3.0, 25.0])
def test_spans_sum_to_the_budget(mean):
    for budget in range(1, 60):
        lengths = draw_spans(budget, mean, example_generator(0, 0, budget))
        assert lengths.sum() == budget and lengths.min() >= 0 and lengths[-1] > 0


# --- Sentences ---


def test_every_order_of_sentences_is_as_likely_as_any_other():
    tokens, ends = np.arange(12), np.array([2, 3, 7, 12])
    sentences = [[0, 1], [2], [3, 4, 5, 6], [7, 8, 9, 10, 11]]
    counts = {tuple(itertools.chain(*order)): 0 for order in itertools.permutations(sentences)}
    for i in range(2400):
        counts[tuple(permuted(tokens, ends, example_generator(0, 0, i)).tolist())] += 1
    assert len(counts) == 24
    assert_drawn(list(counts.values()))


@pytest.mark.parametrize("permute", [True, False])
def test_sentences_are_moved_whole(tokenizer, permute):
    objective = make(tokenizer, noise_rate=0.01, permute_sentences=permute)
    ends = [10, 35, 40, 70, 90]
    moved = 0
    for seed in range(40):
        tokens = distinct(tokenizer, 90, seed)
        source = source_of(objective, tokens, example_generator(0, 0, seed), ends)
        places = [tokens.tolist().index(token) for token in source if token != tokenizer.mask_id]
        order = [key for key, _ in itertools.groupby(np.searchsorted(ends, places, side="right").tolist())]
        assert sorted(order) == [0, 1, 2, 3, 4]
        for sentence in range(5):
            own = [place for place in places if np.searchsorted(ends, place, side="right") == sentence]
            assert own == sorted(own)
        moved += order != sorted(order)
    assert moved > 35 if permute else moved == 0


ENGLISH = ("Mr. Speaker, we met.", " Did we so soon?", " We did!")
CHINESE = ("今宵冬律盡，來朝麗景新。", "花餘凝地雪，條含煖吹分。")


@pytest.mark.parametrize("sentences", [ENGLISH, CHINESE])
def test_sentences_are_those_of_the_text(sentences, tokenizer, chinese_tokenizer):
    objective = make(tokenizer if sentences is ENGLISH else chinese_tokenizer)
    record = read(objective, text="".join(sentences))
    parts = np.split(record[TOKENS], record[PART_ENDS][:-1])
    assert [part.tolist() for part in parts] == [ids.tolist() for ids in objective.tokenizer.encode(sentences)]
    assert record[PART_ENDS][-1] == len(record[TOKENS])


# --- Rows ---


@pytest.mark.parametrize("options", [{}, {"noise_rate": 0.9, "span_length": 0.3}, {"noise_rate": 0.05}])
def test_a_source_is_never_longer_than_its_target_and_rows_hold_both(language, options):
    objective = make(language, 64, **options)
    for seed in range(5):
        generator = np.random.default_rng(seed)
        lengths = np.minimum(generator.geometric(1 / 25, 40), 200)
        plan = plan_rows(lengths, 64, objective.longest, objective.room, pack=True, truncate=False, seed=seed)
        whole = texts(language, *lengths.tolist(), seed=seed)
        for number in range(len(plan)):
            pieces = []
            for piece in plan.row(number):
                size = len(whole[piece.record])
                ends = np.unique([*generator.integers(1, size + 1, size // 10), size]).astype(np.int32)
                pieces.append(cut({TOKENS: whole[piece.record], PART_ENDS: ends}, piece.start, piece.stop))
            row = row_of(objective, *pieces, seed=seed)
            sizes = [np.bincount(row[f"{side}segment_ids"], minlength=9)[1:] for side in ("", "target_")]
            assert (sizes[0] <= sizes[1]).all()
            assert sizes[1][: len(pieces)].tolist() == [len(piece[TOKENS]) + 2 for piece in pieces]
            assert runs_of(row["segment_ids"] > 0)[0][0] == 0


def test_the_decoder_begins_with_the_end_as_barts_does(tokenizer):
    row = row_of(make(tokenizer), *map(record_of, texts(tokenizer, 20), [[20]]))
    start, end = tokenizer.start_id, tokenizer.separator_id
    assert row["target_token_ids"][:2].tolist() == [end, start]
    assert row["labels"][0] == start and row["labels"][21] == end and row["label_weights"].sum() == 22


def test_what_cannot_be_is_refused(tokenizer):
    with pytest.raises(RecipeError, match="no mask token"):
        make(without(tokenizer, "mask_id"))
    for options in ({"noise_rate": 0.0}, {"noise_rate": 1.0}, {"span_length": 0.0}):
        with pytest.raises(InvalidField):
            TextInfillingConfig(**options)
