"""Metrics of vectors and of scores."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from jaxft.errors import DataError
from jaxft.evaluation.paired import check_paired


def spearman(scores: np.ndarray, given: np.ndarray) -> float:
    """Rank correlation, with mean ranks for ties; 0 where either is constant.

    Args:
      scores: float `(examples,)`.
      given: float `(examples,)`.

    Raises:
      DataError: their numbers differ, or one is not finite.
    """
    _check(scores, given)
    return pearson(stats.rankdata(scores), stats.rankdata(given))


def pearson(scores: np.ndarray, given: np.ndarray) -> float:
    """Linear correlation; 0 where either is constant, but for what rounding leaves.

    Args:
      scores: float `(examples,)`.
      given: float `(examples,)`.

    Raises:
      DataError: their numbers differ, or one is not finite.
    """
    _check(scores, given)
    scores, given = np.asarray(scores, np.float64), np.asarray(given, np.float64)
    if len(scores) < 2 or _is_constant(scores) or _is_constant(given):
        return 0.0
    # In units of their own, since squares of very small and very large numbers are none.
    scores, given = ((values - values.mean()) / np.ptp(values) for values in (scores, given))
    return float(np.corrcoef(scores, given)[0, 1])


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 8 * np.finfo(np.float64).eps * np.abs(values).max())


def _check(scores: np.ndarray, given: np.ndarray) -> None:
    check_paired(scores, given)
    for values in (np.asarray(scores), np.asarray(given)):
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise DataError(f"a correlation needs finite numbers; number {place + 1} is {values[place]}", "not_finite")


def alignment(vectors: np.ndarray) -> float:
    """Mean squared distance of partners (Wang and Isola 2020, arXiv 2005.10242).

    Args:
      vectors: float `(examples, 2, embed)`, of length 1.
    """
    return float(np.square(vectors[:, 0] - vectors[:, 1]).sum(-1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """Logarithm of the mean of `exp(-2 distance ** 2)` over all pairs of different examples (likewise).

    Args:
      vectors: float `(examples, 2, embed)`, of length 1; the first of each is used.
    """
    first = vectors[:, 0].astype(np.float64)
    total, count = 0.0, 0
    for start in range(0, len(first), 1024):  # a block of rows at a time, so that memory stays small
        block = first[start : start + 1024]
        distances = 2.0 - 2.0 * block @ first.T
        later = np.arange(len(first))[None, :] > np.arange(start, start + len(block))[:, None]
        total += float(np.exp(-2.0 * distances[later]).sum())
        count += int(later.sum())
    return math.log(total / count) if count else 0.0
