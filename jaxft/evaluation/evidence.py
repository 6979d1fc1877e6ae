"""What several runs of several ways bear out: means with intervals, differences run by run, and a recommendation.

Runs of one way differ by their seed; the interval of a mean is Student's over seeds. Two ways are compared seed by
seed, since the same seed gives both the same order of examples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over runs.

    Attributes:
      mean: of all runs.
      low: lower end of its confidence interval; minus infinity where there is but one run.
      high: upper end; infinity likewise.
      runs: number of them.
    """

    mean: float
    low: float
    high: float
    runs: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval says that the mean is not zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        half = (self.high - self.low) / 2
        return f"{self.mean:.4g}" + (f" ± {half:.2g}" if math.isfinite(half) else "")


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean and Student's interval of independent values."""
    array = np.asarray(values, np.float64)
    mean, count = float(array.mean()), len(array)
    if count < 2:
        return Estimate(mean, -math.inf, math.inf, count)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1) * array.std(ddof=1) / math.sqrt(count))
    return Estimate(mean, mean - half, mean + half, count)


def difference(one: Mapping[int, float], other: Mapping[int, float], confidence: float = 0.95) -> Estimate:
    """How much larger the first is, seed by seed.

    Args:
      one: value by seed.
      other: likewise; seeds that only one of them has are left out.
      confidence: of the interval.
    """
    return estimate([one[seed] - other[seed] for seed in one if seed in other], confidence)


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other one beats in both, by falling cost.

    Args:
      points: cost (lower is better) and gain (higher is better) by name.
    """
    best = [
        name
        for name, (cost, gain) in points.items()
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points.values())
    ]
    return sorted(best, key=lambda name: -points[name][0])


@dataclasses.dataclass(frozen=True)
class Option:
    """A share of replay with what it costs and gains.

    Attributes:
      name: of the arm.
      share: of replay in all tokens; 0 for none.
      forgetting: how much worse what was kept has become.
      gain: on the task, compared with no replay; None for no replay itself.
    """

    name: str
    share: float
    forgetting: Estimate
    gain: Estimate | None


def recommended(options: Sequence[Option], bound: float) -> Option | None:
    """The smallest share that surely forgets no more than `bound`, and of which nothing says that it costs the task.

    Sure is what the whole interval says; with a single run, its value alone.
    """
    for option in sorted(options, key=lambda option: option.share):
        worst = option.forgetting.high if option.forgetting.runs > 1 else option.forgetting.mean
        if worst <= bound and (option.gain is None or option.gain.high >= 0):
            return option
    return None
