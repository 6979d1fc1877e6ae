"""An evaluation counts every example once, whatever the batches are."""

from __future__ import annotations

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from heldout import LABELS, make_rows, make_stream, make_tokenizer
from sklearn import metrics as sklearn
from support.settings import setting_of

from jaxft.evaluation.evaluator import Evaluator
from jaxft.huggingface.expressing import natural_head
from jaxft.models.config import ModelConfig
from jaxft.models.model import Model, abstract_parameters
from jaxft.objectives.causal_lm import CausalLM, CausalLMConfig
from jaxft.objectives.contrastive import Contrastive, ContrastiveConfig
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.objectives.next_sentence import NextSentence, NextSentenceConfig
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.training.step import bind

LENGTH, EXAMPLES = 16, 26


class HeldOut:
    """A model with both heads and held-out texts for both objectives."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.tokenizer = make_tokenizer(directory / "tokenizer")
        task = SequenceClassificationConfig(labels=LABELS, length=LENGTH, label_smoothing=0.1)
        self.objectives = {
            "task": SequenceClassification(task, setting_of(self.tokenizer, LENGTH, "task")).for_evaluation(),
            "masked_lm": MaskedLM(MaskedLMConfig(length=LENGTH), setting_of(self.tokenizer, LENGTH)).for_evaluation(),
            "causal_lm": CausalLM(CausalLMConfig(length=LENGTH), setting_of(self.tokenizer, LENGTH)).for_evaluation(),
            "contrastive": Contrastive(
                ContrastiveConfig(length=LENGTH), setting_of(self.tokenizer, LENGTH)
            ).for_evaluation(),
            "next_sentence": NextSentence(
                NextSentenceConfig(length=LENGTH, evaluation_mask_rate=0.5),
                setting_of(self.tokenizer, LENGTH, token_types=2),
            ).for_evaluation(),
        }
        config = ModelConfig(
            vocab_size=self.tokenizer.vocab_size,
            embed_dim=16,
            num_layers=1,
            num_heads=2,
            mlp_dim=24,
            dropout=0.5,
            token_types=2,
        )
        heads = {name: head for objective in self.objectives.values() for name, head in objective.heads.items()}
        self.model = Model(
            config, tuple((name, natural_head(name, head, config, None)) for name, head in heads.items())
        )
        draw = np.random.default_rng(0).normal
        self.parameters = jax.tree.map(
            lambda x: jnp.asarray(draw(0, 0.5, x.shape), jnp.float32), abstract_parameters(self.model)[0]
        )
        self.rows = make_rows(EXAMPLES)

    def stream(self, name: str, batch_size: int):
        return make_stream(self.objectives[name], self.tokenizer, self.rows, self.directory / name, batch_size)

    def evaluate(self, name: str, batch_size: int | None = None) -> dict:
        stream = self.stream(name, batch_size or self.stream(name, 1).rows)
        objective = self.objectives[name]
        return Evaluator(name, self.model, objective, stream, objective.metrics, make_mesh(MeshConfig()))(
            self.parameters
        )

    def one_by_one(self, name: str):
        """Logits and labels of every row by itself, without the evaluator."""
        objective, stream = self.objectives[name], self.stream(name, 1)
        run = jax.jit(lambda batch: objective.loss(bind(self.model, self.parameters), objective.balance(batch)))
        return [run(stream.batch(number)) for number in range(stream.rows)]


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> HeldOut:
    return HeldOut(tmp_path_factory.mktemp("heldout"))


def flat(metrics: dict) -> dict:
    return {name: np.asarray(value) for name, value in metrics.items()}


@pytest.mark.parametrize("name", ["task", "masked_lm"])
@pytest.mark.parametrize(
    "batch_size", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(7, marks=pytest.mark.slow)]
)
def test_batches_of_any_size_give_the_same_metrics(setting, name, batch_size):
    whole, parts = setting.evaluate(name), setting.evaluate(name, batch_size)
    assert setting.stream(name, 1).rows % 3 and setting.stream(name, 1).rows % 7, "no batch would be padded"
    assert set(whole) == set(setting.objectives[name].metrics)
    for metric, value in flat(whole).items():
        np.testing.assert_allclose(parts[metric], value, rtol=1e-5, err_msg=metric)


@pytest.mark.parametrize("name", ["task", "masked_lm"])
def test_the_loss_is_that_of_all_weights_together(setting, name):
    """A sum over rows of unequal weight, divided once."""
    parts = setting.one_by_one(name)
    weights = [float(part.weight) for part in parts]
    if name == "masked_lm":
        assert len(set(weights)) > 1
    metrics = setting.evaluate(name, 4)
    assert metrics["loss"] == pytest.approx(sum(float(part.loss) for part in parts) / sum(weights), rel=1e-5)
    hits = sum(float(part.ratios["accuracy"].sum) for part in parts)
    assert metrics["accuracy"] == pytest.approx(hits / sum(weights), rel=1e-5)


def test_bits_are_those_of_all_bytes_together(setting):
    metrics = setting.evaluate("causal_lm", 3)
    parts = setting.one_by_one("causal_lm")
    total = sum(float(part.loss) for part in parts)
    written = sum(len(row.values["text"].encode()) for row in setting.rows)
    assert metrics["bits_per_byte"] == pytest.approx(total / math.log(2) / written, rel=1e-5)
    assert metrics["loss"] == pytest.approx(total / sum(float(part.weight) for part in parts), rel=1e-5)


def test_a_loss_of_two_means_is_that_of_all_rows_whatever_the_batches(setting):
    """Its weights depend on the batch: the sum over batches of their losses would be another."""
    masked = [float(part.weight) for part in setting.one_by_one("next_sentence")]
    assert len(set(masked)) > 2  # else a mean of means would be as good
    whole, parts = setting.evaluate("next_sentence"), setting.evaluate("next_sentence", 4)
    assert set(whole) == {"loss", "masked_lm_loss", "accuracy", "pair_loss", "pair_accuracy"}
    for metric, value in whole.items():
        assert parts[metric] == pytest.approx(value, rel=1e-5), metric
    assert whole["loss"] == pytest.approx(whole["masked_lm_loss"] + whole["pair_loss"], rel=1e-6)


def test_perplexity_is_the_exponential_of_the_loss(setting):
    metrics = setting.evaluate("masked_lm", 3)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))


def test_a_confusion_matrix_holds_every_example_once(setting):
    metrics = setting.evaluate("task", 5)
    confusion = np.asarray(metrics["confusion_matrix"])
    names = [row.values["label"] for row in setting.rows]
    np.testing.assert_array_equal(confusion.sum(1), [names.count(label) for label in LABELS])
    assert metrics["accuracy"] == pytest.approx(np.trace(confusion) / EXAMPLES)
    labels, predictions = (np.repeat(axis.ravel(), confusion.ravel()) for axis in np.indices(confusion.shape))
    assert metrics["macro_f1"] == pytest.approx(sklearn.f1_score(labels, predictions, average="macro", zero_division=0))


def test_an_evaluation_has_neither_dropout_nor_chance(setting):
    """The model's dropout of one half would show at once."""
    assert setting.model.config.dropout == 0.5
    assert setting.evaluate("masked_lm", 4) == setting.evaluate("masked_lm", 4)


def test_only_what_was_asked_for_is_told(setting):
    stream, objective = setting.stream("task", 4), setting.objectives["task"]
    for asked in (("accuracy",), ("loss", "macro_f1")):
        evaluator = Evaluator("task", setting.model, objective, stream, asked, make_mesh(MeshConfig()))
        metrics = evaluator(setting.parameters)
        assert tuple(metrics) == asked
        whole = setting.evaluate("task", 4)
        assert all(metrics[name] == pytest.approx(whole[name], rel=1e-6) for name in asked)


# --- Intervals ---


@pytest.mark.parametrize("name", ["task", "masked_lm", "next_sentence"])
def test_intervals_stand_about_the_very_values_that_are_reported(setting, name):
    """Row by row or batch by batch: the padding of the last batch counts nothing."""
    objective, stream = setting.objectives[name], setting.stream(name, 7)
    numbers = tuple(metric for metric in objective.metrics if metric != "confusion_matrix")
    evaluator = Evaluator(name, setting.model, objective, stream, numbers, make_mesh(MeshConfig()))
    values, found = evaluator(setting.parameters), evaluator.intervals(setting.parameters, 0.9, 200)
    assert set(found) == {metric for metric, value in values.items() if isinstance(value, float)}
    for metric, interval in found.items():
        assert interval.value == pytest.approx(values[metric], rel=1e-4), metric
        assert interval.low <= interval.high, metric
    assert found["loss"].low < found["loss"].value < found["loss"].high


def test_rows_that_pad_the_last_batch_are_drawn_by_none(setting):
    objective, whole = setting.objectives["masked_lm"], setting.stream("masked_lm", 1).rows
    assert whole % 7
    found = [
        Evaluator(
            "x", setting.model, objective, setting.stream("masked_lm", size), ("loss",), make_mesh(MeshConfig())
        ).intervals(setting.parameters, 0.9, 50)["loss"]
        for size in (7, whole)
    ]
    assert (found[0].low, found[0].high) == pytest.approx((found[1].low, found[1].high), rel=1e-5)


def test_the_interval_of_an_accuracy_is_as_wide_as_its_standard_error_says(setting):
    objective, stream = setting.objectives["task"], setting.stream("task", 4)
    evaluator = Evaluator("task", setting.model, objective, stream, ("accuracy",), make_mesh(MeshConfig()))
    found = evaluator.intervals(setting.parameters, 0.95, 2000)["accuracy"]
    error = math.sqrt(found.value * (1 - found.value) / EXAMPLES)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_a_metric_that_some_draws_do_not_have_gets_an_interval_of_the_others(setting):
    """Of 26 examples a draw may hold none of a label, and then has no area under a curve."""
    objective, stream = setting.objectives["task"], setting.stream("task", 4)
    evaluator = Evaluator("task", setting.model, objective, stream, ("roc_auc",), make_mesh(MeshConfig()))
    found = evaluator.intervals(setting.parameters, 0.95, 300)["roc_auc"]
    assert 0 <= found.low < found.value < found.high <= 1


def test_a_loss_of_whole_batches_has_no_interval_but_what_is_said_of_examples_has(setting):
    objective, stream = setting.objectives["contrastive"], setting.stream("contrastive", 13)
    assert objective.whole_batch
    asked = ("loss", "accuracy", "alignment", "uniformity", "mrr", "recall_at_1")
    evaluator = Evaluator("x", setting.model, objective, stream, asked, make_mesh(MeshConfig()))
    values, found = evaluator(setting.parameters), evaluator.intervals(setting.parameters, 0.9, 100)
    assert set(found) == {"alignment", "mrr", "recall_at_1"}
    for metric, interval in found.items():
        assert interval.value == pytest.approx(values[metric], rel=1e-5)
        assert interval.low <= interval.value <= interval.high
