"""One pass over held-out data, with fixed masks and every example counted once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxft.data.batches import Batch, StreamBatches
from jaxft.evaluation.classification import CLASSIFICATION_METRICS, confusion_matrix
from jaxft.models.model import Model
from jaxft.objectives.objective import Objective
from jaxft.parallel.sharding import put_batch
from jaxft.training.step import bind


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
        self._needs_outputs = bool(set(metrics) - {"loss", "perplexity", "accuracy"})

        def evaluate_batch(parameters, batch):
            apply = bind(model, parameters)
            return objective.loss(apply, batch), objective.outputs(apply, batch) if self._needs_outputs else {}

        self._evaluate_batch = jax.jit(evaluate_batch)

    def __call__(self, parameters) -> dict[str, Any]:
        """The metrics of these parameters: floats, and nested lists for a confusion matrix."""
        loss, weight = 0.0, 0.0
        sums: dict[str, float] = {}
        labels, predictions = [], []
        for batch, (part, outputs) in self._computed(parameters):
            part = jax.device_get(part)
            loss, weight = loss + float(part.loss), weight + float(part.weight)
            for name, value in part.sums.items():
                sums[name] = sums.get(name, 0.0) + float(value)
            if outputs:
                real = batch["row_weight"] > 0
                labels.append(np.asarray(outputs["label"])[real])
                predictions.append(np.asarray(outputs["logits"]).argmax(-1)[real])
        known = {name: value / max(weight, 1e-9) for name, value in {"loss": loss, **sums}.items()}
        # Capped, so that a model that knows nothing has a number too.
        known["perplexity"] = math.exp(min(known["loss"], 700.0))
        if labels:
            count = self.objective.head.num_labels
            confusion = confusion_matrix(np.concatenate(labels), np.concatenate(predictions), count)
            known |= {name: metric(confusion) for name, metric in CLASSIFICATION_METRICS.items()}
        return {name: known[name] for name in self.metrics}

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
