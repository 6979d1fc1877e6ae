"""What a model said of held-out data, whole or drawn anew."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.data.store import Record
from jaxft.objectives.objective import Objective
from jaxft.objectives.rows import examples_of


class Evaluated:
    """A pass over held-out data.

    Attributes:
      objective: as evaluation uses it.
      records: of each row, in their order; empty where the objective predicts nothing.
      outputs: of `Objective.outputs`, each with an axis of rows first.
      sums: of each row what `Objective.loss` sums up, by name, float64 `(rows, 2)`: sum and weight; empty where it was
        not asked for.
    """

    def __init__(
        self,
        objective: Objective,
        records: Sequence[Record],
        outputs: Mapping[str, np.ndarray],
        sums: Mapping[str, np.ndarray] | None = None,
    ):
        self.objective, self.records, self.outputs, self.sums = objective, records, outputs, sums or {}
        self._scores: dict[Callable, np.ndarray] = {}

    @functools.cached_property
    def predictions(self) -> list[dict[str, Any]]:
        """What the objective says of each example."""
        return self.objective.predictions(self.records, self.outputs)

    @functools.cached_property
    def references(self) -> list[dict[str, Any]]:
        """What is right for each example."""
        return self.objective.references(self.records)

    def scores(self, compute: Callable[[Evaluated], np.ndarray]) -> np.ndarray:
        """Numbers of each example, `(examples, ...)`, which are computed once and then drawn with the examples."""
        if compute not in self._scores:
            self._scores[compute] = compute(self)
        return self._scores[compute]

    @functools.cached_property
    def _rows(self) -> list[range]:
        """Rows of each example."""
        if self.records:
            return examples_of(self.records)
        arrays = (*self.outputs.values(), *self.sums.values())
        return [range(row, row + 1) for row in range(len(arrays[0]) if arrays else 0)]

    def __len__(self) -> int:
        """Number of examples; of rows where the objective predicts nothing."""
        return len(self._rows)

    def drawn(self, examples: np.ndarray) -> Evaluated:
        """The examples with these numbers, of which some may stand there more than once."""
        return _Drawn(self, examples)


class _Drawn(Evaluated):
    """Examples of another pass."""

    def __init__(self, whole: Evaluated, examples: np.ndarray):
        rows = np.fromiter((row for example in examples.tolist() for row in whole._rows[example]), np.int64)
        self._whole, self._examples = whole, examples
        super().__init__(whole.objective, (), _Chosen(whole.outputs, rows), _Chosen(whole.sums, rows))

    @functools.cached_property
    def predictions(self) -> list[dict[str, Any]]:
        return [self._whole.predictions[example] for example in self._examples.tolist()]

    @functools.cached_property
    def references(self) -> list[dict[str, Any]]:
        return [self._whole.references[example] for example in self._examples.tolist()]

    def scores(self, compute: Callable[[Evaluated], np.ndarray]) -> np.ndarray:
        return self._whole.scores(compute)[self._examples]


class _Chosen(Mapping):
    """Some rows of arrays, taken when they are asked for."""

    def __init__(self, arrays: Mapping[str, np.ndarray], rows: np.ndarray):
        self._arrays, self._rows = arrays, rows

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name][self._rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)
