"""Prefix language modelling: a beginning of any length, read both ways, and a loss on the rest alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from handmade import assert_drawn, model_for, record_of, row_of, stacked, texts, whole_pass, without
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.errors import RecipeError
from jaxft.objectives.prefix_lm import PrefixLM, PrefixLMConfig
from jaxft.training.step import bind

LENGTH = 32


def make(tokenizer, length=LENGTH) -> PrefixLM:
    return PrefixLM(PrefixLMConfig(), setting_of(tokenizer, length, family="decoder"))


@pytest.fixture(scope="module")
def headless(tokenizer):
    """The tokenizer without a start token."""
    return without(tokenizer, "start_id")


@pytest.mark.parametrize("name", ["tokenizer", "headless"])
@pytest.mark.parametrize("size", [2, 3, 9])
def test_every_length_of_the_beginning_is_as_likely_as_any_other(name, request, size):
    tokenizer = request.getfixturevalue(name)
    objective, start = make(tokenizer), int(tokenizer.start_id is not None)
    (text,) = texts(tokenizer, size)
    counts = np.zeros(size + 1, int)
    for seed in range(150 * (size - 1)):
        row = row_of(objective, record_of(text), seed=seed)
        read = int(row["prefix"].sum())
        assert row["prefix"][:read].all()
        counts[read - start] += 1
        # The loss is on all that is not read, and on the end.
        assert row["labels"][row["label_weights"] > 0].tolist() == [
            *text[read - start :].tolist(),
            tokenizer.separator_id,
        ]
    assert counts[0] == counts[size] == 0
    assert_drawn(counts[1:size])


def test_every_piece_has_a_beginning_of_its_own(tokenizer):
    parts = texts(tokenizer, 6, 1, 12)
    seen = set()
    for seed in range(20):
        row = row_of(make(tokenizer), *map(record_of, parts), seed=seed)
        lengths = []
        for segment, part in enumerate(parts, 1):
            inside = row["segment_ids"] == segment
            read = int(row["prefix"][inside].sum())
            assert row["prefix"][inside].tolist() == [i < read for i in range(inside.sum())]
            assert row["label_weights"][inside].tolist() == [i >= read - 1 for i in range(inside.sum())]
            assert read == 1 if len(part) == 1 else 2 <= read <= len(part)
            lengths.append(read)
        assert not row["prefix"][row["segment_ids"] == 0].any()
        seen.add(tuple(lengths))
    assert len(seen) > 12


def beginnings(row) -> list[int]:
    """How many tokens of each piece are read both ways."""
    return [int(row["prefix"][row["segment_ids"] == segment].sum()) for segment in (1, 2)]


def test_a_beginning_is_read_both_ways_and_the_rest_from_left_to_right(tokenizer):
    objective = make(tokenizer)
    model = model_for(objective, family="decoder", max_length=LENGTH)
    parameters = draw_parameters(model)
    made = (row_of(objective, *map(record_of, texts(tokenizer, 8, 10)), seed=seed) for seed in range(100))
    # With beginnings neither short nor long.
    batch = stacked([next(row for row in made if {3, 4, 5, 6} >= {*beginnings(row)})])
    sequences = jax.jit(lambda ids: bind(model, parameters)(objective.sequences({**batch, "token_ids": ids})).hidden[0])
    ids, prefix, segments = batch["token_ids"], batch["prefix"][0], batch["segment_ids"][0]
    before = np.asarray(sequences(ids))
    places = np.arange(LENGTH)
    for place in range(int((segments > 0).sum())):
        changed = (np.asarray(sequences(np.where(places == place, ids % 290 + 7, ids).astype(np.int32))) != before).any(
            -1
        )
        sees = (segments == segments[place]) & ((places >= place) | prefix[place])
        np.testing.assert_array_equal(changed, sees, f"token {place} replaced")


def test_packed_is_unpacked(tokenizer):
    objective = make(tokenizer)
    model = model_for(objective, layers=1, family="decoder", max_length=LENGTH)
    parameters = draw_parameters(model)
    compiled = jax.jit(lambda batch: objective.loss(bind(model, parameters), batch))
    sizes = np.random.default_rng(0).integers(1, 50, 20).tolist()
    records = [record_of(text) for text in texts(tokenizer, *sizes)]
    one, other = (jax.device_get(compiled(whole_pass(objective, records, pack=pack))) for pack in (True, False))
    assert one.weight == other.weight < sum(sizes)
    assert one.loss == pytest.approx(float(other.loss), rel=2e-5)


def test_an_encoder_is_refused(tokenizer):
    with pytest.raises(RecipeError, match="decoder, not encoder"):
        PrefixLM(PrefixLMConfig(), setting_of(tokenizer, LENGTH))
