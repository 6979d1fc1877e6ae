"""Permutation language modelling: which tokens, in which order, and that no query sees what comes after it."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import jax
import numpy as np
import pytest
from handmade import assert_drawn, model_for, record_of, row_of, runs_of, stacked, texts, whole_pass
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.errors import InvalidField, RecipeError
from jaxft.models.transformer import Sequences
from jaxft.objectives.permutation_lm import PermutationLM, PermutationLMConfig
from jaxft.training.step import bind

LENGTH = 32
XLNET = {"position": "transformer_xl", "norm_placement": "post", "mlp_bias": True, "final_norm": False}


def make(tokenizer, length=LENGTH, **options) -> PermutationLM:
    return PermutationLM(PermutationLMConfig(**options), setting_of(tokenizer, length, position="transformer_xl"))


def places_of(row) -> np.ndarray:
    """Predicted places; the weights are 1 first and then 0."""
    count = int(row["label_weights"].sum())
    assert row["label_weights"].tolist() == [1.0] * count + [0.0] * (len(row["label_weights"]) - count)
    return row["gather"][:count]


# --- Which tokens ---


@pytest.mark.parametrize("rate", [1 / 6, 0.05, 0.4, 0.9])
def test_the_exact_number_of_tokens_is_predicted_in_every_piece(tokenizer, rate):
    objective = make(tokenizer, 512, target_rate=rate)
    for size in [*range(1, 40), 100, 510]:
        row = row_of(objective, record_of(*texts(tokenizer, size, seed=size)), seed=size)
        assert len(places_of(row)) == max(1, round(size * rate)), size
    row = row_of(objective, *map(record_of, texts(tokenizer, 60, 100, 90)))
    counts = Counter(row["segment_ids"][places_of(row)].tolist())
    assert [counts[i] for i in (1, 2, 3)] == [round(size * rate) for size in (60, 100, 90)]


def test_85_of_512_are_predicted_as_in_the_paper(tokenizer):
    row = row_of(make(tokenizer, 514), record_of(*texts(tokenizer, 512)))
    assert len(places_of(row)) == 85


def test_nothing_is_hidden_and_what_is_not_predicted_is_read_from_the_start(tokenizer):
    objective = make(tokenizer, 64)
    parts = texts(tokenizer, 20, 1, 30)
    ends = [tokenizer.separator_id, tokenizer.start_id]
    original = [i for part in parts for i in (*part.tolist(), *ends)]
    for seed in range(30):
        row = row_of(objective, *map(record_of, parts), seed=seed)
        places = places_of(row)
        assert row["token_ids"].tolist() == original + [tokenizer.pad_id] * (64 - len(original))
        assert row["labels"][: len(places)].tolist() == [original[place] for place in places]
        assert not set(row["labels"][: len(places)].tolist()) & tokenizer.special_ids
        assert np.flatnonzero(row["order"]).tolist() == sorted(places)
        for segment in (1, 2, 3):  # ranks count from one in each piece
            ranks = row["order"][places[row["segment_ids"][places] == segment]]
            assert sorted(ranks) == list(range(1, len(ranks) + 1))


@pytest.mark.parametrize("longest", [1, 3, 5])
def test_predicted_tokens_stand_in_spans_of_one_to_the_longest(tokenizer, longest):
    """So few that spans hardly ever touch; a span of `n` tokens is `n` times rarer than one of one."""
    objective = make(tokenizer, 20_000, target_rate=0.01, longest_span=longest)
    found: Counter = Counter()
    for seed in range(10):
        row = row_of(objective, record_of(np.full(19_000, 7)), seed=seed)
        found.update(length for _, length in runs_of(row["order"] > 0))
    shares = np.array([1 / n for n in range(1, longest + 1)])
    shares /= shares.sum()
    assert sum(count for length, count in found.items() if length > longest) < 0.02 * found.total()
    for length, share in enumerate(shares, 1):
        assert found[length] / found.total() == pytest.approx(share, abs=0.06), length


def test_no_token_is_left_out(tokenizer):
    counts = np.zeros(60)
    for seed in range(1500):
        counts[places_of(row_of(make(tokenizer, 64), record_of(np.full(60, 7)), seed=seed))] += 1
    assert counts.sum() == 15_000
    assert counts.min() > 100 and counts.max() < 500  # of 250


# --- In which order ---


@pytest.mark.parametrize(("size", "targets"), [(24, 4), (18, 3), (12, 2)])
def test_every_order_is_as_likely_as_any_other(tokenizer, size, targets):
    objective = make(tokenizer)
    (text,) = texts(tokenizer, size)
    counts = dict.fromkeys(itertools.permutations(range(1, targets + 1)), 0)
    for seed in range(100 * len(counts)):
        row = row_of(objective, record_of(text), seed=seed)
        counts[tuple(row["order"][places_of(row)].tolist())] += 1
    assert_drawn(list(counts.values()))


# --- Two streams ---


@pytest.fixture(scope="module")
def logits_of(tokenizer):
    """A compiled function from token ids, segments, positions and order to the logits of all places."""
    objective = make(tokenizer)
    model = model_for(objective, **XLNET)
    parameters = draw_parameters(model)

    @jax.jit
    def compiled(token_ids, segment_ids, positions, order):
        sequences = Sequences(token_ids, segment_ids, positions, order=order)
        return bind(model, parameters)(sequences, head="permutation_lm").logits

    def run(batch, **changes):
        names = ("token_ids", "segment_ids", "positions", "order")
        return np.asarray(compiled(*(np.asarray((batch | changes)[name], np.int32) for name in names)))

    return run


def test_a_query_sees_what_is_not_predicted_and_what_comes_before_it(logits_of, tokenizer):
    objective = make(tokenizer, target_rate=0.4)
    batch = stacked([row_of(objective, *map(record_of, texts(tokenizer, 12, 10)))])
    order, segments = batch["order"][0], batch["segment_ids"][0]
    assert order.max() == 5
    before = logits_of(batch)
    for place in np.flatnonzero(segments):
        ids = np.where(np.arange(LENGTH) == place, batch["token_ids"] % 290 + 7, batch["token_ids"])
        changed = (logits_of(batch, token_ids=ids) != before)[0].any(-1)
        sees = (segments == segments[place]) & (order > order[place])
        np.testing.assert_array_equal(changed, sees, f"token {place} of rank {order[place]} replaced")


def test_in_the_order_of_the_text_it_is_a_causal_model(logits_of, tokenizer):
    """Each token's logits are those that the same model gives where there is nothing but the tokens before it."""
    size = 9
    objective = make(tokenizer, identity_order=True)
    (text,) = texts(tokenizer, size)
    row = row_of(objective, record_of(text))
    assert places_of(row).tolist() == list(range(size))
    assert row["labels"][:size].tolist() == text.tolist()
    whole = logits_of(stacked([row]))[0]
    for place in range(size):
        # The prefix, the place that asks, with another token in it, and both ends where they were.
        kept = [*range(place + 1), size, size + 1]
        ids = [*text[:place].tolist(), 99, tokenizer.separator_id, tokenizer.start_id]
        pad = [0] * (LENGTH - len(kept))
        alone = logits_of(
            {},
            **{
                "token_ids": [ids + pad],
                "segment_ids": [[1] * len(kept) + pad],
                "positions": [kept + pad],
                "order": [[*range(1, place + 2), 0, 0, *pad]],
            },
        )[0]
        np.testing.assert_allclose(alone[place], whole[place], atol=2e-5)
    assert np.abs(whole[:size] - whole[0]).max() > 0.1  # and they differ


# --- The loss ---


def test_packed_is_unpacked_and_a_fresh_model_knows_nothing(make_model, tokenizer):
    objective = make(tokenizer)
    model, parameters = make_model(objective, layers=1, **XLNET)
    compiled = jax.jit(lambda batch: objective.loss(bind(model, parameters), batch))
    sizes = np.random.default_rng(0).integers(6, 50, 16).tolist()
    records = [record_of(text) for text in texts(tokenizer, *sizes)]
    packed, unpacked = (whole_pass(objective, records, pack=pack) for pack in (True, False))
    assert len(packed["row_weight"]) < 0.9 * len(unpacked["row_weight"])
    one, other = (jax.device_get(compiled(batch)) for batch in (packed, unpacked))
    assert one.weight == other.weight == packed["label_weights"].sum()
    assert one.loss == pytest.approx(float(other.loss), rel=2e-5)
    assert one.loss / one.weight == pytest.approx(math.log(tokenizer.vocab_size), rel=0.02)


def test_what_cannot_be_is_refused(tokenizer):
    with pytest.raises(RecipeError, match="transformer_xl"):
        PermutationLM(PermutationLMConfig(), setting_of(tokenizer, LENGTH, position="rotary"))
    for options in ({"target_rate": 0.0}, {"target_rate": 1.0}, {"longest_span": 0}):
        with pytest.raises(InvalidField):
            PermutationLMConfig(**options)
