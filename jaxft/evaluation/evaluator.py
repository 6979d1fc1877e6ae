"""One pass over held-out data, with fixed masks and every example counted once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from jaxft.data.batches import StreamBatches
from jaxft.data.store import Record
from jaxft.errors import DataError
from jaxft.evaluation.bootstrap import Interval, intervals
from jaxft.evaluation.evaluated import Evaluated
from jaxft.evaluation.measures import MEASURES, WITHOUT_INTERVAL
from jaxft.models.model import AnyModel
from jaxft.objectives.objective import Objective, Ratio, StreamLoss
from jaxft.objectives.writing import WRITTEN, WritesAnswers
from jaxft.parallel.sharding import own_rows, put_batch, replicated
from jaxft.parallel.trees import Parameters
from jaxft.training.step import bind

# From parameters and prompts, int32 `(tokens,)` each, to what the model writes for them, likewise.
WriteAnswers = Callable[[Parameters, Sequence[np.ndarray]], Sequence[np.ndarray]]

# What a model says of the rows of a batch, by name.
Outputs = Mapping[str, np.ndarray]


class Evaluator:
    """Evaluates one objective on one held-out source.

    Attributes:
      name: of the evaluation.
      objective: as evaluation uses it.
      metrics: names of what is reported, out of the objective's.
      batches: the held-out data.

    `write` is how the model answers, for objectives whose answers are written.
    """

    def __init__(
        self,
        name: str,
        model: AnyModel,
        objective: Objective,
        batches: StreamBatches,
        metrics: tuple[str, ...],
        mesh: jax.sharding.Mesh,
        write: WriteAnswers | None = None,
    ):
        self.name, self.objective, self.metrics, self._write = name, objective, metrics, write
        self.batches, self._mesh = batches, mesh
        self._needs_outputs = any(name in MEASURES for name in metrics if name != "accuracy")

        def outputs(
            parameters: Parameters, origin: Parameters | None, batch: Mapping[str, jax.Array]
        ) -> dict[str, jax.Array]:
            return objective.outputs(bind(model, parameters, origin=origin), batch)

        def evaluate(
            parameters: Parameters, origin: Parameters | None, batch: Mapping[str, jax.Array]
        ) -> tuple[StreamLoss, dict[str, jax.Array]]:
            sums = objective.loss(bind(model, parameters, origin=origin), objective.balance(batch))
            return sums, outputs(parameters, origin, batch) if self._needs_outputs else {}

        def evaluate_rows(
            parameters: Parameters, origin: Parameters | None, batch: Mapping[str, jax.Array]
        ) -> tuple[StreamLoss, dict[str, jax.Array]]:
            apply, balanced = bind(model, parameters, origin=origin), objective.balance(batch)
            rows = jax.tree.map(lambda x: x[:, None], dict(balanced))
            sums = jax.vmap(lambda row: objective.loss(apply, row))(rows)
            return sums, outputs(parameters, origin, batch) if self._needs_outputs else {}

        # Every process sees the results of all rows.
        self._evaluate = jax.jit(evaluate, out_shardings=replicated(mesh))
        self._evaluate_rows = jax.jit(evaluate_rows, out_shardings=replicated(mesh))
        self._outputs = jax.jit(outputs, out_shardings=replicated(mesh))

    def __call__(self, parameters: Parameters, origin: Parameters | None = None) -> dict[str, Any]:
        """The metrics of these parameters: floats, and nested lists for a confusion matrix.

        Args:
          parameters: of the model.
          origin: those that the run began with, where the objective compares with them (`Objective.needs_origin`).
        """
        sums: dict[str, np.ndarray] = {}
        outputs: list[Outputs] = []
        for are_real, (part, own) in self._computed(self._evaluate, parameters, origin):
            for name, found in _sums(part).items():
                sums[name] = sums.get(name, 0.0) + found
            outputs.append(_real(own, are_real))
        return self._metrics(sums, self._evaluated(parameters, outputs))

    def intervals(
        self,
        parameters: Parameters,
        confidence: float = 0.95,
        resamples: int = 1000,
        origin: Parameters | None = None,
    ) -> dict[str, Interval]:
        """The metrics that are numbers, with bootstrap intervals over the examples, or over rows that are packed.

        Args:
          parameters: of the model.
          confidence: share of intervals that hold the truth.
          resamples: draws of as many examples as there are.
          origin: as for a call.

        Returns:
          By metric; without what the loss sums up where it compares the examples of a batch with each other, so that
          none has one of its own.
        """
        alone = not self.objective.whole_batch
        compute = self._evaluate_rows if alone else self._evaluate
        sums: list[Mapping[str, np.ndarray]] = []
        outputs: list[Outputs] = []
        for are_real, (part, own) in self._computed(compute, parameters, origin):
            sums.append(_real(_sums(part), are_real) if alone else _sums(part))
            outputs.append(_real(own, are_real))
        together = () if alone else {*sums[0], "perplexity"}
        whole = self._evaluated(parameters, outputs, sums if alone else [{}])
        wanted = [name for name in self.metrics if name not in WITHOUT_INTERVAL and name not in together]
        names = [name for name, value in self._metrics_of(whole, wanted).items() if isinstance(value, float)]

        def statistics(examples: np.ndarray) -> list[float]:
            drawn, found = whole.drawn(examples), []
            for name in names:
                try:
                    found.append(self._metrics_of(drawn, (name,))[name])
                except DataError:  # of one class alone, say
                    found.append(math.nan)
            return found

        return dict(zip(names, intervals(statistics, len(whole), confidence, resamples), strict=True))

    def _metrics_of(self, evaluated: Evaluated, names: Sequence[str]) -> dict[str, Any]:
        return self._metrics({name: rows.sum(0) for name, rows in evaluated.sums.items()}, evaluated, names)

    def _metrics(
        self, sums: Mapping[str, np.ndarray], evaluated: Evaluated, names: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """The metrics, or some of them, from sums and weights over all rows and what the model said."""
        known = {name: float(total / max(weight, 1e-9)) for name, (total, weight) in sums.items()}
        if known:
            known["loss"] = self.objective.total(known)
            # Capped, so that a model that knows nothing has a number too.
            known["perplexity"] = math.exp(min(known.get("masked_lm_loss", known["loss"]), 700.0))
        wanted = self.metrics if names is None else names
        return {name: known[name] if name in known else MEASURES[name](evaluated) for name in wanted}

    def predictions(self, parameters: Parameters) -> list[dict[str, Any]]:
        """What the objective says of each example, in their order; labels are not needed."""
        outputs = [_real(own, are_real) for are_real, own in self._computed(self._outputs, parameters, None)]
        return self._evaluated(parameters, outputs).predictions

    def _evaluated(
        self, parameters: Parameters, outputs: Sequence[Outputs], sums: Sequence[Outputs] | None = None
    ) -> Evaluated:
        joined = _joined(outputs)
        records: list[Record] = []
        writes = self.objective.writes and (self._needs_outputs or not self.metrics)
        if self.objective.predicts and (joined or sums or writes):
            records = [record for row in self.batches.records(np.arange(self.batches.rows)) for record in row]
        if writes:
            joined[WRITTEN] = self._written(parameters, records)
        return Evaluated(self.objective, records, joined, _joined(sums or [{}]))

    def _written(self, parameters: Parameters, records: Sequence[Record]) -> np.ndarray:
        """What the model answers each record, int32 `(records, tokens)`, with -1 after the end."""
        objective, write = cast(WritesAnswers, self.objective), self._write
        assert write is not None  # given for objectives that write
        answers = write(parameters, [objective.prompt(record) for record in records])
        rows = np.full((len(answers), max(map(len, answers), default=0)), -1, np.int32)
        for row, answer in zip(rows, answers, strict=True):
            row[: len(answer)] = answer
        return rows

    def _computed(
        self, compute: Callable[..., Any], parameters: Parameters, origin: Parameters | None
    ) -> Iterator[tuple[np.ndarray, Any]]:
        """Which rows of each batch are real, and what the devices made of it, one batch behind, so that both work."""
        previous, batches = None, self.batches
        own = own_rows(self._mesh, batches.batch_size)
        for number in range(batches.final_batches()):
            batch = batches.padded_batch(number, own)
            with jax.set_mesh(self._mesh):
                current = batches.are_real(number), compute(parameters, origin, put_batch(batch, self._mesh))
            if previous is not None:
                yield previous
            previous = current
        if previous is not None:
            yield previous


def _real(outputs: Mapping[str, jax.Array | np.ndarray], are_real: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the rows that are none of the padding."""
    return {name: np.asarray(array)[are_real] for name, array in outputs.items()}


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _sums(part: StreamLoss) -> dict[str, np.ndarray]:
    """Sum and weight of the loss and of each ratio, float64 `(..., 2)`."""
    part = jax.device_get(part)
    ratios = {"loss": Ratio(part.loss, part.weight), **part.ratios}
    return {name: np.stack([ratio.sum, ratio.weight], -1).astype(np.float64) for name, ratio in ratios.items()}
