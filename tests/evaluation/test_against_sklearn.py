"""Metrics of labels, scores and numbers against scikit-learn, on random data with ties and absent classes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from jaxft.errors import DataError
from jaxft.evaluation import multi_label, ranking, regression
from jaxft.evaluation.calibration import brier_score, expected_calibration_error, softmax
from jaxft.evaluation.classification import CLASSIFICATION_METRICS, confusion_matrix
from jaxft.evaluation.retrieval import SCORES, scores_of_queries
from jaxft.evaluation.similarity import pearson, spearman

SEEDS = range(8)


def labels_and_predictions(seed: int, classes: int = 4):
    """Of the last class no example, and the first is never predicted in some."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes - 1, 40)
    predictions = np.where(rng.random(40) < 0.5, labels, rng.integers(seed % 2, classes, 40))
    return labels, predictions


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("seed", SEEDS)
def test_metrics_of_one_label_of_several(seed):
    labels, predictions = labels_and_predictions(seed)
    confusion = confusion_matrix(labels, predictions, 4)
    found = {name: metric(confusion) for name, metric in CLASSIFICATION_METRICS.items()}
    weighted = {"average": "weighted", "zero_division": 0}
    expected = {
        "balanced_accuracy": sklearn.balanced_accuracy_score(labels, predictions),
        "weighted_precision": sklearn.precision_score(labels, predictions, **weighted),
        "weighted_recall": sklearn.recall_score(labels, predictions, **weighted),
        "weighted_f1": sklearn.f1_score(labels, predictions, **weighted),
        "matthews": sklearn.matthews_corrcoef(labels, predictions),
        "macro_f1": sklearn.f1_score(labels, predictions, average="macro", zero_division=0),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_correlation_with_what_never_changes_is_none():
    assert CLASSIFICATION_METRICS["matthews"](confusion_matrix(np.array([0, 1]), np.array([1, 1]), 2)) == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("steps", [3, 1000])
def test_areas_of_two_classes(seed, steps):
    """With few steps most scores are tied."""
    rng = np.random.default_rng(seed)
    holds, scores = rng.random(50) < 0.4, np.round(rng.random(50) * steps) / steps
    assert ranking.area_under_roc(holds, scores) == pytest.approx(sklearn.roc_auc_score(holds, scores))
    assert ranking.average_precision(holds, scores) == pytest.approx(sklearn.average_precision_score(holds, scores))
    both = np.stack([1 - scores, scores], 1)
    assert ranking.RANKING_METRICS["roc_auc"](holds.astype(int), both) == pytest.approx(
        sklearn.roc_auc_score(holds, scores)
    )
    assert ranking.RANKING_METRICS["average_precision"](holds.astype(int), both) == pytest.approx(
        sklearn.average_precision_score(holds, scores)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_areas_of_several_classes_and_of_any_number_of_labels(seed):
    rng = np.random.default_rng(seed)
    scores = softmax(np.round(rng.normal(size=(60, 3)), 1))
    labels = np.concatenate([np.arange(3), rng.integers(0, 3, 57)])
    auc, precision = ranking.RANKING_METRICS["roc_auc"], ranking.RANKING_METRICS["average_precision"]
    assert auc(labels, scores) == pytest.approx(sklearn.roc_auc_score(labels, scores, multi_class="ovr"))
    assert precision(labels, scores) == pytest.approx(sklearn.average_precision_score(labels, scores))
    holds = rng.random((60, 3)) < 0.4
    assert auc(holds.astype(np.float32), scores) == pytest.approx(sklearn.roc_auc_score(holds, scores))
    assert precision(holds, scores) == pytest.approx(sklearn.average_precision_score(holds, scores))


@pytest.mark.parametrize("name", ["roc_auc", "average_precision"])
def test_a_class_without_examples_is_an_error_that_says_so(name):
    metric = ranking.RANKING_METRICS[name]
    with pytest.raises(DataError, match="needs"):
        metric(np.zeros(4, int), np.full((4, 2), 0.5))
    with pytest.raises(DataError, match="needs"):
        metric(np.array([0, 1, 0, 1]), np.full((4, 3), 0.3))
    with pytest.raises(DataError, match="there must be as many"):
        metric(np.array([0, 1, 0]), np.full((4, 2), 0.5))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_brier_score(seed):
    rng = np.random.default_rng(seed)
    probabilities, labels = softmax(rng.normal(size=(30, 3))), rng.integers(0, 3, 30)
    certain = np.eye(3)[labels]
    expected = 3 * np.mean([sklearn.mean_squared_error(certain[:, i], probabilities[:, i]) for i in range(3)])
    assert brier_score(labels, probabilities) == pytest.approx(expected)
    pairs = probabilities[:, :2] / probabilities[:, :2].sum(1, keepdims=True)
    of_one = sklearn.brier_score_loss(labels > 0, pairs[:, 1])
    assert brier_score((labels > 0).astype(int), pairs) == pytest.approx(2 * of_one)


def test_calibration_errors_of_cases_by_hand():
    sure = np.array([[0.9, 0.1]] * 10)
    assert expected_calibration_error(np.array([0] * 9 + [1]), sure) == pytest.approx(0)
    assert expected_calibration_error(np.array([0] * 5 + [1] * 5), sure) == pytest.approx(0.4)
    # Two bins: sure and right a half of the time, unsure and always right.
    mixed = np.array([[0.95, 0.05]] * 4 + [[0.55, 0.45]] * 4)
    labels = np.array([0, 0, 1, 1, 0, 0, 0, 0])
    assert expected_calibration_error(labels, mixed) == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)
    # In one bin they would balance.
    assert expected_calibration_error(labels, mixed, bins=1) == pytest.approx(abs(6 / 8 - 0.75))
    # A confidence on an edge belongs to the bin below it.
    edge = np.array([[0.6, 0.4], [0.65, 0.35]])
    assert expected_calibration_error(np.array([0, 1]), edge, bins=5) == pytest.approx(0.5 * 0.4 + 0.5 * 0.65)


@pytest.mark.parametrize("seed", SEEDS)
def test_metrics_of_label_sets(seed):
    rng = np.random.default_rng(seed)
    holds, predicted = rng.random((30, 5)) < 0.3, rng.random((30, 5)) < 0.3
    holds[:, 0] = predicted[:, 0] = holds[0] = predicted[0] = False  # a label and an example without any
    found = {name: metric(holds, predicted) for name, metric in multi_label.MULTI_LABEL_METRICS.items()}
    expected = {
        **{
            f"{how}_f1": sklearn.f1_score(holds, predicted, average=how, zero_division=0)
            for how in ("micro", "macro", "samples")
        },
        "subset_accuracy": sklearn.accuracy_score(holds, predicted),
        "hamming_loss": sklearn.hamming_loss(holds, predicted),
    }
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_metrics_of_numbers(seed):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 5, 30).astype(float)
    predicted = np.round(targets + rng.normal(size=30))
    found = {name: metric(targets, predicted) for name, metric in regression.REGRESSION_METRICS.items()}
    assert found == pytest.approx(
        {
            "mse": sklearn.mean_squared_error(targets, predicted),
            "mae": sklearn.mean_absolute_error(targets, predicted),
            "r2": sklearn.r2_score(targets, predicted),
        }
    )
    assert pearson(targets, predicted) == pytest.approx(stats.pearsonr(targets, predicted)[0])
    assert spearman(targets, predicted) == pytest.approx(stats.spearmanr(targets, predicted)[0])


def test_constant_targets_have_no_variance_to_explain():
    assert regression.r2(np.ones(3), np.ones(3)) == 1 and regression.r2(np.ones(3), np.arange(3)) == 0
    with pytest.raises(DataError, match="there must be as many"):
        regression.r2(np.ones(3), np.ones(2))


@pytest.mark.parametrize("seed", SEEDS)
def test_retrieval_among_documents(seed):
    rng = np.random.default_rng(seed)
    queries, documents = rng.normal(size=(7, 4)), rng.normal(size=(25, 4))
    relevance = rng.integers(0, 4, (7, 25)) * (rng.random((7, 25)) < 0.2)
    relevance[np.arange(7), rng.integers(0, 25, 7)] = 2
    found = dict(zip(SCORES, scores_of_queries(queries, documents, relevance).T, strict=True))
    products, hits = queries @ documents.T, relevance > 0
    assert found["map"] == pytest.approx(
        [sklearn.average_precision_score(h, p) for h, p in zip(hits, products, strict=True)]
    )
    assert found["ndcg_at_10"] == pytest.approx(
        [sklearn.ndcg_score(r[None], p[None], k=10) for r, p in zip(relevance, products, strict=True)]
    )
    for query in range(7):
        ranked = hits[query][np.argsort(-products[query])]
        assert found["mrr"][query] == pytest.approx(1 / (1 + ranked.tolist().index(True)))
        for depth in (1, 5, 10):
            assert found[f"recall_at_{depth}"][query] == pytest.approx(ranked[:depth].sum() / ranked.sum())


def test_queries_that_cannot_be_scored_are_named():
    with pytest.raises(DataError, match="query 2 has no relevant document"):
        scores_of_queries(np.ones((2, 3)), np.ones((4, 3)), np.array([[1, 0, 0, 0], [0, 0, 0, 0]]))
    with pytest.raises(DataError, match="2 queries and 4 documents"):
        scores_of_queries(np.ones((2, 3)), np.ones((4, 3)), np.ones((2, 3)))
