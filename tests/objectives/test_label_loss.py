"""The losses of classifiers: torch's where it has them, the papers' own formulas where not."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from handmade import Given
from support.settings import setting_of

from jaxft.data.sources import Row
from jaxft.data.store import TOKENS
from jaxft.errors import DataError, InvalidField
from jaxft.kernels.cross_entropy import binary_cross_entropy, cross_entropy, symmetric_divergence
from jaxft.models.model import ModelOutput
from jaxft.objectives.label_loss import balanced_weights
from jaxft.objectives.multi_label_classification import MultiLabelClassification, MultiLabelClassificationConfig
from jaxft.objectives.regression import Regression, RegressionConfig
from jaxft.objectives.sequence_classification import SequenceClassification, SequenceClassificationConfig

LABELS, ROWS = ("a", "b", "c"), 6
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(ROWS, 3)).astype(np.float32) * 2
LABEL = np.array([0, 1, 2, 2, 1, 2], np.int32)
HOLDS = RNG.integers(2, size=(ROWS, 3)).astype(np.float32)
WEIGHTS = {"a": 3.0, "b": 0.5, "c": 2.0}


def batch_of(**own) -> dict[str, jax.Array]:
    """Rows whose tokens are their numbers, so that a given model can look up what it says of each."""
    ids = jnp.tile(jnp.arange(ROWS, dtype=jnp.int32)[:, None], (1, 4))
    rest = {"segment_ids": jnp.ones_like(ids), "token_types": jnp.zeros_like(ids), "row_weight": jnp.ones(ROWS)}
    return {"token_ids": ids, **rest, **{name: jnp.asarray(value) for name, value in own.items()}}


def given(*views: np.ndarray) -> Given:
    """A model that gives the rows of these logits, of each view in turn."""
    logits = jnp.stack([jnp.asarray(view) for view in views], axis=1)

    def output(sequences, head):
        seen = jnp.arange(len(sequences.token_ids)) % len(views)
        return ModelOutput(None, logits[sequences.token_ids[:, 0], seen])

    return Given(output)


def single(**options) -> SequenceClassification:
    return SequenceClassification(SequenceClassificationConfig(labels=LABELS, **options), setting_of(None, 8))


def multiple(**options) -> MultiLabelClassification:
    return MultiLabelClassification(MultiLabelClassificationConfig(labels=LABELS, **options), setting_of(None, 8))


def mean(sums) -> float:
    return float(sums.loss / sums.weight)


def test_class_weights_are_torchs():
    found = single(class_weights=WEIGHTS).loss(given(LOGITS), batch_of(label=LABEL))
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor(list(WEIGHTS.values())))
    assert mean(found) == pytest.approx(loss(torch.tensor(LOGITS), torch.tensor(LABEL).long()).item(), rel=1e-6)
    # How many are right is counted without them.
    assert found.ratios["accuracy"].sum == (LOGITS.argmax(-1) == LABEL).sum() and found.ratios["accuracy"].weight == 6


def test_balanced_weights_let_all_labels_count_alike():
    targets = ["a"] * 8 + ["b"] * 2 + ["c"] * 5
    weights = balanced_weights(LABELS, targets)
    assert [weights[label] * targets.count(label) for label in LABELS] == pytest.approx([5, 5, 5])
    config = SequenceClassificationConfig(class_weights="balanced")
    assert not config.is_complete
    completed = config.completed(iter(targets), "streams.task")
    assert completed.class_weights == weights and completed.labels == LABELS and completed.is_complete


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_is_the_papers_and_has_finite_slopes(gamma):
    p = torch.softmax(torch.tensor(LOGITS), -1)[torch.arange(ROWS), torch.tensor(LABEL).long()]
    expected = (-((1 - p) ** gamma) * p.log()).numpy()
    found = cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABEL), focal_gamma=gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    sure = jax.grad(lambda x: cross_entropy(x, jnp.array(0), focal_gamma=gamma))(jnp.array([60.0, 0.0]))
    assert np.isfinite(sure).all()


def test_losses_of_many_labels_are_torchs():
    weights = torch.tensor(list(WEIGHTS.values()))
    for options, loss in (
        ({}, torch.nn.BCEWithLogitsLoss()),
        ({"positive_weights": WEIGHTS}, torch.nn.BCEWithLogitsLoss(pos_weight=weights)),
    ):
        found = multiple(**options).loss(given(LOGITS), batch_of(label=HOLDS))
        assert mean(found) == pytest.approx(loss(torch.tensor(LOGITS), torch.tensor(HOLDS)).item(), rel=1e-6)
    huge = binary_cross_entropy(jnp.array([300.0, -300.0]), jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(huge, [300, 300])


def test_balanced_positive_weights_are_the_odds_against_a_label():
    targets = [("a", "b"), ("a",), ("a",), ("b", "c")]
    completed = MultiLabelClassificationConfig(positive_weights="balanced").completed(targets, "streams.task")
    assert completed.positive_weights == pytest.approx({"a": 1 / 3, "b": 1.0, "c": 3.0})


def test_the_threshold_decides_which_labels_hold():
    found = {}
    for threshold in (0.3, 0.5, 0.9):
        said = multiple(threshold=threshold).predictions([], {"logits": LOGITS})
        probabilities = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
        for one, row in zip(said, probabilities, strict=True):
            assert one["labels"] == [label for label, p in zip(LABELS, row, strict=True) if p >= threshold]
        found[threshold] = sum(len(one["labels"]) for one in said)
    assert found[0.3] > found[0.5] > found[0.9]


# --- R-Drop ---


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1)


@pytest.mark.parametrize("alpha", [0.5, 4.0])
def test_r_drop_is_the_mean_loss_of_both_views_and_their_divergence(alpha):
    other = LOGITS + RNG.normal(size=LOGITS.shape).astype(np.float32)
    views = [torch.tensor(view) for view in (LOGITS, other)]
    p, q = (torch.softmax(view, -1) for view in views)
    losses = [torch.nn.functional.cross_entropy(view, torch.tensor(LABEL).long()) for view in views]
    expected = sum(losses) / 2 + alpha * (kl(p, q) + kl(q, p)).mean() / 2
    found = single(r_drop=alpha).loss(given(LOGITS, other), batch_of(label=LABEL))
    assert mean(found) == pytest.approx(expected.item(), rel=1e-5)
    # A model whose views agree loses nothing by it.
    alike = single(r_drop=alpha).loss(given(LOGITS, LOGITS), batch_of(label=LABEL))
    assert mean(alike) == pytest.approx(losses[0].item(), rel=1e-6)


def test_r_drop_of_many_labels_compares_each_of_them():
    other = LOGITS + RNG.normal(size=LOGITS.shape).astype(np.float32)
    p, q = (
        torch.stack([torch.tensor(view).sigmoid(), 1 - torch.tensor(view).sigmoid()], -1) for view in (LOGITS, other)
    )
    plain = [
        torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(v), torch.tensor(HOLDS))
        for v in (LOGITS, other)
    ]
    expected = sum(plain) / 2 + 0.7 * (kl(p, q) + kl(q, p)).mean() / 2
    found = multiple(r_drop=0.7).loss(given(LOGITS, other), batch_of(label=HOLDS))
    assert mean(found) == pytest.approx(expected.item(), rel=1e-5)


def test_the_divergence_of_what_is_never_likely_stays_finite():
    log_p, log_q = (jax.nn.log_softmax(jnp.array(x)) for x in ([90.0, 0.0], [0.0, 90.0]))
    assert np.isfinite(symmetric_divergence(log_p, log_q))


def test_evaluation_measures_the_plain_loss():
    plain = single().loss(given(LOGITS), batch_of(label=LABEL))
    trained = single(class_weights=WEIGHTS, focal_gamma=2.0, r_drop=1.0, label_smoothing=0.1)
    assert mean(trained.for_evaluation().loss(given(LOGITS), batch_of(label=LABEL))) == mean(plain)
    many = multiple(positive_weights=WEIGHTS, r_drop=1.0).for_evaluation().loss(given(LOGITS), batch_of(label=HOLDS))
    assert mean(many) == mean(multiple().loss(given(LOGITS), batch_of(label=HOLDS)))


# --- Regression ---


def regression(**options) -> Regression:
    return Regression(RegressionConfig(target=("x", "y", "z"), **options), setting_of(None, 8))


def test_the_loss_of_a_regression_is_torchs_mean_squared_error():
    target = RNG.normal(size=(ROWS, 3)).astype(np.float32)
    found = regression().loss(given(LOGITS), batch_of(target=target))
    expected = torch.nn.functional.mse_loss(torch.tensor(LOGITS), torch.tensor(target)).item()
    assert mean(found) == pytest.approx(expected, rel=1e-6)


def test_standardized_targets_have_mean_zero_and_deviation_one():
    rows = [Row({"x": float(i), "y": 100.0 - 7 * i, "z": str(i * i)}, f"a:{i}") for i in range(5)]
    config = RegressionConfig(target=("x", "y", "z"), standardize=True)
    completed = config.completed(map(config.target_of, rows), "streams.task")
    targets = np.array([config.target_of(row) for row in rows], np.float32)
    scaled = (targets - completed.mean) / completed.deviation
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-6)
    objective = Regression(completed, setting_of(None, 8))
    # A model that gives the standardized targets is right.
    apply, batch = (
        given(np.vstack([scaled, scaled[:1]]).astype(np.float32)),
        batch_of(target=targets[[0, 1, 2, 3, 4, 0]]),
    )
    assert mean(objective.loss(apply, batch)) == pytest.approx(0, abs=1e-10)
    np.testing.assert_allclose(objective.outputs(apply, batch)["predicted"][:5], targets, atol=1e-4)


def test_targets_that_are_all_the_same_cannot_be_standardized():
    with pytest.raises(DataError, match=r"streams\.task: column 'score' holds one number alone"):
        RegressionConfig(standardize=True).completed([(1.0,), (1.0,)], "streams.task")


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (SequenceClassificationConfig, {"class_weights": {"a": 0.0}}),
        (SequenceClassificationConfig, {"labels": LABELS, "class_weights": {"a": 1.0, "b": 1.0, "d": 1.0}}),
        (SequenceClassificationConfig, {"focal_gamma": -1.0}),
        (SequenceClassificationConfig, {"r_drop": -1.0}),
        (MultiLabelClassificationConfig, {"threshold": 1.0}),
        (MultiLabelClassificationConfig, {"labels": LABELS, "positive_weights": {"a": 1.0}}),
        (RegressionConfig, {"target": ()}),
        (RegressionConfig, {"mean": (1.0,)}),
        (RegressionConfig, {"standardize": True, "mean": (1.0,), "deviation": (0.0,)}),
        (RegressionConfig, {"standardize": True, "mean": (1.0, 2.0), "deviation": (1.0, 2.0)}),
    ],
)
def test_impossible_values_are_refused(config, options):
    with pytest.raises(InvalidField):
        config(**options)


def test_records_hold_the_numbers_of_all_labels():
    record = {TOKENS: np.array([1]), "label_numbers": np.array([2, 0])}
    objective = MultiLabelClassification(MultiLabelClassificationConfig(labels=LABELS), setting_of(None, 8))
    assert objective.make_row([record], [None])["label"].tolist() == [1, 0, 1]
    row = Row({"text": "x", "labels": ["c", "a"]}, "a:1")
    assert objective.fields(row).values["label_numbers"].tolist() == [2, 0]
    assert objective.fields(Row({"text": "x", "labels": []}, "a:1")).values["label_numbers"].tolist() == []
