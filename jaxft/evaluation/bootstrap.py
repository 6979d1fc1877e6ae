"""How sure a metric is: bootstrap intervals over examples (Efron 1979), and paired differences of two systems."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import stats

# A statistic of the examples with these numbers, int `(examples,)`; some may stand among them more than once.
Statistic = Callable[[np.ndarray], float | Sequence[float]]


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value with its confidence interval.

    Attributes:
      value: of all examples.
      low: lower end.
      high: upper end.
    """

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much better the first of two systems is on the same examples.

    Attributes:
      interval: of the difference.
      p_value: two-sided, of the hypothesis that there is none.
    """

    interval: Interval
    p_value: float


def resamples(count: int, number: int, seed: int = 0) -> Iterator[np.ndarray]:
    """`number` draws of `count` examples out of as many, with replacement, int64 `(count,)`; the same for a seed."""
    random = np.random.default_rng(seed)
    for _ in range(number):
        yield random.integers(count, size=count)


def intervals(
    statistics: Statistic, count: int, confidence: float = 0.95, number: int = 1000, seed: int = 0, bca: bool = False
) -> list[Interval]:
    """Intervals of several statistics from the same resamples.

    Args:
      statistics: from numbers of examples to the values; NaN where some examples have none, which then are left out.
      count: number of examples.
      confidence: share of intervals that hold the truth, such as 0.95.
      number: of resamples.
      seed: of their draw.
      bca: corrected for bias and skew (BCa, Efron 1987), which needs each statistic without each of the examples;
        else percentiles.

    Raises:
      ValueError: a confidence outside (0, 1), or no examples or resamples.
    """
    if not 0 < confidence < 1 or number < 1 or count < 1:
        raise ValueError(f"no interval of confidence {confidence} from {number} resamples of {count} examples")
    everything = np.arange(count)
    values = np.atleast_1d(np.asarray(statistics(everything), np.float64))
    draws = [np.atleast_1d(statistics(chosen)) for chosen in resamples(count, number, seed)]
    drawn = np.stack(draws).astype(np.float64)
    left = None
    if bca and count > 1:
        left = np.stack([np.atleast_1d(statistics(np.delete(everything, i))) for i in range(count)])
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    found = []
    for column, value in enumerate(values.tolist()):
        own = drawn[~np.isnan(drawn[:, column]), column]
        if not len(own):
            found.append(Interval(value, math.nan, math.nan))
            continue
        shares = ends if left is None else _bca_shares(value, own, left[:, column], ends)
        low, high = np.quantile(own, shares)
        found.append(Interval(value, float(low), float(high)))
    return found


def _bca_shares(value: float, drawn: np.ndarray, left: np.ndarray, ends: Sequence[float]) -> list[float]:
    """Which quantiles of the draws are the ends of the interval."""
    # Draws that equal the value count half, so that a statistic of few values has no bias.
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    bias = stats.norm.ppf(np.clip(below, 1 / (len(drawn) + 1), len(drawn) / (len(drawn) + 1)))
    deviations = left.mean() - left
    spread = 6 * (deviations**2).sum() ** 1.5
    acceleration = (deviations**3).sum() / spread if spread > 0 else 0.0
    shifted = bias + stats.norm.ppf(np.asarray(ends))
    return stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)).tolist()


def paired_difference(
    first: Statistic, second: Statistic, count: int, confidence: float = 0.95, number: int = 1000, seed: int = 0
) -> Difference:
    """Compares two systems by the same resamples of the same examples (Koehn 2004).

    Args:
      first: from numbers of examples to the first system's metric.
      second: to the second one's.
      count: number of examples.
      confidence: of the interval of the first one's metric less the second one's.
      number: of resamples.
      seed: of their draw.
    """

    def difference(chosen: np.ndarray) -> float:
        return float(np.asarray(first(chosen))) - float(np.asarray(second(chosen)))

    (interval,) = intervals(difference, count, confidence, number, seed)
    drawn = np.array([difference(chosen) for chosen in resamples(count, number, seed)])
    # Under the hypothesis differences scatter about 0 as they do here about the one that was found.
    extreme = (np.abs(drawn - interval.value) >= abs(interval.value) - 1e-12).sum()
    return Difference(interval, float((extreme + 1) / (number + 1)))
