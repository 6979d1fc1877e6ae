"""Classification of a text, or of a pair of texts, into one of several labels."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, required_column, text_column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.errors import DataError, InvalidField, RecipeError
from jaxft.kernels.cross_entropy import cross_entropy, is_first
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.objective import Apply, Objective, Ratio, Setting, StreamLoss, count_tokens
from jaxft.objectives.rows import cut_longest, enclose, lay, lay_out

_PAIR = "pair"


@dataclasses.dataclass(frozen=True)
class SequenceClassificationConfig:
    """Sequence classification in a recipe.

    Attributes:
      text: column with the text.
      pair: column with a second text, or None.
      label: column with the label: text or a whole number.
      labels: all labels in the order of their ids; found in the training data where None.
      length: tokens of a row, special tokens included, longer texts are cut; the model's `max_length` where None.
      pooling: a text's vector is that of its first or last token or the mean over its tokens; the one that the
        model's architecture has where None.
      dropout: rate before the last projection.
      label_smoothing: share of the target that is spread over all labels while training.
    """

    kind: Literal["sequence_classification"] = "sequence_classification"
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    labels: tuple[str, ...] | None = None
    length: int | None = None
    pooling: Literal["first", "last", "mean"] | None = None
    dropout: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self):
        if self.labels is not None and (len(self.labels) < 2 or len(set(self.labels)) < len(self.labels)):
            raise InvalidField("labels", f"must be at least two different labels, found {list(self.labels)}")
        for name in ("dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidField(name, f"must be in [0, 1), found {getattr(self, name)}")


def label_text(row: Row, column: str) -> str:
    """The label of a row as text.

    Raises:
      DataError: the column is missing, or its value is neither text nor a whole number nor true or false.
    """
    label = required_column(row, column)
    if isinstance(label, (str, int)) and label != "":
        return str(label)
    problem = f"{row.location}: column {column!r} must hold a label (text or a whole number), found {label!r}"
    raise DataError(problem, "not_a_label")


def find_labels(rows: Iterable[Row], column: str, said: str) -> tuple[str, ...]:
    """All labels of a source, sorted: as numbers where all are.

    Raises:
      DataError: fewer than two labels.
    """
    labels = {label_text(row, column) for row in rows}
    if len(labels) < 2:
        found = f"only the label {labels.pop()!r}" if labels else "no examples"
        raise DataError(f"{said}: column {column!r} holds {found}; a classifier needs at least two labels")
    if all(re.fullmatch("-?[0-9]+", label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))  # `01` and `1` are two labels
    return tuple(sorted(labels))


class SequenceClassification(Objective):
    """Predicts one label for each text."""

    families = frozenset({"encoder", "decoder"})
    pack = False
    truncate = True
    augmentable = True
    predicts = True
    metrics = ("loss", "accuracy", "macro_f1", "micro_f1", "precision", "recall", "confusion_matrix", "f1")
    default_metrics = metrics[:-1]
    lower_is_better = frozenset({"loss"})

    def __init__(self, config: SequenceClassificationConfig, setting: Setting):
        head = HeadConfig("sequence_classification", len(config.labels), config.pooling, dropout=config.dropout)
        super().__init__(config.kind, setting, config.length, {setting.stream: head})
        if setting.tokenizer.start_id is None and setting.model.family == "encoder":
            raise RecipeError(f"objective {config.kind}: this tokenizer has no start token (CLS or BOS)")
        self._config, self._setting, self.labels = config, setting, config.labels
        self.overhead = 1 + (setting.tokenizer.start_id is not None)
        self._ids = {label: number for number, label in enumerate(self.labels)}

    def fields(self, row: Row) -> Fields:
        """The texts, and the number of the label."""
        label = label_text(row, self._config.label)
        if label not in self._ids:
            near = difflib.get_close_matches(label, self.labels, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(map(repr, self.labels[:20]))
            raise DataError(
                f"{row.location}: label {label!r} was not seen in training, which has {known}{hint}", "unknown_label"
            )
        return Fields(self._texts(row), {"label": self._ids[label]})

    def unlabelled_fields(self, row: Row) -> Fields:
        """The texts of a row that is to be predicted."""
        return Fields(self._texts(row), {"label": 0})

    def _texts(self, row: Row) -> dict[str, str]:
        texts = {TOKENS: text_column(row, self._config.text)}
        if self._config.pair is not None:
            texts[_PAIR] = text_column(row, self._config.pair)
        return texts

    def record_options(self) -> str:
        """The columns and the labels."""
        config = self._config
        return f"text={config.text} pair={config.pair} label={config.label} labels={self.labels}"

    def for_evaluation(self) -> SequenceClassification:
        """Without label smoothing, so that losses compare."""
        config = dataclasses.replace(self._config, label_smoothing=0.0)
        return SequenceClassification(config, self._setting)

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """One text or pair: `token_ids`, `segment_ids`, `token_types` int32 `(length,)` and `label` int32 `()`."""
        (record,), tokenizer = records, self.tokenizer
        tokens, pair = record[TOKENS], record.get(_PAIR)
        if pair is not None:
            tokens, pair = cut_longest(tokens, pair, self.longest - 1)
        pieces = [enclose(tokenizer.start_id, tokens, tokenizer.separator_id)]
        if pair is not None:
            pieces.append(enclose(None, pair, tokenizer.separator_id))
        types = lay([np.full(len(piece), number) for number, piece in enumerate(pieces)], self.length)
        row = lay_out([np.concatenate(pieces)], self.length, tokenizer.pad_id)
        del row["positions"]
        return {**row, "token_types": types, "label": np.int32(record["label"])}

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the labels, one weight for each row."""
        logits, weights = self._logits(apply, batch), batch["row_weight"]
        losses = cross_entropy(logits, batch["label"], label_smoothing=self._config.label_smoothing)
        hits = is_first(logits, batch["label"])
        tokens, accuracy = count_tokens(batch["segment_ids"]), Ratio((hits * weights).sum(), weights.sum())
        return StreamLoss((losses * weights).sum(), weights.sum(), tokens, {"accuracy": accuracy})

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`logits` float32 `(batch, labels)` and `label` int32 `(batch,)`."""
        return {"logits": self._logits(apply, batch), "label": batch["label"]}

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """`label`, and the `probabilities` of all labels."""
        found = []
        for logits in outputs["logits"]:
            probabilities = np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
            shown = {label: round(float(p), 6) for label, p in zip(self.labels, probabilities, strict=True)}
            found.append({"label": self.labels[int(logits.argmax())], "probabilities": shown})
        return found

    def _logits(self, apply: Apply, batch: Mapping[str, jax.Array]) -> jax.Array:
        sequences = Sequences(batch["token_ids"], batch["segment_ids"], token_types=batch["token_types"])
        return apply(sequences, head=self.head_name).logits
