"""Spans of masked tokens: how many, how long, and every arrangement of them as likely as any other."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from handmade import assert_drawn, record_of, row_of, runs_of, texts
from support.settings import setting_of

from jaxft.data.batches import example_generator
from jaxft.errors import InvalidField
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.masking import Masking, MaskingConfig, place_spans

LENGTH = 64


def masking_of(tokenizer, **options) -> Masking:
    return Masking("masked_lm", MaskingConfig(**options), tokenizer, LENGTH)


@pytest.mark.parametrize("span_length", [1.5, 3.0, 3.8, 5.0])
@pytest.mark.parametrize("rate", [0.05, 0.15, 0.3, 0.5, 0.8])
def test_spans_hide_the_exact_number_of_tokens(tokenizer, rate, span_length):
    masking = masking_of(tokenizer, mask_rate=rate, span_length=span_length)
    for size in [*range(1, 40), 100, 512]:
        chosen = masking.choose(np.zeros(size, np.int32), example_generator(0, 0, size))
        assert len(chosen) == max(1, round(rate * size)), size
        assert (np.diff(chosen) > 0).all() and chosen[0] >= 0 and chosen[-1] < size


def spans_of(masking: Masking, pieces: int, size: int = 4000) -> list[int]:
    """Lengths of the spans of long pieces, of each but the one that was cut to the exact number."""
    lengths = []
    for i in range(pieces):
        mask = np.zeros(size, bool)
        mask[masking.choose(np.zeros(size, np.int32), example_generator(0, 0, i))] = True
        lengths += [length for _, length in runs_of(mask)[:-1]]
    return lengths


@pytest.mark.parametrize("chance", [0.2, 0.4])
def test_lengths_are_geometric_and_cut_at_ten(tokenizer, chance):
    """SpanBERT draws from a geometric distribution with p 0.2 over 1 to 10 alone, whose mean is 3.8."""
    shares = chance * (1 - chance) ** np.arange(10)
    mean = shares @ np.arange(1, 11) / shares.sum()
    if chance == 0.2:
        assert mean == pytest.approx(3.8, abs=0.01)
    found = np.bincount(spans_of(masking_of(tokenizer, span_length=mean), 40), minlength=11)[1:]
    assert len(found) == 10
    if chance == 0.4:  # the longest ones are too rare to be counted each by itself
        found, shares = np.append(found[:7], found[7:].sum()), np.append(shares[:7], shares[7:].sum())
    assert_drawn(found, shares)


@pytest.mark.parametrize("mean", [1.1, 2.0, 3.8, 5.0])
def test_spans_are_as_long_on_average_as_was_asked_for(tokenizer, mean):
    lengths = spans_of(masking_of(tokenizer, span_length=mean), 40)
    assert np.mean(lengths) == pytest.approx(mean, abs=4 * np.std(lengths) / len(lengths) ** 0.5)


@pytest.mark.parametrize(
    ("length", "lengths"),
    [(9, (2, 1, 2)), (8, (3, 1)), (7, (1, 1, 1)), (5, (5,)), (6, (1,)), (6, (2, 2, 1)), (5, (1, 1, 1)), (4, (2, 2))],
)
def test_every_arrangement_is_as_likely_as_any_other(length, lengths):
    apart = length - sum(lengths) >= len(lengths) - 1
    masks = set()
    for starts in itertools.product(range(length), repeat=len(lengths)):
        stops = [start + size for start, size in zip(starts, lengths, strict=True)]
        gaps = [begin - end for end, begin in zip(stops[:-1], starts[1:], strict=True)]
        if stops[-1] <= length and all(gap >= apart for gap in gaps):
            covered = {place for start, stop in zip(starts, stops, strict=True) for place in range(start, stop)}
            masks.add(tuple(place in covered for place in range(length)))
    counts = dict.fromkeys(masks, 0)
    for i in range(200 * len(masks)):
        counts[tuple(place_spans(length, np.array(lengths), example_generator(0, 0, i)).tolist())] += 1
    assert_drawn(list(counts.values()))


def test_spans_keep_their_order_and_stay_apart_where_there_is_room():
    generator = np.random.default_rng(0)
    for _ in range(500):
        lengths = generator.integers(1, 6, generator.integers(1, 8))
        free = int(generator.integers(0, 12))
        mask = place_spans(int(lengths.sum()) + free, lengths, generator)
        assert mask.sum() == lengths.sum()
        if free >= len(lengths) - 1:
            assert [size for _, size in runs_of(mask)] == lengths.tolist()


def test_a_row_predicts_spans_of_each_piece_and_nothing_else(tokenizer):
    objective = MaskedLM(MaskedLMConfig(mask_rate=0.3, span_length=3.0), setting_of(tokenizer, LENGTH))
    sizes = (20, 17, 18)
    together = Counter()
    for seed in range(100):
        parts = texts(tokenizer, *sizes, seed=seed)
        row = row_of(objective, *map(record_of, parts), seed=seed)
        places = row["gather"][row["label_weights"] > 0]
        original = [i for part in parts for i in (tokenizer.start_id, *part.tolist(), tokenizer.separator_id)]
        assert row["labels"][: len(places)].tolist() == [original[place] for place in places]
        assert not set(row["labels"][: len(places)].tolist()) & tokenizer.special_ids
        assert np.bincount(row["segment_ids"][places], minlength=4)[1:].tolist() == [6, 5, 5]
        together.update(size for _, size in runs_of(np.isin(np.arange(LENGTH), places)))
    assert sum(size * count for size, count in together.items()) == 1600
    assert 1600 / together.total() > 2  # and no single tokens


@pytest.mark.parametrize(
    "options", [{"span_length": 1.0}, {"span_length": 6.0}, {"span_length": 3.0, "whole_words": True}]
)
def test_impossible_spans_are_refused(options):
    with pytest.raises(InvalidField, match="span_length"):
        MaskingConfig(**options)
