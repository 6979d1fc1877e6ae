"""Metrics from a confusion matrix are scikit-learn's from the examples themselves."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn

from jaxft.evaluation.classification import (
    CLASSIFICATION_METRICS,
    confusion_matrix,
    f1_of_labels,
    precision_of_labels,
    recall_of_labels,
)

# Labels that occur and labels that are predicted, out of five.
CASES = {
    "all labels": (range(5), range(5)),
    "one never occurs": ([0, 1, 2, 4], range(5)),
    "one is never predicted": (range(5), [0, 1, 3, 4]),
    "two are nowhere": ([0, 1, 2], [0, 1, 2]),
    "nothing in common": ([0, 1], [2, 3]),
    "always the same": (range(5), [2]),
    "a single label": ([3], [3]),
}


def examples(name: str, count: int = 200):
    generator = np.random.default_rng(len(name))
    occurring, predicted = (list(x) for x in CASES[name])
    labels = generator.choice(occurring, count)
    lucky = generator.random(count) < 0.5
    guesses = generator.choice(predicted, count)
    return labels, np.where(lucky & np.isin(labels, predicted), labels, guesses)


@pytest.mark.parametrize("name", CASES)
def test_the_confusion_matrix_is_scikit_learns(name):
    labels, predictions = examples(name)
    ours = confusion_matrix(labels, predictions, 5)
    np.testing.assert_array_equal(ours, sklearn.confusion_matrix(labels, predictions, labels=range(5)))
    assert CLASSIFICATION_METRICS["confusion_matrix"](ours) == ours.tolist()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("metric", "of_labels", "theirs"),
    [
        ("precision", precision_of_labels, sklearn.precision_score),
        ("recall", recall_of_labels, sklearn.recall_score),
        ("f1", f1_of_labels, sklearn.f1_score),
        ("macro_f1", f1_of_labels, sklearn.f1_score),
    ],
)
def test_macro_averages_are_scikit_learns(name, metric, of_labels, theirs):
    labels, predictions = examples(name)
    confusion = confusion_matrix(labels, predictions, 5)
    wanted = theirs(labels, predictions, average="macro", zero_division=0)
    assert CLASSIFICATION_METRICS[metric](confusion) == pytest.approx(wanted)
    each = theirs(labels, predictions, labels=range(5), average=None, zero_division=0)
    np.testing.assert_allclose(of_labels(confusion), each)


@pytest.mark.parametrize("name", CASES)
def test_micro_averages_are_scikit_learns(name):
    labels, predictions = examples(name)
    confusion = confusion_matrix(labels, predictions, 5)
    assert CLASSIFICATION_METRICS["accuracy"](confusion) == pytest.approx(sklearn.accuracy_score(labels, predictions))
    micro = sklearn.f1_score(labels, predictions, average="micro", zero_division=0)
    assert CLASSIFICATION_METRICS["micro_f1"](confusion) == pytest.approx(micro)


def test_no_examples_give_zeros_and_no_warnings(recwarn):
    nothing = confusion_matrix(np.array([], int), np.array([], int), 3)
    for name, metric in CLASSIFICATION_METRICS.items():
        assert metric(nothing) == (nothing.tolist() if name == "confusion_matrix" else 0.0)
    assert not recwarn
