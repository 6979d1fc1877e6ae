"""Which of several choices goes with a text: the end of a story, the answer to a question (SWAG, ARC)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, required_column, text_column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.errors import DataError, InvalidField
from jaxft.kernels.cross_entropy import cross_entropy, is_first
from jaxft.kernels.shapes import Array
from jaxft.objectives.config import ObjectiveConfig
from jaxft.objectives.objective import Apply, FoundInData, ObjectiveContext, Ratio, StreamLoss, count_tokens
from jaxft.objectives.shown import ShownRow, side_tokens
from jaxft.objectives.text_task import TextTask, check_shares, lay_pair

# So small that its probability is 0, and yet finite.
_NEVER = -1e9


@dataclasses.dataclass(frozen=True)
class MultipleChoiceConfig(FoundInData, ObjectiveConfig):
    """Multiple choice in a recipe.

    Attributes:
      text: column with the text that all choices go with.
      question: column with a text that stands before each choice, or None.
      choices: the column with a list of choices, or one column for each.
      label: column with the right choice: its number, counted from 0, or its text.
      most: choices that a row can have; found in the training data where None.
      length: tokens of a text with a choice, special tokens included, the longer of the two is cut; the model's
        `max_length` where None.
      pooling: a text's vector is that of its first or last token or the mean over its tokens; the one that the
        model's architecture has where None.
      dropout: rate before the last projection.
    """

    kind: Literal["multiple_choice"] = "multiple_choice"
    text: str = "text"
    question: str | None = None
    choices: tuple[str, ...] = ("choices",)
    label: str = "label"
    most: int | None = None
    length: int | None = None
    pooling: Literal["first", "last", "mean"] | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_shares(self, "dropout")
        if not self.choices or len(set(self.choices)) < len(self.choices):
            raise InvalidField("choices", f"must be one or several different columns, found {list(self.choices)}")
        if self.most is not None and self.most < max(2, len(self.choices)):
            raise InvalidField("most", f"must be at least {max(2, len(self.choices))}, found {self.most}")

    def text_columns(self) -> tuple[str, ...]:
        """The text, the question and the choices."""
        return (self.text, *(() if self.question is None else (self.question,)), *self.choices)

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """With choices of which the first one is right."""
        row = {**super().specimen(text, number), self.label: 0}
        if len(self.choices) == 1:
            row[self.choices[0]] = [f"{choice} {text}" for choice in range(self.most or 2)]
        return row

    @property
    def is_complete(self) -> bool:
        """Whether it is known how many choices there are at most."""
        return self.most is not None

    def target_of(self, row: Row) -> int:
        """How many choices a row has."""
        return len(self.choices_of(row))

    def completed(self, targets: Iterable[int], where: str) -> MultipleChoiceConfig:
        """With the largest number of choices."""
        most = max(targets, default=0)
        if not most:
            raise DataError(f"{where}: no examples")
        return dataclasses.replace(self, most=most)

    def choices_of(self, row: Row) -> tuple[str, ...]:
        """The choices of a row.

        Raises:
          DataError: there is no list, or there are fewer than two choices, or more than `most`.
        """
        if len(self.choices) > 1:
            return tuple(text_column(row, column) for column in self.choices)
        (column,) = self.choices
        found = required_column(row, column)
        if not isinstance(found, (list, tuple)):
            raise DataError(
                f"{row.location}: column {column!r} must hold a list of choices, found {found!r}", "no_list"
            )
        if len(found) < 2:
            problem = f"column {column!r} must hold at least two choices, found {list(found)!r}"
            raise DataError(f"{row.location}: {problem}", "one_choice")
        if self.most is not None and len(found) > self.most:
            problem = f"column {column!r} holds {len(found)} choices; training has at most {self.most}"
            raise DataError(f"{row.location}: {problem} (objective.most)", "many_choices")
        # Each is checked as a column would be.
        return tuple(
            text_column(Row({f"{column}[{i}]": one}, row.location), f"{column}[{i}]") for i, one in enumerate(found)
        )


class MultipleChoice(TextTask):
    """Reads the text with each of its choices, which then compete."""

    augmentable = False
    metrics = ("loss", "accuracy")
    default_metrics = metrics

    def __init__(self, config: MultipleChoiceConfig, context: ObjectiveContext):
        super().__init__(config, context, 1, "multiple_choice")

    def fields(self, row: Row) -> Fields:
        """The text, all choices, and the number of the right one."""
        fields = self.unlabelled_fields(row)
        return dataclasses.replace(fields, values={**fields.values, "label": self._label(row)})

    def unlabelled_fields(self, row: Row) -> Fields:
        """The text and its choices."""
        config = self._config
        choices = config.choices_of(row)
        before = "" if config.question is None else f"{text_column(row, config.question)} "
        texts = {TOKENS: text_column(row, config.text)}
        for number in range(config.most):
            texts[f"choice_{number}"] = f"{before}{choices[number]}" if number < len(choices) else ""
        return Fields(texts, {"choices": len(choices), "label": 0})

    def _label(self, row: Row) -> int:
        choices, label = self._config.choices_of(row), required_column(row, self._config.label)
        if isinstance(label, str) and choices.count(label) == 1:
            return choices.index(label)
        number = int(label) if isinstance(label, str) and label.strip().isdecimal() else label
        if type(number) is int and 0 <= number < len(choices):
            return number
        problem = (
            f"column {self._config.label!r} must hold the number of a choice, 0 to {len(choices) - 1}, or its text"
        )
        raise DataError(f"{row.location}: {problem}; found {label!r}", "not_a_choice")

    def record_options(self) -> str:
        """The columns and the number of choices."""
        config = self._config
        columns = f"text={config.text} question={config.question} choices={config.choices} label={config.label}"
        return f"{columns} most={config.most}"

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """The text with each choice: `token_ids`, `segment_ids`, `token_types` int32 `(choices, length)`; `choices` and
        `label` int32 `()`."""
        (record,) = records
        # Places without a choice hold the text alone; what is made of them is left out.
        pairs = [
            lay_pair(record[TOKENS], record[f"choice_{number}"], self.length, self.tokenizer)
            for number in range(self._config.most)
        ]
        numbers = {name: np.array(record[name], np.int32) for name in ("choices", "label")}
        stacked = {name: np.stack([pair[name] for pair in pairs]) for name in pairs[0]}
        return {**stacked, **numbers}

    def shown(self, row: Batch) -> ShownRow:
        """The text with each of its choices, and the number of the right one, counted from 0."""
        choices = {name: row[name][: int(row["choices"])] for name in ("token_ids", "segment_ids")}
        return ShownRow(side_tokens(choices, self.tokenizer), int(row["label"]))

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the right choice, one weight for each row."""
        logits, weights = self._scores(apply, batch), batch["row_weight"]
        losses, hits = cross_entropy(logits, batch["label"]), is_first(logits, batch["label"])
        accuracy = Ratio((hits * weights).sum(), weights.sum())
        tokens = count_tokens(jnp.where(_there(batch)[..., None], batch["segment_ids"], 0))
        return StreamLoss((losses * weights).sum(), weights.sum(), tokens, {"accuracy": accuracy})

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`logits` float32 `(batch, choices)` and `label` int32 `(batch,)`."""
        return {"logits": self._scores(apply, batch), "label": batch["label"]}

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """`label`, the number of the likeliest choice, and the `probabilities` of all."""
        predictions = []
        for record, logits in zip(records, outputs["logits"], strict=True):
            probabilities = np.exp(logits[: record["choices"]] - logits.max())
            probabilities /= probabilities.sum()
            shown = [round(float(p), 6) for p in probabilities]
            predictions.append({"label": int(logits.argmax()), "probabilities": shown})
        return predictions

    def _scores(self, apply: Apply, batch: Mapping[str, jax.Array]) -> Float[Array, "batch choices"]:
        rows = {name: batch[name].reshape(-1, self.length) for name in ("token_ids", "segment_ids", "token_types")}
        scores = self.logits(apply, rows).reshape(batch["token_ids"].shape[:2])
        return jnp.where(_there(batch), scores, _NEVER)


def _there(batch: Mapping[str, jax.Array]) -> Bool[Array, "batch choices"]:
    """Which of the places hold a choice, bool `(batch, choices)`."""
    return jnp.arange(batch["token_ids"].shape[1]) < batch["choices"][:, None]
