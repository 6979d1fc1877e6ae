"""Metrics that need what a model says of all examples, by name; all others are ratios of sums that the loss gives."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.data.store import Record
from jaxft.evaluation.classification import CLASSIFICATION_METRICS, confusion_matrix
from jaxft.evaluation.similarity import alignment, pearson, spearman, uniformity
from jaxft.objectives.objective import Objective


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A pass over held-out data.

    Attributes:
      objective: as evaluation uses it.
      records: of each row, in their order; empty where the objective predicts nothing.
      outputs: of `Objective.outputs`, each with an axis of rows first.
    """

    objective: Objective
    records: Sequence[Record]
    outputs: Mapping[str, np.ndarray]

    @functools.cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """What the objective says of each example."""
        return self.objective.predictions(self.records, self.outputs)


Measure = Callable[[Evaluated], Any]


def _of_similarity(metric: Callable[[np.ndarray, np.ndarray], float]) -> Measure:
    return lambda evaluated: metric(evaluated.outputs["similarity"], evaluated.outputs["score"])


def _of_labels(metric: Callable[[np.ndarray], Any]) -> Measure:
    def measure(evaluated: Evaluated) -> Any:
        logits = evaluated.outputs["logits"]
        return metric(confusion_matrix(evaluated.outputs["label"], logits.argmax(-1), logits.shape[-1]))

    return measure


def _pseudo_perplexity(evaluated: Evaluated) -> float:
    total = evaluated.outputs["pseudo_log_likelihood"].sum(dtype=np.float64)
    return math.exp(min(-total / max(evaluated.outputs["scored_tokens"].sum(), 1), 700.0))


MEASURES: dict[str, Measure] = {
    **{name: _of_labels(metric) for name, metric in CLASSIFICATION_METRICS.items()},
    "spearman": _of_similarity(spearman),
    "pearson": _of_similarity(pearson),
    "alignment": lambda evaluated: alignment(evaluated.outputs["vectors"]),
    "uniformity": lambda evaluated: uniformity(evaluated.outputs["vectors"]),
    "pseudo_perplexity": _pseudo_perplexity,
}
