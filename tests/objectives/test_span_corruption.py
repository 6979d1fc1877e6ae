"""Span corruption: T5's lengths and splices, every mask as likely as any other, and nothing lost between both sides."""

from __future__ import annotations

import itertools
import math

import jax
import numpy as np
import pytest
from handmade import assert_drawn, model_for, record_of, row_of, runs_of, texts, whole_pass
from support.settings import setting_of

from jaxft.data.batches import example_generator
from jaxft.data.packing import plan_rows
from jaxft.data.store import TOKENS, cut
from jaxft.errors import InvalidField, RecipeError
from jaxft.models.model import initialize
from jaxft.objectives.objective import ObjectiveContext
from jaxft.objectives.span_corruption import (
    Noise,
    SpanCorruption,
    SpanCorruptionConfig,
    cut_out,
    longest_piece,
    replace_spans,
)
from jaxft.training.step import bind

LENGTH = 64
END = 1


def setting(tokenizer, length=LENGTH) -> ObjectiveContext:
    return setting_of(tokenizer, length, family="encoder_decoder")


def make(tokenizer, length=LENGTH, **options) -> SpanCorruption:
    return SpanCorruption(SpanCorruptionConfig(**options), setting(tokenizer, length))


# --- The figures of T5's own code ---


@pytest.mark.parametrize(
    ("length", "raw", "target"), [(128, 141, 29), (256, 284, 58), (512, 568, 114), (1024, 1137, 229), (2048, 2274, 456)]
)
def test_lengths_are_those_of_t5(sentinel_tokenizer, length, raw, target):
    noise = Noise(0.15, 3.0)
    assert longest_piece([noise], length, None) == raw
    assert noise.sizes(np.array(raw))[1] == target
    if length <= 1024:  # for which T5's hundred sentinels are enough
        objective = make(sentinel_tokenizer, length)
        assert (objective.longest, objective.target_length) == (raw, target)


def test_a_splice_is_that_of_t5():
    mask = np.array([c == "T" for c in "TTFFTF"])
    assert replace_spans(np.arange(10, 16), mask, np.arange(999, 899, -1)).tolist() == [999, 12, 13, 998, 15]
    source, target = cut_out(np.arange(10, 16), mask, np.arange(999, 899, -1), END)
    assert source.tolist() == [999, 12, 13, 998, 15, END]
    assert target.tolist() == [999, 10, 11, 998, 14, END]


# --- Masks ---


@pytest.mark.parametrize("noise", [Noise(0.15, 3.0), Noise(0.5, 3.0), Noise(0.15, 64.0), Noise(0.9, 1.0)])
def test_the_exact_number_of_tokens_is_cut_out_in_the_exact_number_of_spans(noise):
    for size in [*range(2, 60), 284, 568]:
        mask = noise.mask(size, example_generator(0, 0, size))
        cut_tokens = min(max(round(size * noise.rate), 1), size - 1)
        assert mask.sum() == cut_tokens
        spans = len(runs_of(mask))
        # Each span has a token, and a token of the rest before it.
        assert spans == min(max(round(cut_tokens / noise.span_length), 1), cut_tokens, size - cut_tokens)
        assert not mask[0] and mask[-1]
        source, target = cut_out(np.arange(size), mask, np.arange(1000, 2000), END)
        assert (len(source), len(target)) == tuple(noise.sizes(np.array(size)))


@pytest.mark.parametrize(
    ("size", "noise", "cut_tokens", "spans"),
    [
        (12, Noise(0.4, 2.5), 5, 2),
        (10, Noise(0.5, 5 / 3), 5, 3),
        (9, Noise(0.25, 3.0), 2, 1),
        (8, Noise(0.4, 1.0), 3, 3),
    ],
)
def test_every_mask_is_as_likely_as_any_other(size, noise, cut_tokens, spans):
    masks = [np.isin(np.arange(size), places) for places in itertools.combinations(range(size), cut_tokens)]
    masks = [mask for mask in masks if len(runs_of(mask)) == spans and not mask[0] and mask[-1]]
    assert len(masks) == math.comb(cut_tokens - 1, spans - 1) * math.comb(size - cut_tokens - 1, spans - 1)
    counts = {tuple(mask.tolist()): 0 for mask in masks}
    for i in range(150 * len(masks)):
        counts[tuple(noise.mask(size, example_generator(0, 0, i)).tolist())] += 1
    assert_drawn(list(counts.values()))


# --- Sources and targets ---


def spliced(source, target, sentinels) -> list[int]:
    """The text, put together again from both sides."""
    spans: dict[int, list[int]] = {}
    for token in target:
        if token in sentinels:
            span = spans.setdefault(token, [])
        else:
            span.append(token)
    return [t for token in source for t in (spans.pop(token) if token in sentinels else [token])]


@pytest.mark.parametrize(("rate", "span_length"), [(0.15, 3.0), (0.5, 3.0), (0.3, 1.0), (0.15, 64.0)])
def test_both_sides_together_are_the_text(sentinel_tokenizer, rate, span_length):
    objective = make(sentinel_tokenizer, noise_rate=rate, span_length=span_length)
    sentinels = list(sentinel_tokenizer.sentinel_ids)
    for size in [*range(2, 20), objective.longest]:
        (text,) = texts(sentinel_tokenizer, size, seed=size)
        source, target = (side.tolist() for side in objective.example(record_of(text), example_generator(0, 0, size)))
        assert source.pop() == target.pop() == sentinel_tokenizer.separator_id
        assert spliced(source, target, sentinels) == text.tolist()
        named = [token for token in source if token in sentinels]
        assert named == [token for token in target if token in sentinels]
        assert named == sentinels[: len(named)] and named
        assert target[0] == sentinels[0] and target[-1] not in sentinels  # none after the last span


def test_sentinels_count_from_the_first_one_in_every_piece(sentinel_tokenizer):
    objective = make(sentinel_tokenizer)
    row = row_of(objective, *map(record_of, texts(sentinel_tokenizer, 20, 15)))
    first = sentinel_tokenizer.sentinel_ids[0]
    for names in (("token_ids", "segment_ids"), ("labels", "target_segment_ids")):
        tokens, segments = (row[name] for name in names)
        assert [int((tokens[segments == i] == first).sum()) for i in (1, 2)] == [1, 1]


def test_a_piece_of_one_token_stays_as_it_is(sentinel_tokenizer):
    (text,) = texts(sentinel_tokenizer, 1)
    source, target = make(sentinel_tokenizer).example(record_of(text), example_generator(0, 0, 0))
    end = sentinel_tokenizer.separator_id
    assert (source.tolist(), target.tolist()) == ([int(text[0]), end], [end])


def test_another_key_makes_another_mask_and_the_same_key_the_same(sentinel_tokenizer):
    objective = make(sentinel_tokenizer)
    record = record_of(*texts(sentinel_tokenizer, 40))
    rows = [row_of(objective, record, seed=seed)["token_ids"].tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


@pytest.mark.parametrize(
    ("position", "given", "begin"),
    [("relative_bias", None, "pad_id"), ("learned", None, "separator_id"), ("learned", 7, 7)],
)
def test_the_decoder_reads_its_target_one_place_later(sentinel_tokenizer, position, given, begin):
    """It begins with padding as T5's does, with a separator as BART's does, or with what its weights say."""
    model = setting_of(sentinel_tokenizer, LENGTH, family="encoder_decoder", position=position).model
    objective = SpanCorruption(
        SpanCorruptionConfig(target_length=40), ObjectiveContext(sentinel_tokenizer, model, decoder_start_id=given)
    )
    row = row_of(objective, *map(record_of, texts(sentinel_tokenizer, 15, 1, 20)))
    begin = begin if given else getattr(sentinel_tokenizer, begin)
    assert set(row["target_segment_ids"].tolist()) == set(row["segment_ids"].tolist()) == {0, 1, 2, 3}
    for segment in (1, 2, 3):
        inside = row["target_segment_ids"] == segment
        read, labels = row["target_token_ids"][inside].tolist(), row["labels"][inside].tolist()
        assert read == [begin, *labels[:-1]] and labels[-1] == sentinel_tokenizer.separator_id
        assert row["target_positions"][inside].tolist() == list(range(len(read)))
    assert row["label_weights"].tolist() == (row["target_segment_ids"] > 0).tolist()


# --- Rows ---


@pytest.mark.parametrize("target_length", [None, 20, 12, 64, 200])
@pytest.mark.parametrize(("rate", "span_length"), [(0.15, 3.0), (0.5, 3.0), (0.5, 1.0), (0.9, 2.0), (0.15, 64.0)])
def test_packed_rows_never_hold_too_much(sentinel_tokenizer, rate, span_length, target_length):
    objective = make(sentinel_tokenizer, noise_rate=rate, span_length=span_length, target_length=target_length)
    # No piece that is shorter needs more.
    noise = Noise(rate, span_length)
    source, target = noise.sizes(np.arange(1, objective.longest + 1))
    assert source.max() <= LENGTH and target.max() <= objective.target_length
    full = 0
    for seed in range(4):
        generator = np.random.default_rng(seed)
        lengths = np.minimum(generator.geometric(1 / generator.integers(4, 80), 60), 500)
        plan = plan_rows(lengths, LENGTH, objective.longest, objective.room, pack=True, truncate=False, seed=seed)
        for number in range(len(plan)):
            pieces = [np.zeros(piece.stop - piece.start, np.int32) + 300 for piece in plan.row(number)]
            row = row_of(objective, *map(record_of, pieces), seed=seed)  # which fails where a side is too long
            sizes = [sum(side) for side in zip(*map(noise.sizes, map(np.size, pieces)), strict=True)]
            assert [(row["segment_ids"] > 0).sum(), (row["target_segment_ids"] > 0).sum()] == sizes
            full = max(full, sizes[0] / LENGTH, sizes[1] / objective.target_length)
    assert full > 0.9


def test_the_longest_piece_shrinks_with_the_decoders_row(sentinel_tokenizer):
    for target_length in (5, 10, 16):
        objective = make(sentinel_tokenizer, target_length=target_length)
        assert objective.target_length == target_length
        noise = Noise(0.15, 3.0)
        source, target = noise.sizes(np.array(objective.longest + 1))
        assert target > target_length or source > LENGTH
    assert make(sentinel_tokenizer, target_length=5).longest < 30


# --- Refusals ---


def test_too_few_sentinels_are_refused(tokenizer, sentinel_tokenizer):
    with pytest.raises(RecipeError, match="no sentinels"):
        make(tokenizer)
    with pytest.raises(RecipeError, match=r"114 spans.*only 100 sentinels"):
        make(sentinel_tokenizer, 2048)


def test_other_families_are_refused(sentinel_tokenizer):
    with pytest.raises(RecipeError, match="encoder-decoder, not decoder"):
        SpanCorruption(SpanCorruptionConfig(), setting_of(sentinel_tokenizer, LENGTH, family="decoder"))


@pytest.mark.parametrize("options", [{"noise_rate": 0.0}, {"noise_rate": 1.0}, {"span_length": 0.5}])
def test_impossible_values_are_refused(options):
    with pytest.raises(InvalidField):
        SpanCorruptionConfig(**options)


# --- The loss ---


@pytest.fixture(scope="module")
def loss_of(sentinel_tokenizer):
    """A compiled function from a batch to its StreamLoss, of a fresh model."""
    objective = make(sentinel_tokenizer)
    model = model_for(objective, layers=1, family="encoder_decoder", position="relative_bias")
    parameters = jax.jit(lambda: initialize(model, jax.random.key(0)))()
    compiled = jax.jit(lambda batch: objective.loss(bind(model, parameters), batch))
    return objective, lambda batch: jax.device_get(compiled(batch))


def test_packed_is_unpacked_and_a_fresh_model_knows_nothing(loss_of, sentinel_tokenizer):
    objective, compute = loss_of
    sizes = np.random.default_rng(0).integers(1, 90, 14).tolist()
    records = [record_of(text) for text in texts(sentinel_tokenizer, *sizes)]
    packed, unpacked = (whole_pass(objective, records, pack=pack) for pack in (True, False))
    assert len(packed["row_weight"]) < 0.8 * len(unpacked["row_weight"])
    one, other = compute(packed), compute(unpacked)
    assert one.weight == other.weight == packed["label_weights"].sum()
    assert one.tokens == other.tokens
    assert one.loss == pytest.approx(float(other.loss), rel=2e-5)
    assert one.loss / one.weight == pytest.approx(math.log(sentinel_tokenizer.vocab_size), rel=0.02)


def test_a_target_depends_on_its_own_source_alone(loss_of, sentinel_tokenizer):
    objective, compute = loss_of
    parts = texts(sentinel_tokenizer, 20, 16, 18)
    row = row_of(objective, *map(record_of, parts))
    batch = {name: value[None] for name, value in row.items()} | {"row_weight": np.ones(1, np.float32)}
    batch["label_weights"] = (batch["target_segment_ids"] == 2).astype(np.float32)

    def changed(name: str, segments: str, which) -> float:
        ids = np.where(which(batch[segments]), (batch[name] + 7) % 400, batch[name]).astype(np.int32)
        return float(compute({**batch, name: ids}).loss)

    before = float(compute(batch).loss)
    for name, segments in (("token_ids", "segment_ids"), ("target_token_ids", "target_segment_ids")):
        assert changed(name, segments, lambda ids: ids != 2) == before
        assert changed(name, segments, lambda ids: ids == 2) != before


def test_cut_pieces_of_a_long_document_are_corrupted_each_by_itself(sentinel_tokenizer):
    objective = make(sentinel_tokenizer)
    (text,) = texts(sentinel_tokenizer, 200)
    sentinels = list(sentinel_tokenizer.sentinel_ids)
    whole = []
    plan = plan_rows(np.array([200]), LENGTH, objective.longest, objective.room, pack=True, truncate=False)
    pieces = sorted((piece for number in range(len(plan)) for piece in plan.row(number)), key=lambda one: one.start)
    for piece in pieces:
        record = cut({TOKENS: text}, piece.start, piece.stop)
        source, target = objective.example(record, example_generator(0, 0, piece.index))
        whole += spliced(source[:-1].tolist(), target[:-1].tolist(), sentinels)
    assert len(pieces) > 2 and whole == text.tolist()
