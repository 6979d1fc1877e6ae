"""Whether probabilities are as sure as they are right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BINS = 15


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, along the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over bins of equal width of the confidence (Guo et al. 2017).

    Args:
      labels: int `(examples,)`.
      probabilities: float `(examples, labels)`.
      bins: their number, each with its upper edge.
    """
    confidence, hits = probabilities.max(-1), probabilities.argmax(-1) == labels
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(places, hits - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / max(len(labels), 1))


def brier_score(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean squared distance of the probabilities from certainty of the label, summed over labels (Brier 1950).

    Between 0 and 2: for two labels it is twice that of one of them.

    Args:
      labels: int `(examples,)`.
      probabilities: float `(examples, labels)`.
    """
    certain = labels[:, None] == np.arange(probabilities.shape[-1])
    return float(np.square(probabilities - certain).sum(-1).mean())


CALIBRATION_METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "expected_calibration_error": expected_calibration_error,
    "brier": brier_score,
}
