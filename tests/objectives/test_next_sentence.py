"""Pairs of segments: which follow each other, where they are cut, and a loss that is a sum of two means."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from handmade import assert_drawn, assert_share, model_for, read, record_of, row_of, stacked, without
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.data.batches import example_generator
from jaxft.data.packing import plan_rows
from jaxft.data.store import PART_ENDS, TOKENS, cut
from jaxft.errors import InvalidField, RecipeError
from jaxft.objectives.next_sentence import NextSentence, NextSentenceConfig
from jaxft.objectives.sentence_order import SentenceOrder, SentenceOrderConfig
from jaxft.training.balance import ClipConfig
from jaxft.training.state import TrainState
from jaxft.training.step import bind, make_train_step

LENGTH = 64
KINDS = {"next_sentence": (NextSentence, NextSentenceConfig), "sentence_order": (SentenceOrder, SentenceOrderConfig)}
# Two documents whose tokens tell where they come from.
OWN, OTHER = range(100, 160), range(200, 260)


def make(tokenizer, kind="next_sentence", length=LENGTH, **options):
    objective, config = KINDS[kind]
    return objective(config(**options), setting_of(tokenizer, length, token_types=2))


def document(size: int, ends, other_ends=(4, 9, 20, 30)):
    """A piece of `OWN`, whose partner is a piece of `OTHER`."""
    other = {TOKENS: np.array(OTHER[: other_ends[-1]], np.int32), PART_ENDS: np.array(other_ends, np.int32)}
    return record_of(OWN[:size], ends, partner=other)


def segments_of(tokenizer, row) -> tuple[list[int], list[int]]:
    """Both segments as they were before masking, read off the row; its layout is checked."""
    ids, count = row["token_ids"].copy(), int(row["label_weights"].sum())
    ids[row["gather"][:count]] = row["labels"][:count]
    ids = ids[row["segment_ids"] > 0].tolist()
    first = ids.index(tokenizer.separator_id)
    assert ids[0] == tokenizer.start_id and ids[-1] == tokenizer.separator_id
    assert row["token_types"].tolist() == [int(first < place < len(ids)) for place in range(len(row["token_ids"]))]
    assert row["segment_ids"].tolist() == [int(place < len(ids)) for place in range(len(row["token_ids"]))]
    return ids[1:first], ids[first + 1 : -1]


# --- Which segments ---


@pytest.mark.parametrize("ends", [(5, 9, 20, 25), (12, 25), (25,)])
def test_half_of_the_second_segments_are_random_and_all_after_a_single_sentence(tokenizer, ends):
    objective = make(tokenizer)
    labels = 0
    for seed in range(1000):
        row = row_of(objective, document(25, ends), seed=seed)
        first, second = segments_of(tokenizer, row)
        label = int(row["label"])
        assert first == list(OWN[: len(first)]) and len(first) in ends
        if label:
            assert set(second) <= set(OTHER) and second[0] - OTHER[0] in (0, 4, 9, 20)
            assert second == list(range(second[0], second[0] + len(second)))
        else:
            assert second == list(OWN[len(first) : 25])
        labels += label
    if len(ends) == 1:
        assert labels == 1000
    else:
        assert_share(labels, 1000, 0.5)


@pytest.mark.parametrize("ends", [(5, 9, 20, 25), (12, 25), (25,)])
def test_half_of_the_pairs_are_swapped(tokenizer, ends):
    objective = make(tokenizer, "sentence_order")
    swapped = 0
    for seed in range(1000):
        row = row_of(objective, document(25, ends), seed=seed)
        segments = segments_of(tokenizer, row)
        first, second = reversed(segments) if row["label"] else segments
        assert first + second == list(OWN[:25])
        assert len(first) in (ends[:-1] or (12, 13))
        swapped += int(row["label"])
    assert_share(swapped, 1000, 0.5)


@pytest.mark.parametrize(
    ("start", "stop", "kept"),
    [(5, 50, (10, 45)), (0, 50, (0, 45)), (5, 60, (10, 60)), (5, 25, (5, 25)), (12, 18, (12, 18))],
)
def test_an_order_is_asked_of_whole_sentences(tokenizer, start, stop, kept):
    """A part of a sentence would say which segment came first; it stays where there is little else."""
    record = {TOKENS: np.array(OWN, np.int32), PART_ENDS: np.array([10, 20, 30, 45, 60], np.int32)}
    for seed in range(30):
        row = row_of(make(tokenizer, "sentence_order"), cut(record, start, stop), seed=seed)
        segments = segments_of(tokenizer, row)
        first, second = reversed(segments) if row["label"] else segments
        assert first + second == list(OWN[slice(*kept)])


@pytest.mark.parametrize("kind", KINDS)
def test_each_boundary_of_sentences_is_as_likely_as_any_other(tokenizer, kind):
    objective, ends = make(tokenizer, kind), (3, 9, 10, 21, 25)
    splits, begins = dict.fromkeys(ends[:-1], 0), dict.fromkeys((0, 4, 9, 20), 0)
    for seed in range(800):
        row = row_of(objective, document(25, ends), seed=seed)
        segments = segments_of(tokenizer, row)
        if kind == "next_sentence":
            splits[len(segments[0])] += 1
            if row["label"]:
                begins[segments[1][0] - OTHER[0]] += 1
        else:
            splits[len(segments[int(row["label"])])] += 1
    assert_drawn(list(splits.values()))
    if kind == "next_sentence":
        assert_drawn(list(begins.values()))


def test_a_random_segment_is_as_long_as_what_it_replaces(tokenizer):
    """So that nobody can tell it by its length; where its document is over before, it is shorter."""
    objective = make(tokenizer)
    for seed in range(100):
        row = row_of(objective, document(40, (7, 18, 40), other_ends=(20, 30, 60)), seed=seed)
        first, second = segments_of(tokenizer, row)
        wanted = 40 - len(first)
        assert len(second) == (min(wanted, OTHER[59] + 1 - second[0]) if row["label"] else wanted)


@pytest.mark.parametrize("size", [1, 10, 30, 36, 37])
def test_after_a_single_sentence_a_random_segment_fits_into_the_row(tokenizer, size):
    objective, lengths = make(tokenizer, length=40), set()
    for seed in range(100):
        first, second = segments_of(tokenizer, row_of(objective, document(size, (size,), other_ends=(60,)), seed=seed))
        assert len(first) + len(second) <= 37 and second
        assert first == list(OWN[: len(first)]) and len(first) >= min(size, 36)
        lengths.add(len(second))
    assert len(lengths) > 0.5 * (37 - size)


@pytest.mark.parametrize("kind", KINDS)
def test_sentences_without_a_token_are_none(tokenizer, kind):
    """Text that a tokenizer drops; it is neither a segment nor a place to split at."""
    objective = make(tokenizer, kind)
    for seed in range(60):
        row = row_of(objective, document(12, (0, 5, 5, 12, 12), other_ends=(0, 4, 4)), seed=seed)
        first, second = segments_of(tokenizer, row)
        assert first and second
        assert 5 in (len(first), len(second)) or row["label"]


def test_a_document_of_one_token_makes_a_row(tokenizer):
    for seed in range(10):
        row = row_of(make(tokenizer), document(1, (1,)), seed=seed)
        first, second = segments_of(tokenizer, row)
        assert first == [OWN[0]] and set(second) <= set(OTHER) and second and row["label"] == 1
        row = row_of(make(tokenizer, "sentence_order"), document(1, (1,)), seed=seed)
        assert segments_of(tokenizer, row) == ([OWN[0]], []) and row["label"] == 0
        assert row["label_weights"].sum() == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_the_exact_number_of_tokens_is_masked_in_each_segment(tokenizer, kind, rate):
    objective = make(tokenizer, kind, mask_rate=rate)
    for seed in range(200):
        row = row_of(objective, document(40, (7, 12, 30, 40)), seed=seed)
        segments = segments_of(tokenizer, row)
        places = row["gather"][: int(row["label_weights"].sum())]
        assert len(set(places.tolist())) == len(places)
        assert not set(row["labels"][: len(places)].tolist()) & tokenizer.special_ids
        counts = [int((row["token_types"][places] == number).sum()) for number in (0, 1)]
        assert counts == [max(1, round(rate * len(segment))) for segment in segments]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["addresses", "poems"])
def test_real_documents_are_split_between_their_sentences(kind, name, request):
    tokenizer = request.getfixturevalue("tokenizer" if name == "addresses" else "chinese_tokenizer")
    objective = make(tokenizer, kind, length=128)
    records = [read(objective, text=text[:4000]) for text in request.getfixturevalue(name)[:30]]
    plan = plan_rows(
        np.array([len(record[TOKENS]) for record in records]),
        objective.length,
        objective.longest,
        objective.room,
        pack=objective.pack,
        truncate=objective.truncate,
    )
    assert len(plan) >= 20
    labels = []
    for number in range(len(plan)):
        (piece,) = plan.row(number)
        record = cut(records[piece.record], piece.start, piece.stop)
        other = records[(piece.record + 1) % len(records)]
        row = objective.make_row([{**record, "partner": other}], [example_generator(0, 0, piece.index)])
        segments, text = segments_of(tokenizer, row), record[TOKENS].tolist()
        labels.append(int(row["label"]))
        assert all(segments) and len(segments[0]) + len(segments[1]) <= objective.longest
        if kind == "sentence_order":
            # Parts of sentences at both ends of a piece are left out.
            first, second = reversed(segments) if labels[-1] else segments
            bounds = [0, *record[PART_ENDS].tolist()]
            whole = bounds[not record["begins"] : len(bounds) - (not record["ends"])]
            start, stop = (whole[0], whole[-1]) if len(whole) > 2 else (0, len(text))
            assert first + second == text[start:stop]
            assert start + len(first) in whole or len(whole) <= 2
        else:
            first, second = segments
            assert first == text[: len(first)] and (labels[-1] or second == text[len(first) :])
            assert len(first) in record[PART_ENDS] or len(record[PART_ENDS]) == 1
    assert 0 < sum(labels) < len(labels)


# --- The loss ---


def uneven_batch(tokenizer, kind):
    """Eight rows with very few and with many masked tokens, two of which do not count."""
    objective = make(tokenizer, kind)
    sizes = [2, 60, 3, 50, 5, 40, 2, 61]
    rows = [row_of(objective, document(size, (1, size)), seed=i) for i, size in enumerate(sizes)]
    return stacked(rows, [1, 1, 1, 0, 1, 1, 1, 0])


def test_the_loss_is_a_sum_of_two_means_whatever_the_micro_batches(tokenizer):
    objective = make(tokenizer, pair_weight=0.7)
    model = model_for(objective, layers=1)
    parameters = draw_parameters(model)
    batch = uneven_batch(tokenizer, "next_sentence")
    masked = (batch["label_weights"] * batch["row_weight"][:, None]).sum(1)
    assert len(set(masked.reshape(2, 4).sum(0).tolist())) > 2  # else a mean of means would be as good

    def step(micro_batches: int):
        descent = optax.sgd(1.0)
        update = make_train_step(
            model, {"text": objective}, {"text": 1.0}, descent, lambda step: 1.0, ClipConfig(0.0), micro_batches
        )
        state = TrainState(jnp.int32(0), jnp.int32(0), parameters, descent.init(parameters))
        after, metrics = jax.device_get(jax.jit(update)(state, {"text": batch}))
        return jax.tree.map(np.subtract, jax.device_get(parameters), after.parameters), metrics

    (whole, metrics), (split, split_metrics) = step(1), step(4)
    ratios = metrics["streams"]["text"]["ratios"]
    means = {name: float(ratio.sum / ratio.weight) for name, ratio in ratios.items()}
    assert metrics["loss"] == pytest.approx(means["masked_lm_loss"] + 0.7 * means["pair_loss"], rel=1e-5)
    assert ratios["pair_loss"].weight == 6 and ratios["masked_lm_loss"].weight == masked.sum()
    assert split_metrics["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-5)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(split), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-6 * scale)
    for name, ratio in split_metrics["streams"]["text"]["ratios"].items():
        np.testing.assert_allclose([ratio.sum, ratio.weight], [ratios[name].sum, ratios[name].weight], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_both_means_are_those_of_the_logits(tokenizer, kind):
    objective, batch = make(tokenizer, kind), uneven_batch(tokenizer, kind)
    model = model_for(objective, layers=1)
    parameters = draw_parameters(model)

    def both(batch):
        apply = bind(model, parameters)
        heard = []

        def listen(*args, **options):
            heard.append(apply(*args, **options))
            return heard[-1]

        part = objective.loss(listen, objective.balance(batch))
        return part, heard[0].logits

    part, (tokens, pairs) = jax.device_get(jax.jit(both)(batch))
    tokens, pairs = (x - np.log(np.exp(x.astype(np.float64)).sum(-1, keepdims=True)) for x in (tokens, pairs))
    rows = np.flatnonzero(batch["row_weight"])
    of_tokens = [
        -tokens[row, i, batch["labels"][row, i]] for row in rows for i in np.flatnonzero(batch["label_weights"][row])
    ]
    of_pairs = [-pairs[row, batch["label"][row]] for row in rows]
    assert part.loss / part.weight == pytest.approx(np.mean(of_tokens) + np.mean(of_pairs), rel=1e-5)
    hits = sum(pairs[row].argmax() == batch["label"][row] for row in rows)
    assert part.ratios["pair_accuracy"].sum == hits
    means = {name: float(ratio.sum / ratio.weight) for name, ratio in part.ratios.items()}
    assert objective.total(means) == pytest.approx(np.mean(of_tokens) + np.mean(of_pairs), rel=1e-5)


# --- Refusals ---


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_is_refused(tokenizer, kind):
    objective, config = KINDS[kind]
    with pytest.raises(RecipeError, match="token_types"):
        objective(config(), setting_of(tokenizer, LENGTH, token_types=1))
    for name, said in (("start_id", "start token"), ("mask_id", "mask token")):
        with pytest.raises(RecipeError, match=said):
            make(without(tokenizer, name), kind)
    with pytest.raises(InvalidField, match="pair_weight"):
        config(pair_weight=-1.0)
    assert (
        make(tokenizer, kind, mask_rate=0.4).for_evaluation().record_options() == make(tokenizer, kind).record_options()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_has_its_own_rate(tokenizer, kind):
    for rate in (0.15, 0.4):
        objective = make(tokenizer, kind, mask_rate=rate, evaluation_mask_rate=0.25).for_evaluation()
        row = row_of(objective, document(40, (20, 40)), seed=3)
        assert row["label_weights"].sum() == sum(round(len(one) * 0.25) for one in segments_of(tokenizer, row))
