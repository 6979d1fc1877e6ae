"""Metrics of predicted numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxft.evaluation.paired import check_paired


def mean_squared_error(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Mean squared difference.

    Args:
      targets: float `(examples,)`.
      predicted: float `(examples,)`.
    """
    check_paired(targets, predicted)
    return float(np.square(np.asarray(targets, np.float64) - predicted).mean())


def mean_absolute_error(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Mean absolute difference."""
    check_paired(targets, predicted)
    return float(np.abs(np.asarray(targets, np.float64) - predicted).mean())


def r2(targets: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the variance that is explained; of constant targets 1 where all are met, else 0."""
    check_paired(targets, predicted)
    targets = np.asarray(targets, np.float64)
    left, total = np.square(targets - predicted).sum(), np.square(targets - targets.mean()).sum()
    if total == 0:
        return float(left == 0)
    return float(1 - left / total)


REGRESSION_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mse": mean_squared_error,
    "mae": mean_absolute_error,
    "r2": r2,
}
