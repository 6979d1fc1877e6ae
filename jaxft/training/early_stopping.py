"""Stopping when a metric no longer improves, decided from the history of evaluations alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from jaxft.errors import InvalidField

History = Sequence[Mapping[str, float]]  # each with `step` and metrics like `reviews.accuracy`


@dataclasses.dataclass(frozen=True)
class EarlyStoppingConfig:
    """When to stop early.

    Attributes:
      metric: of an evaluation, like `reviews.accuracy`.
      patience: evaluations without improvement that are allowed.
      minimum_change: an improvement must be larger than this.
    """

    metric: str
    patience: int = 3
    minimum_change: float = 0.0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise InvalidField("patience", f"must be at least 1, found {self.patience}")
        if self.minimum_change < 0:
            raise InvalidField("minimum_change", f"must not be negative, found {self.minimum_change}")


def best_step(history: History, metric: str, lower_is_better: bool) -> int | None:
    """The first step with the best value of a metric; None where there is none yet (a NaN is none)."""
    sign = 1 if lower_is_better else -1
    known = [row for row in history if row.get(metric) is not None and not math.isnan(row[metric])]
    return int(min(known, key=lambda row: sign * row[metric])["step"]) if known else None


def should_stop(history: History, config: EarlyStoppingConfig, lower_is_better: bool) -> bool:
    """Whether the last `patience` evaluations brought no improvement, from the history alone: resuming keeps it."""
    sign = 1 if lower_is_better else -1
    best, waited = float("inf"), 0
    for row in history:
        value = sign * row[config.metric]
        improved = value < best - config.minimum_change
        best = min(best, value) if improved else best
        waited = 0 if improved else waited + 1
    return waited >= config.patience
