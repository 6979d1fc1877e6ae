"""How well scores rank what holds above what does not: areas under curves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from jaxft.errors import DataError
from jaxft.evaluation.paired import check_paired


def area_under_roc(holds: np.ndarray, scores: np.ndarray) -> float:
    """Probability that one that holds scores higher than one that does not; ties count half.

    Args:
      holds: bool `(examples,)`.
      scores: float `(examples,)`.

    Raises:
      DataError: all hold, or none does.
    """
    check_paired(holds, scores)
    holds = np.asarray(holds, bool)
    positives = int(holds.sum())
    _check_both(positives, len(holds), "roc_auc")
    ranks = stats.rankdata(scores)
    negatives = len(holds) - positives
    return float((ranks[holds].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(holds: np.ndarray, scores: np.ndarray) -> float:
    """Mean over the thresholds of precision, weighted by the gain of recall; ties share a threshold.

    Args:
      holds: bool `(examples,)`.
      scores: float `(examples,)`.

    Raises:
      DataError: none holds.
    """
    check_paired(holds, scores)
    holds, scores = np.asarray(holds, bool), np.asarray(scores)
    if not holds.any():
        raise DataError("average_precision needs an example of each label, found none of one", "one_class")
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(holds[order])
    last = np.append(np.diff(scores[order]) != 0, True)
    right, precision = found[last], found[last] / (np.flatnonzero(last) + 1)
    return float((np.diff(right, prepend=0) * precision).sum() / holds.sum())


def _check_both(positives: int, count: int, what: str) -> None:
    if not 0 < positives < count:
        raise DataError(f"{what} needs examples of a label and of others; {positives} of {count} have it", "one_class")


def mean_over_labels(
    metric: Callable[[np.ndarray, np.ndarray], float],
) -> Callable[[np.ndarray, np.ndarray], float]:
    """A metric of one label against the rest as the plain mean over all labels; of two that of the second one.

    The metric made takes `targets`: int `(examples,)`, or, where any number of labels may hold, `(examples, labels)`
    that are above 0 where one does; and `scores`: float `(examples, labels)`.
    """

    def mean(targets: np.ndarray, scores: np.ndarray) -> float:
        targets, labels = np.asarray(targets), scores.shape[-1]
        if targets.ndim == 1 and labels == 2:
            return metric(targets == 1, scores[:, 1])
        holds = targets > 0 if targets.ndim == 2 else targets[:, None] == np.arange(labels)
        return float(np.mean([metric(holds[:, label], scores[:, label]) for label in range(labels)]))

    return mean


RANKING_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "roc_auc": mean_over_labels(area_under_roc),
    "average_precision": mean_over_labels(average_precision),
}
