"""Mixup: vectors and labels mixed by the same shares, from the step's key alone, and never in evaluation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handmade import Given, model_for, record_of, row_of, stacked, texts
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.errors import InvalidField
from jaxft.kernels.cross_entropy import cross_entropy
from jaxft.models.model import ModelOutput
from jaxft.models.transformer import Sequences
from jaxft.objectives.mixup import draw_mixing
from jaxft.objectives.multi_label_classification import MultiLabelClassification, MultiLabelClassificationConfig
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig
from jaxft.training.step import bind

LENGTH, LABELS = 16, ("bad", "fair", "good")
KEY = jax.random.key(7)


def make(tokenizer, **options) -> SequenceClassification:
    config = SequenceClassificationConfig(labels=LABELS, dropout=0.0, **options)
    return SequenceClassification(config, setting_of(tokenizer, LENGTH, "task"))


@pytest.fixture(scope="module")
def batch(tokenizer):
    """Six texts with labels."""
    plain = make(tokenizer)
    records = [record_of(text, label=i % 3) for i, text in enumerate(texts(tokenizer, 5, 9, 3, 7, 12, 4))]
    return jax.tree.map(jnp.asarray, stacked([row_of(plain, record) for record in records]))


@pytest.fixture(scope="module")
def model(tokenizer):
    """A model without dropout, and its parameters."""
    made = model_for(make(tokenizer), dropout=0.0)
    return made, draw_parameters(made)


def given(key=KEY):
    """A model whose logits are other numbers for every text."""

    def output(sequences: Sequences, head: str) -> ModelOutput:
        logits = jnp.sin(sequences.token_ids.astype(jnp.float32) @ jnp.arange(3.0 * LENGTH).reshape(LENGTH, 3))
        return ModelOutput(logits, logits)

    return Given(output, key)


def test_vectors_are_mixed_where_the_last_projection_reads_them(tokenizer, batch, model):
    made, parameters = model
    hidden = bind(made, parameters)(Sequences(batch["token_ids"], batch["segment_ids"])).hidden
    head = parameters["head_task"]
    vectors = jnp.tanh(hidden[:, 0] @ head["pooler"]["kernel"] + head["pooler"]["bias"])
    mixing = draw_mixing(KEY, 0.4, 6)
    logits = mixing(vectors) @ head["classifier"]["kernel"] + head["classifier"]["bias"]
    expected = mixing(cross_entropy(logits, batch["label"]), cross_entropy(logits, batch["label"][mixing.partner]))
    found = make(tokenizer, mixup=0.4).loss(bind(made, parameters, KEY), batch)
    assert found.loss == pytest.approx(float(expected.sum()), rel=1e-5)
    plain = make(tokenizer).loss(bind(made, parameters, KEY), batch)
    assert abs(found.loss - plain.loss) > 1e-3
    assert (found.weight, found.ratios["accuracy"].sum) == (plain.weight, plain.ratios["accuracy"].sum)


def test_labels_are_mixed_by_the_shares_of_the_vectors(tokenizer, batch):
    """The cross entropy with a soft label, which holds both labels by their shares."""
    mixing = draw_mixing(KEY, 1.0, 6)
    one_hot = jax.nn.one_hot(batch["label"], 3)
    logits = given()(Sequences(batch["token_ids"]), head="task").logits
    expected = -(mixing(one_hot) * jax.nn.log_softmax(mixing(logits))).sum()
    assert make(tokenizer, mixup=1.0).loss(given(), batch).loss == pytest.approx(float(expected), rel=1e-5)


def test_labels_that_hold_together_are_mixed_alike(tokenizer, batch):
    setting = setting_of(tokenizer, LENGTH, "task")
    mixed, plain = (
        MultiLabelClassification(MultiLabelClassificationConfig(labels=LABELS, dropout=0.0, mixup=alpha), setting)
        for alpha in (0.4, 0.0)
    )
    holds = {**batch, "label": (jnp.arange(18).reshape(6, 3) % 4 < 2).astype(jnp.float32)}
    mixing = draw_mixing(KEY, 0.4, 6)
    logits, targets = mixing(given()(Sequences(batch["token_ids"]), head="task").logits), mixing(holds["label"])
    expected = -(targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits)).mean(1).sum()
    assert mixed.loss(given(), holds).loss == pytest.approx(float(expected), rel=1e-5)
    untouched = plain.loss(given(), holds).loss
    assert mixed.loss(given(None), holds).loss == mixed.for_evaluation().loss(given(), holds).loss == untouched


def test_weights_of_labels_are_mixed_too(tokenizer, batch):
    weights = {"bad": 1.0, "fair": 5.0, "good": 2.0}
    mixing = draw_mixing(KEY, 1.0, 6)
    by_label = jnp.array(list(weights.values()))[batch["label"]]
    found = make(tokenizer, mixup=1.0, class_weights=weights).loss(given(), batch)
    assert found.weight == pytest.approx(float(mixing(by_label).sum()), rel=1e-6)


def test_alpha_that_goes_to_zero_is_plain_training(tokenizer, batch):
    plain = make(tokenizer).loss(given(), batch).loss
    assert make(tokenizer, mixup=0.0).loss(given(), batch).loss == plain
    distances = [abs(make(tokenizer, mixup=alpha).loss(given(), batch).loss - plain) for alpha in (1.0, 1e-4)]
    assert distances[0] > 0.01 > 1e-5 > distances[1]


def test_shares_are_those_of_the_distribution():
    mixing = draw_mixing(KEY, 0.5, 20_000)
    assert mixing.share.min() >= 0.5 and mixing.share.max() <= 1
    assert sorted(mixing.partner.tolist()) == list(range(20_000))
    # Of Beta(1/2, 1/2), a third of the larger shares lies below 3/4.
    assert (mixing.share < 0.75).mean() == pytest.approx(1 / 3, abs=0.015)


def test_the_key_alone_decides(tokenizer, batch):
    objective = make(tokenizer, mixup=0.4)
    one, again, other = (objective.loss(given(key), batch).loss for key in (KEY, KEY, jax.random.key(8)))
    assert one == again != other


def test_evaluation_is_untouched(tokenizer, batch):
    objective, plain = make(tokenizer, mixup=0.4), make(tokenizer)
    expected = plain.loss(given(None), batch).loss
    assert objective.for_evaluation().loss(given(), batch).loss == expected
    assert objective.loss(given(None), batch).loss == expected
    np.testing.assert_array_equal(
        objective.for_evaluation().outputs(given(), batch)["logits"], plain.outputs(given(None), batch)["logits"]
    )


def test_an_impossible_alpha_is_refused():
    with pytest.raises(InvalidField, match="mixup"):
        SequenceClassificationConfig(mixup=-0.1)
