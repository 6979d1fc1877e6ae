"""Metrics of a classifier from its confusion matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, count: int) -> np.ndarray:
    """int64 `(count, count)`: how often label `i` was predicted as `j`.

    Args:
      labels: int `(examples,)`, each in `[0, count)`.
      predictions: int `(examples,)`, each in `[0, count)`.
      count: number of labels.
    """
    return np.bincount(labels * count + predictions, minlength=count * count).reshape(count, count)


def precision_of_labels(confusion: np.ndarray) -> np.ndarray:
    """Share of the predictions of each label that are right; 0 where it was never predicted."""
    return _ratio(np.diag(confusion), confusion.sum(0))


def recall_of_labels(confusion: np.ndarray) -> np.ndarray:
    """Share of the examples of each label that were found; 0 where there are none."""
    return _ratio(np.diag(confusion), confusion.sum(1))


def f1_of_labels(confusion: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall of each label; 0 where it neither occurs nor is predicted."""
    return _ratio(2 * np.diag(confusion), confusion.sum(0) + confusion.sum(1))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)


def _macro(of_labels: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], float]:
    """Plain mean over the labels that occur as a label or as a prediction, as scikit-learn has it."""

    def mean(confusion: np.ndarray) -> float:
        occurs = confusion.sum(0) + confusion.sum(1) > 0
        return float(of_labels(confusion)[occurs].mean()) if occurs.any() else 0.0

    return mean


def _weighted(of_labels: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], float]:
    """Mean over the labels, weighted by how often each occurs."""

    def mean(confusion: np.ndarray) -> float:
        return float((of_labels(confusion) * confusion.sum(1)).sum() / max(confusion.sum(), 1))

    return mean


def balanced_accuracy(confusion: np.ndarray) -> float:
    """Plain mean of the recall of the labels that occur."""
    occurs = confusion.sum(1) > 0
    return float(recall_of_labels(confusion)[occurs].mean()) if occurs.any() else 0.0


def matthews(confusion: np.ndarray) -> float:
    """Correlation of labels and predictions (Matthews 1975; of several labels Gorodkin 2004); 0 where either is the
    same everywhere."""
    confusion = confusion.astype(np.float64)
    total, there, guessed = confusion.sum(), confusion.sum(1), confusion.sum(0)
    scale = np.sqrt(total**2 - there @ there) * np.sqrt(total**2 - guessed @ guessed)
    return float((np.trace(confusion) * total - there @ guessed) / scale) if scale > 0 else 0.0


def _accuracy(confusion: np.ndarray) -> float:
    return float(np.trace(confusion) / max(confusion.sum(), 1))


# `precision` and `recall` are means over the labels, and `f1` is another name of `macro_f1`. In single-label
# classification every error is one false positive and one false negative, so that
# micro-averaged precision, recall and F1 all equal the accuracy.
CLASSIFICATION_METRICS: dict[str, Callable[[np.ndarray], float | list]] = {
    "accuracy": _accuracy,
    "precision": _macro(precision_of_labels),
    "recall": _macro(recall_of_labels),
    "f1": _macro(f1_of_labels),
    "macro_f1": _macro(f1_of_labels),
    "micro_f1": _accuracy,
    "balanced_accuracy": balanced_accuracy,
    "weighted_precision": _weighted(precision_of_labels),
    "weighted_recall": _weighted(recall_of_labels),
    "weighted_f1": _weighted(f1_of_labels),
    "matthews": matthews,
    "confusion_matrix": lambda confusion: confusion.tolist(),
}
