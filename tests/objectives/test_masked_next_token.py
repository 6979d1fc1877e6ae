"""Masked next-token prediction: asked one place before, and reading both ways in this objective alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from handmade import Listening, model_for, record_of, row_of, stacked, texts, whole_pass, without
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.errors import RecipeError
from jaxft.objectives.causal_lm import CausalLM, CausalLMConfig
from jaxft.objectives.masked_next_token import MaskedNextToken, MaskedNextTokenConfig
from jaxft.training.step import bind

LENGTH = 32


def make(tokenizer, **options) -> MaskedNextToken:
    return MaskedNextToken(MaskedNextTokenConfig(**options), setting_of(tokenizer, LENGTH, family="decoder"))


@pytest.mark.parametrize("sizes", [(30,), (9, 1, 12), (1,)])
def test_each_masked_token_is_asked_for_one_place_before_it(tokenizer, sizes):
    objective = make(tokenizer)
    first = 0
    for seed in range(60):
        parts = texts(tokenizer, *sizes, seed=seed)
        original = np.array([i for part in parts for i in (tokenizer.start_id, *part.tolist(), tokenizer.separator_id)])
        row = row_of(objective, *map(record_of, parts), seed=seed)
        count = int(row["label_weights"].sum())
        assert count == sum(max(1, round(0.2 * size)) for size in sizes)
        asked = row["gather"][:count]
        assert (row["token_ids"][asked + 1] == tokenizer.mask_id).all()
        assert row["labels"][:count].tolist() == original[asked + 1].tolist()
        others = np.setdiff1d(np.arange(len(original)), asked + 1)
        assert row["token_ids"][others].tolist() == original[others].tolist()
        # Within the piece: the token before the first one is its start.
        assert (row["segment_ids"][asked] == row["segment_ids"][asked + 1]).all()
        first += int((row["positions"][asked] == 0).sum())
    assert first > 5


@pytest.fixture(scope="module")
def trained_both_ways(tokenizer):
    """One model under both objectives: functions from tokens to the hidden states of a row."""
    objectives = [make(tokenizer), CausalLM(CausalLMConfig(), setting_of(tokenizer, LENGTH, family="decoder"))]
    model = model_for(*objectives, family="decoder", max_length=LENGTH)
    assert [name for name, _ in model.heads] == ["causal_lm"]  # which both train
    parameters = draw_parameters(model)
    batch = stacked([row_of(objectives[1], *map(record_of, texts(tokenizer, 8, 9)))])

    def reading(objective):
        def hidden(ids):
            listening = Listening(bind(model, parameters))
            gather = {"gather": np.zeros((1, 3), np.int32), "label_weights": np.ones((1, 3), np.float32)}
            masked = {**gather, "labels": np.zeros((1, 3), np.int32)} if objective is objectives[0] else {}
            objective.loss(listening, {**batch, **masked, "token_ids": ids})
            return listening.outputs[0].hidden[0]

        return jax.jit(hidden)

    return batch, [reading(objective) for objective in objectives]


def test_a_decoder_reads_both_ways_here_and_from_left_to_right_elsewhere(trained_both_ways):
    batch, (here, elsewhere) = trained_both_ways
    ids, segments, places = batch["token_ids"], batch["segment_ids"][0], np.arange(LENGTH)
    befores = [np.asarray(run(ids)) for run in (here, elsewhere)]
    for place in range(0, int((segments > 0).sum()), 3):
        changed_ids = np.where(places == place, ids % 290 + 7, ids).astype(np.int32)
        own = segments == segments[place]
        for run, before, sees in zip((here, elsewhere), befores, (own, own & (places >= place)), strict=True):
            np.testing.assert_array_equal((np.asarray(run(changed_ids)) != before).any(-1), sees)


def test_the_loss_is_that_of_the_places_before_and_packed_is_unpacked(tokenizer):
    objective = make(tokenizer)
    model = model_for(objective, layers=1, family="decoder", max_length=LENGTH)
    parameters = draw_parameters(model)
    records = [record_of(text) for text in texts(tokenizer, *np.random.default_rng(0).integers(5, 40, 12).tolist())]
    packed, unpacked = (whole_pass(objective, records, pack=pack) for pack in (True, False))
    assert len(packed["row_weight"]) < len(unpacked["row_weight"])
    compiled = jax.jit(lambda batch: objective.loss(bind(model, parameters), batch))
    one, other = (jax.device_get(compiled(batch)) for batch in (packed, unpacked))
    assert one.weight == other.weight and one.loss == pytest.approx(float(other.loss), rel=2e-5)


def test_any_token_can_stand_for_a_masked_one(tokenizer):
    single = next(text for text in ("the", "of", "and") if len(tokenizer.encode([text])[0]) == 1)
    (ids,) = tokenizer.encode([single])
    objective = make(without(tokenizer, "mask_id"), mask_token=single)
    row = row_of(objective, *map(record_of, [np.arange(100, 120)]))
    assert (row["token_ids"] == ids[0]).sum() == 4


def test_what_cannot_be_is_refused(tokenizer):
    with pytest.raises(RecipeError, match="must be one"):
        make(tokenizer, mask_token="the congress of the people")
    with pytest.raises(RecipeError, match="no mask token"):
        make(without(tokenizer, "mask_id"))
    with pytest.raises(RecipeError, match="no start token"):
        make(without(tokenizer, "start_id"))
    with pytest.raises(RecipeError, match="decoder, not encoder"):
        MaskedNextToken(MaskedNextTokenConfig(), setting_of(tokenizer, LENGTH))


def test_evaluation_has_its_own_rate(tokenizer):
    objective = make(tokenizer, mask_rate=0.5, evaluation_mask_rate=0.2).for_evaluation()
    assert row_of(objective, *map(record_of, texts(tokenizer, 30)))["label_weights"].sum() == 6
