"""Baselines are what a guess without reading would get."""

from __future__ import annotations

import collections
import math

import pytest
from heldout import LABELS, make_rows, make_stream, make_tokenizer
from support.settings import setting_of

from jaxft.evaluation.baselines import majority_share, unigram_loss
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_majority_share_is_the_share_of_the_most_frequent_label(tmp_path, batch_size):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    objective = SequenceClassification(SequenceClassificationConfig(labels=LABELS), setting_of(tokenizer, 16, "task"))
    rows = make_rows(23)
    heldout = make_stream(objective, tokenizer, rows, tmp_path / "store", batch_size)
    counts = collections.Counter(row.values["label"] for row in rows)
    assert majority_share(heldout) == pytest.approx(max(counts.values()) / 23)


def predicted_tokens(stream) -> list[int]:
    """The tokens that masked language modelling asks for, row by row."""
    batches = [stream.batch(number) for number in range(stream.rows)]
    return [int(t) for batch in batches for t in batch["labels"][batch["label_weights"] > 0]]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_unigram_loss_is_the_entropy_of_the_predicted_tokens_under_training_counts(tmp_path, batch_size):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    objective = MaskedLM(MaskedLMConfig(), setting_of(tokenizer, 16))
    rows = make_rows(40, seed=1)
    training = make_stream(objective, tokenizer, rows, tmp_path / "training", 1)
    heldout = make_stream(objective, tokenizer, make_rows(15, seed=2), tmp_path / "heldout", batch_size)
    assert batch_size == 1 or heldout.rows % batch_size, "no batch would be padded"
    # One for each token, so that none that training lacks is impossible.
    counts = collections.Counter(range(tokenizer.vocab_size))
    for row in rows:
        counts.update(tokenizer.encode([row.values["text"]])[0].tolist())
    total = sum(counts.values())
    losses = [
        -math.log(counts[token] / total)
        for token in predicted_tokens(make_stream(objective, tokenizer, make_rows(15, seed=2), tmp_path / "heldout", 1))
    ]
    assert unigram_loss(training, heldout, tokenizer.vocab_size) == pytest.approx(sum(losses) / len(losses), rel=1e-6)
