"""Numbers for a text, or for a pair of texts: how alike, how readable, how dear."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, required_column
from jaxft.data.store import Fields, Record
from jaxft.errors import CheckpointError, DataError, InvalidField
from jaxft.objectives.config import TextPairConfig
from jaxft.objectives.objective import Apply, FoundInData, ObjectiveContext, StreamLoss, count_tokens
from jaxft.objectives.text_task import TextTask, check_shares


@dataclasses.dataclass(frozen=True)
class RegressionConfig(FoundInData, TextPairConfig):
    """Regression in a recipe.

    Attributes:
      text: column with the text.
      pair: column with a second text, or None.
      target: columns with a number each.
      standardize: the model learns targets less their mean, over their deviation; predictions, metrics but the loss,
        and exported weights are in the targets' own units.
      mean: of each target; found in the training data where None and `standardize`.
      deviation: standard deviation of each target, likewise.
      length: tokens of a row, special tokens included, longer texts are cut; the model's `max_length` where None.
      pooling: a text's vector is that of its first or last token or the mean over its tokens; the one that the
        model's architecture has where None.
      dropout: rate before the last projection.
    """

    problem_type = "regression"

    kind: Literal["regression"] = "regression"
    text: str = "text"
    pair: str | None = None
    target: tuple[str, ...] = ("score",)
    standardize: bool = False
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    length: int | None = None
    pooling: Literal["first", "last", "mean"] | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_shares(self, "dropout")
        if not self.target or len(set(self.target)) < len(self.target):
            raise InvalidField("target", f"must be one or more different columns, found {list(self.target)}")
        if (self.mean is None) != (self.deviation is None):
            raise InvalidField("mean", "give both mean and deviation, or neither")
        if self.mean is not None and not self.standardize:
            raise InvalidField("mean", "is for standardize: true")
        for name in ("mean", "deviation"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.target):
                raise InvalidField(name, f"must be one for each of {len(self.target)} targets, found {len(values)}")
        if self.deviation is not None and min(self.deviation) <= 0:
            raise InvalidField("deviation", f"must be positive, found {list(self.deviation)}")

    @property
    def is_complete(self) -> bool:
        """Whether means and deviations are known, where they are needed."""
        return self.mean is not None or not self.standardize

    def target_of(self, row: Row) -> tuple[float, ...]:
        """The numbers of a row."""
        return tuple(number_column(row, column) for column in self.target)

    def completed(self, targets: Iterable[tuple[float, ...]], where: str) -> RegressionConfig:
        """With mean and deviation of the targets."""
        values = np.array(list(targets), np.float64).reshape(-1, len(self.target))
        if not len(values):
            raise DataError(f"{where}: no examples")
        mean, deviation = values.mean(0), values.std(0)
        for column, spread in zip(self.target, deviation, strict=True):
            if not spread > 0:
                raise DataError(f"{where}: column {column!r} holds one number alone; there is nothing to standardize")
        return dataclasses.replace(self, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

    def label_names(self) -> tuple[str, ...]:
        """The columns of the targets."""
        return self.target

    def head_in_own_units(self, parameters: Mapping[str, Any], head: str) -> Mapping[str, Any]:
        """With mean and deviation of the targets in the last projection."""
        if self.mean is None:
            return parameters
        old, deviation = parameters["classifier"], jnp.array(self.deviation)
        if "bias" not in old:
            raise CheckpointError(
                f"head {head} has no bias that could hold the mean of its targets; train with standardize: false"
            )
        new = {"kernel": old["kernel"] * deviation, "bias": old["bias"] * deviation + jnp.array(self.mean)}
        return {**parameters, "classifier": new}

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """With the row's number as every target."""
        return {**super().specimen(text, number), **dict.fromkeys(self.target, float(number))}


def number_column(row: Row, column: str) -> float:
    """The value of a column that must be a finite number, perhaps written as text, as in CSV.

    Raises:
      DataError: it is none.
    """
    value = required_column(row, column)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{row.location}: column {column!r} must hold a finite number, found {value!r}", "not_a_number")
    return number


class Regression(TextTask):
    """Predicts one or several numbers for each text."""

    metrics = ("loss", "mse", "mae", "r2", "pearson", "spearman")
    default_metrics = metrics
    lower_is_better = frozenset({"loss", "mse", "mae"})

    def __init__(self, config: RegressionConfig, context: ObjectiveContext):
        super().__init__(config, context, len(config.target))
        self._mean = np.array(config.mean or [0.0] * len(config.target), np.float32)
        self._deviation = np.array(config.deviation or [1.0] * len(config.target), np.float32)

    def fields(self, row: Row) -> Fields:
        """The texts and the numbers."""
        return Fields(self.texts(row), _values(self._config.target_of(row)))

    def unlabelled_fields(self, row: Row) -> Fields:
        """The texts of a row that is to be predicted."""
        return Fields(self.texts(row), _values([0.0] * len(self._config.target)))

    def record_options(self) -> str:
        """The columns."""
        config = self._config
        return f"text={config.text} pair={config.pair} target={config.target}"

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """One text or pair: `token_ids`, `segment_ids`, `token_types` int32 `(length,)`; `target` float32
        `(targets,)`, as they are given."""
        (record,) = records
        numbers = [record[f"target_{number}"] for number in range(len(self._config.target))]
        return {**self.text_row(record), "target": np.array(numbers, np.float32)}

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Mean squared error over the targets, standardized where that is asked for, one weight for each row."""
        target = (batch["target"] - self._mean) / self._deviation
        losses = jnp.square(self.logits(apply, batch)[:, 0] - target).mean(-1)
        weights = batch["row_weight"]
        return StreamLoss((losses * weights).sum(), weights.sum(), count_tokens(batch["segment_ids"]), {})

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`predicted` and `target` float32 `(batch, targets)`, in the targets' own units."""
        return {
            "predicted": self.logits(apply, batch)[:, 0] * self._deviation + self._mean,
            "target": batch["target"],
        }

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """A number for each target, under its name."""
        return [
            {name: round(float(number), 6) for name, number in zip(self._config.target, numbers, strict=True)}
            for numbers in outputs["predicted"]
        ]


def _values(numbers: Iterable[float]) -> dict[str, float]:
    return {f"target_{i}": number for i, number in enumerate(numbers)}
