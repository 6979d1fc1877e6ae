"""One pass over held-out data, with fixed masks and every example counted once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxft.data.batches import Batch, StreamBatches
from jaxft.evaluation.classification import CLASSIFICATION_METRICS, confusion_matrix
from jaxft.evaluation.similarity import alignment, pearson, spearman, uniformity
from jaxft.models.model import Model
from jaxft.objectives.objective import Objective, Ratio
from jaxft.parallel.sharding import put_batch
from jaxft.training.step import bind

Outputs = Mapping[str, np.ndarray]


def _of_similarity(metric: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[Outputs], float]:
    return lambda outputs: metric(outputs["similarity"], outputs["score"])


def _of_labels(metric: Callable[[np.ndarray], Any]) -> Callable[[Outputs], Any]:
    def compute(outputs: Outputs) -> Any:
        logits = outputs["logits"]
        return metric(confusion_matrix(outputs["label"], logits.argmax(-1), logits.shape[-1]))

    return compute


def _pseudo_perplexity(outputs: Outputs) -> float:
    loss = -outputs["pseudo_log_likelihood"].sum(dtype=np.float64) / max(outputs["scored_tokens"].sum(), 1)
    return math.exp(min(loss, 700.0))


# Metrics that need the outputs of all rows; all others are ratios of sums that the loss gives.
_OF_OUTPUTS: dict[str, Callable[[Outputs], Any]] = {
    **{name: _of_labels(metric) for name, metric in CLASSIFICATION_METRICS.items()},
    "spearman": _of_similarity(spearman),
    "pearson": _of_similarity(pearson),
    "alignment": lambda outputs: alignment(outputs["vectors"]),
    "uniformity": lambda outputs: uniformity(outputs["vectors"]),
    "pseudo_perplexity": _pseudo_perplexity,
}


class Evaluator:
    """Evaluates one objective on one held-out source.

    Attributes:
      name: of the evaluation.
      objective: as evaluation uses it.
      metrics: names of what is reported, out of the objective's.
      batches: the held-out data.
    """

    def __init__(
        self, name: str, model: Model, objective: Objective, batches: StreamBatches, metrics: tuple[str, ...], mesh
    ):
        self.name, self.objective, self.metrics = name, objective, metrics
        self.batches, self._mesh = batches, mesh
        self._needs_outputs = any(name in _OF_OUTPUTS for name in metrics if name != "accuracy")

        def evaluate_batch(parameters, batch):
            apply = bind(model, parameters)
            sums = objective.loss(apply, objective.balance(batch))
            return sums, objective.outputs(apply, batch) if self._needs_outputs else {}

        self._evaluate_batch = jax.jit(evaluate_batch)

    def __call__(self, parameters) -> dict[str, Any]:
        """The metrics of these parameters: floats, and nested lists for a confusion matrix."""
        sums: dict[str, list[float]] = {}
        outputs: dict[str, list[np.ndarray]] = {}
        for batch, (part, own) in self._computed(parameters):
            part, real = jax.device_get(part), batch["row_weight"] > 0
            for name, ratio in {"loss": Ratio(part.loss, part.weight), **part.ratios}.items():
                found = sums.setdefault(name, [0.0, 0.0])
                found[0] += float(ratio.sum)
                found[1] += float(ratio.weight)
            for name, array in own.items():
                outputs.setdefault(name, []).append(np.asarray(array)[real])
        known = {name: total / max(weight, 1e-9) for name, (total, weight) in sums.items()}
        known["loss"] = self.objective.total(known)
        # Capped, so that a model that knows nothing has a number too.
        known["perplexity"] = math.exp(min(known.get("masked_lm_loss", known["loss"]), 700.0))
        joined = {name: np.concatenate(arrays) for name, arrays in outputs.items()}
        return {name: known[name] if name in known else _OF_OUTPUTS[name](joined) for name in self.metrics}

    def _computed(self, parameters) -> Iterator[tuple[Batch, Any]]:
        """Each host batch with what the device made of it, one batch behind, so that both work at once."""
        previous = None
        for batch in self._host_batches():
            with jax.set_mesh(self._mesh):
                current = batch, self._evaluate_batch(parameters, put_batch(batch, self._mesh))
            if previous is not None:
                yield previous
            previous = current
        if previous is not None:
            yield previous

    def _host_batches(self) -> Iterable[Batch]:
        return (self.batches.padded_batch(number) for number in range(self.batches.final_batches()))
