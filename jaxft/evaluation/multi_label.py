"""Metrics where any number of labels may hold at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jaxft.evaluation.paired import check_paired


def _f1(right: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """`2 * right / sizes`, 0 where nothing holds and nothing was predicted."""
    return np.divide(2.0 * right, sizes, out=np.zeros(np.shape(right)), where=sizes > 0)


def _counted(holds: np.ndarray, predicted: np.ndarray, axis: int | None) -> tuple[np.ndarray, np.ndarray]:
    check_paired(holds, predicted)
    holds, predicted = np.asarray(holds, bool), np.asarray(predicted, bool)
    return np.asarray((holds & predicted).sum(axis)), np.asarray(holds.sum(axis) + predicted.sum(axis))


def micro_f1(holds: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of all decisions together.

    Args:
      holds: bool `(examples, labels)`.
      predicted: bool `(examples, labels)`.
    """
    return float(_f1(*_counted(holds, predicted, None)))


def macro_f1(holds: np.ndarray, predicted: np.ndarray) -> float:
    """Plain mean over the labels of F1, 0 for one that neither holds nor is predicted anywhere."""
    return float(_f1(*_counted(holds, predicted, 0)).mean())


def samples_f1(holds: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over the examples of F1, 0 for one without labels of which none is predicted."""
    return float(_f1(*_counted(holds, predicted, 1)).mean())


def subset_accuracy(holds: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the examples whose labels are all right."""
    check_paired(holds, predicted)
    return float((np.asarray(holds, bool) == np.asarray(predicted, bool)).all(-1).mean())


def hamming_loss(holds: np.ndarray, predicted: np.ndarray) -> float:
    """Share of all decisions that are wrong."""
    check_paired(holds, predicted)
    return float((np.asarray(holds, bool) != np.asarray(predicted, bool)).mean())


MULTI_LABEL_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "micro_f1": micro_f1,
    "macro_f1": macro_f1,
    "samples_f1": samples_f1,
    "subset_accuracy": subset_accuracy,
    "hamming_loss": hamming_loss,
}
