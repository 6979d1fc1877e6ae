"""One pass over held-out data, with fixed masks and every example counted once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxft.data.batches import Batch, StreamBatches
from jaxft.data.store import Record
from jaxft.evaluation.measures import MEASURES, Evaluated
from jaxft.models.model import Model
from jaxft.objectives.objective import Objective, Ratio
from jaxft.parallel.sharding import put_batch, replicated
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
        self._needs_outputs = any(name in MEASURES for name in metrics if name != "accuracy")

        def outputs(parameters, batch):
            return objective.outputs(bind(model, parameters), batch)

        def evaluate(parameters, batch):
            sums = objective.loss(bind(model, parameters), objective.balance(batch))
            return sums, outputs(parameters, batch) if self._needs_outputs else {}

        # Every process sees the results of all rows.
        self._evaluate = jax.jit(evaluate, out_shardings=replicated(mesh))
        self._outputs = jax.jit(outputs, out_shardings=replicated(mesh))

    def __call__(self, parameters) -> dict[str, Any]:
        """The metrics of these parameters: floats, and nested lists for a confusion matrix."""
        sums: dict[str, list[float]] = {}
        outputs: list[Mapping[str, np.ndarray]] = []
        for batch, (part, own) in self._computed(self._evaluate, parameters):
            part = jax.device_get(part)
            for name, ratio in {"loss": Ratio(part.loss, part.weight), **part.ratios}.items():
                found = sums.setdefault(name, [0.0, 0.0])
                found[0] += float(ratio.sum)
                found[1] += float(ratio.weight)
            outputs.append(_real(own, batch))
        known = {name: total / max(weight, 1e-9) for name, (total, weight) in sums.items()}
        known["loss"] = self.objective.total(known)
        # Capped, so that a model that knows nothing has a number too.
        known["perplexity"] = math.exp(min(known.get("masked_lm_loss", known["loss"]), 700.0))
        evaluated = self._evaluated(outputs)
        return {name: known[name] if name in known else MEASURES[name](evaluated) for name in self.metrics}

    def predictions(self, parameters) -> list[dict[str, Any]]:
        """What the objective says of each example, in their order; labels are not needed."""
        outputs = [_real(own, batch) for batch, own in self._computed(self._outputs, parameters)]
        return self._evaluated(outputs).predictions

    def _evaluated(self, outputs: list[Mapping[str, np.ndarray]]) -> Evaluated:
        joined = {name: np.concatenate([own[name] for own in outputs]) for name in outputs[0]}
        records: list[Record] = []
        if joined and self.objective.predicts:
            records = [record for row in self.batches.records(np.arange(self.batches.rows)) for record in row]
        return Evaluated(self.objective, records, joined)

    def _computed(self, compute, parameters) -> Iterator[tuple[Batch, Any]]:
        """Each host batch with what the device made of it, one batch behind, so that both work at once."""
        previous = None
        for batch in self._host_batches():
            with jax.set_mesh(self._mesh):
                current = batch, compute(parameters, put_batch(batch, self._mesh))
            if previous is not None:
                yield previous
            previous = current
        if previous is not None:
            yield previous

    def _host_batches(self) -> Iterable[Batch]:
        return (self.batches.padded_batch(number) for number in range(self.batches.final_batches()))


def _real(outputs: Mapping[str, jax.Array], batch: Batch) -> dict[str, np.ndarray]:
    """The outputs of the rows that are none of the padding."""
    return {name: np.asarray(array)[batch["row_weight"] > 0] for name, array in outputs.items()}
