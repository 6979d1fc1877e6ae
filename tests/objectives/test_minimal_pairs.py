"""Likelihoods of whole sentences: sums of log-probabilities, in an encoder of each token where it alone is masked."""

from __future__ import annotations

import csv
import json

import jax
import numpy as np
import pytest
from handmade import model_for, read, record_of, row_of, stacked, texts, without
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.errors import RecipeError
from jaxft.models.transformer import Sequences
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.minimal_pairs import MinimalPairs, MinimalPairsConfig
from jaxft.training.step import bind

LENGTH = 40


def make(tokenizer, family: str, **options) -> MinimalPairs:
    return MinimalPairs(MinimalPairsConfig(**options), setting_of(tokenizer, LENGTH, family=family))


@pytest.fixture(scope="module")
def pairs(shared_data) -> list[dict[str, str]]:
    """Sentences with right and wrong numbers, and two that are the same."""
    with (shared_data / "probes" / "blimp_anaphor_number_agreement.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(next(lines)) for _ in range(9)]
    return [*rows, {"sentence_good": "They were there.", "sentence_bad": "They were there."}]


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def scored(request, tokenizer, pairs):
    """Family, batch, its loss, and a function from rows of tokens to log-probabilities of every place."""
    family = request.param
    objective = make(tokenizer, family)
    model = model_for(objective, layers=1, family=family, max_length=LENGTH)
    parameters = draw_parameters(model)
    keys = ("sentence_good", "sentence_bad")
    rows = [row_of(objective, read(objective, **{key: pair[key] for key in keys})) for pair in pairs]
    batch = stacked(rows, [1, 0, *[1] * (len(rows) - 2)])
    part = jax.device_get(jax.jit(lambda batch: objective.loss(bind(model, parameters), batch))(batch))
    run = jax.jit(
        lambda ids, segments: bind(model, parameters)(Sequences(ids, segments), head=objective.head_name).logits
    )

    def log_probabilities(ids, segments):
        logits = np.asarray(run(ids, segments), np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    return family, batch, part, log_probabilities


def brute_force(family, tokenizer, ids, segments, log_probabilities) -> float:
    """The score of a sentence; an encoder's from a row for each of its tokens, in which it alone is masked."""
    size = int((segments > 0).sum())
    if family == "decoder":
        found = log_probabilities(ids[None], segments[None])[0]
        return sum(found[place - 1, ids[place]] for place in range(1, size))
    masked = np.repeat(ids[None], LENGTH, axis=0)
    masked[np.arange(LENGTH), np.arange(LENGTH)] = tokenizer.mask_id
    found = log_probabilities(masked, np.repeat(segments[None], LENGTH, axis=0))
    return sum(
        found[place, place, ids[place]] for place in range(1, size - 1) if ids[place] not in tokenizer.special_ids
    )


def test_scores_are_sums_over_the_tokens_of_a_sentence(scored, tokenizer):
    family, batch, part, log_probabilities = scored
    ids, segments = (batch[name][batch["row_weight"] > 0].reshape(-1, LENGTH) for name in ("token_ids", "segment_ids"))
    found = [brute_force(family, tokenizer, *row, log_probabilities) for row in zip(ids, segments, strict=True)]
    scores = np.array(found).reshape(-1, 2)
    assert len(scores) == part.weight == 9
    assert part.loss == pytest.approx(-scores[:, 0].sum(), rel=1e-5)
    # Sentences that are the same are no right answer.
    assert scores[-1, 0] == scores[-1, 1]
    assert part.ratios["accuracy"].sum == (scores[:-1, 0] > scores[:-1, 1]).sum()
    assert 0 < part.ratios["accuracy"].sum < 9 and part.ratios["accuracy"].weight == 9


def test_packed_texts_are_scored_token_by_token(tokenizer):
    """The pseudo log-likelihood that masked language modelling reports; it is of the text before masking."""
    objective = MaskedLM(MaskedLMConfig(mask_rate=0.3), setting_of(tokenizer, LENGTH))
    model = model_for(objective, layers=1, max_length=LENGTH)
    parameters = draw_parameters(model)
    parts = texts(tokenizer, 8, 6)
    batch = stacked([row_of(objective, *map(record_of, parts)), row_of(objective, record_of(parts[0]))])
    outputs = jax.device_get(jax.jit(lambda batch: objective.outputs(bind(model, parameters), batch))(batch))
    run = jax.jit(
        lambda ids, segments, positions: (
            bind(model, parameters)(Sequences(ids, segments, positions), head="masked_lm").logits
        )
    )
    start, end, pad = tokenizer.start_id, tokenizer.separator_id, tokenizer.pad_id
    scores = []
    for part in parts:  # each by itself
        row = [start, *part.tolist(), end]
        ids = np.repeat(np.array([row + [pad] * (LENGTH - len(row))], np.int32), LENGTH, axis=0)
        segments = np.repeat(np.array([[1] * len(row) + [0] * (LENGTH - len(row))], np.int32), LENGTH, axis=0)
        ids[np.arange(LENGTH), np.arange(LENGTH)] = tokenizer.mask_id
        logits = np.asarray(
            run(ids, segments, np.broadcast_to(np.arange(LENGTH, dtype=np.int32), ids.shape)), np.float64
        )
        normal = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        scores.append(sum(normal[place, place, token] for place, token in enumerate(part.tolist(), 1)))
    np.testing.assert_allclose(outputs["pseudo_log_likelihood"], [sum(scores), scores[0]], rtol=1e-5)
    assert outputs["scored_tokens"].tolist() == [14, 8]


def test_sentences_are_cut_to_the_row(tokenizer):
    objective = make(tokenizer, "encoder", length=10, good="a", bad="b")
    row = row_of(objective, record_of(range(50, 58), bad=np.arange(60, 90, dtype=np.int32)))
    start, end = tokenizer.start_id, tokenizer.separator_id
    assert row["token_ids"].tolist() == [[start, *range(50, 58), end], [start, *range(60, 68), end]]
    assert (row["segment_ids"] == 1).all()


def test_pairs_of_any_columns_are_read(shared_data, tokenizer):
    with (shared_data / "probes" / "crows_pairs.csv").open(encoding="utf-8", newline="") as lines:
        row = next(csv.DictReader(lines))
    objective = make(tokenizer, "encoder", good="sent_less", bad="sent_more")
    record = read(objective, **{key: row[key] for key in ("sent_less", "sent_more")})
    assert record["tokens"].tolist() == tokenizer.encode([row["sent_less"]])[0].tolist()
    assert record["bad"].tolist() == tokenizer.encode([row["sent_more"]])[0].tolist()
    assert not objective.trains


def test_an_encoder_without_a_mask_token_is_refused_and_a_decoder_needs_none(tokenizer):
    with pytest.raises(RecipeError, match="no mask token"):
        make(without(tokenizer, "mask_id"), "encoder")
    make(without(tokenizer, "mask_id"), "decoder")
