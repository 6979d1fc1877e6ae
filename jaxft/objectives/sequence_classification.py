"""Classification of a text, or of a pair of texts, into one of several labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, required_column
from jaxft.data.store import Fields, Record
from jaxft.errors import InvalidField
from jaxft.kernels.cross_entropy import cross_entropy, is_first
from jaxft.kernels.shapes import Array
from jaxft.objectives.config import LabelConfig, TextPairConfig
from jaxft.objectives.label_loss import (
    DEFAULT_LABEL_METRICS,
    LABEL_METRICS,
    LOWER_IS_BETTER,
    Label,
    as_label,
    balanced_weights,
    check_labels,
    check_weights,
    disagreement,
    number_of,
    sorted_labels,
)
from jaxft.objectives.mixup import draw_mixing
from jaxft.objectives.objective import Apply, FoundInData, ObjectiveContext, Ratio, StreamLoss, count_tokens
from jaxft.objectives.shown import ShownRow
from jaxft.objectives.text_task import TextTask, check_shares


@dataclasses.dataclass(frozen=True)
class SequenceClassificationConfig(FoundInData, TextPairConfig, LabelConfig):
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
      class_weights: of the loss of each label's examples while training; `balanced` lets all labels count alike.
      focal_gamma: power by which what is known already counts less while training (focal loss); 0 for none.
      r_drop: weight of the divergence between two passes with different dropout (R-Drop), which costs a second pass;
        0 for none.
      mixup: parameter of the Beta distribution by which two examples and their labels are mixed while training, 0.2 for
        instance; 0 for none.
    """

    problem_type = "single_label_classification"

    kind: Literal["sequence_classification"] = "sequence_classification"
    text: str = "text"
    pair: str | None = None
    label: str = "label"
    labels: tuple[str, ...] | None = None
    length: int | None = None
    pooling: Literal["first", "last", "mean"] | None = None
    dropout: float = 0.1
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | dict[Label, float] | None = None
    focal_gamma: float = 0.0
    r_drop: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        check_labels(self.labels)
        check_shares(self, "dropout", "label_smoothing")
        check_weights("class_weights", self.class_weights, self.labels)
        for name in ("focal_gamma", "r_drop", "mixup"):
            if getattr(self, name) < 0:
                raise InvalidField(name, f"must not be negative, found {getattr(self, name)}")

    @property
    def is_complete(self) -> bool:
        """Whether labels and weights are known."""
        return self.labels is not None and self.class_weights != "balanced"

    def target_of(self, row: Row) -> str:
        """The label of a row."""
        return label_text(row, self.label)

    def completed(self, targets: Iterable[str], where: str) -> SequenceClassificationConfig:
        """With all labels, and their weights."""
        targets = list(targets)
        labels = self.labels or sorted_labels(targets, self.label, where)
        weights = balanced_weights(labels, targets) if self.class_weights == "balanced" else self.class_weights
        return dataclasses.replace(self, labels=labels, class_weights=weights)

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """With a label."""
        labels = self.specimen_labels()
        return {**super().specimen(text, number), self.label: labels[number % len(labels)]}


def label_text(row: Row, column: str) -> str:
    """The label of a row as text.

    Raises:
      DataError: the column is missing, or its value is neither text nor a whole number nor true or false.
    """
    return as_label(required_column(row, column), row, column)


class SequenceClassification(TextTask):
    """Predicts one label for each text."""

    metrics = LABEL_METRICS
    default_metrics = DEFAULT_LABEL_METRICS
    lower_is_better = LOWER_IS_BETTER

    def __init__(self, config: SequenceClassificationConfig, context: ObjectiveContext):
        self.labels = config.label_names()
        super().__init__(config, context, len(self.labels))
        self._ids = {label: number for number, label in enumerate(self.labels)}

    def fields(self, row: Row) -> Fields:
        """The texts, and the number of the label."""
        return Fields(self.texts(row), {"label": number_of(self._config.target_of(row), self._ids, row)})

    def unlabelled_fields(self, row: Row) -> Fields:
        """The texts of a row that is to be predicted."""
        return Fields(self.texts(row), {"label": 0})

    def record_options(self) -> str:
        """The columns and the labels."""
        config = self._config
        return f"text={config.text} pair={config.pair} label={config.label} labels={self.labels}"

    def for_evaluation(self) -> SequenceClassification:
        """With the plain cross entropy, so that losses compare."""
        plain = {"label_smoothing": 0.0, "class_weights": None, "focal_gamma": 0.0, "r_drop": 0.0, "mixup": 0.0}
        return SequenceClassification(dataclasses.replace(self._config, **plain), self._context)

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """One text or pair: `token_ids`, `segment_ids`, `token_types` int32 `(length,)` and `label` int32 `()`."""
        (record,) = records
        return {**self.text_row(record), "label": np.array(record["label"], np.int32)}

    def shown(self, row: Batch) -> ShownRow:
        """The text and the label's name."""
        return ShownRow(super().shown(row).parts, self.labels[int(row["label"])])

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the labels, one weight for each row."""
        config, label, weights = self._config, batch["label"], batch["row_weight"]
        logits = self.logits(apply, batch, views=2 if config.r_drop else 1)
        accuracy = Ratio((is_first(logits[:, 0], label) * weights).sum(), weights.sum())
        if config.mixup and apply.key is not None:
            mixing = draw_mixing(apply.key, config.mixup, len(label))
            logits = mixing(logits)
            own, other = (self._weighted(logits, one) for one in (label, label[mixing.partner]))
            losses, by_label = (mixing(first, second) for first, second in zip(own, other, strict=True))
        else:
            losses, by_label = self._weighted(logits, label)
        if config.r_drop:
            losses += config.r_drop * disagreement(logits) * by_label
        tokens = count_tokens(batch["segment_ids"])
        return StreamLoss((losses * weights).sum(), (by_label * weights).sum(), tokens, {"accuracy": accuracy})

    def _weighted(
        self, logits: Float[Array, "batch views labels"], label: Int[Array, " batch"]
    ) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
        """Losses `(batch,)` of logits `(batch, views, labels)`, times the weights of their labels, and these."""
        config = self._config
        labels = jnp.broadcast_to(label[:, None], logits.shape[:2])
        losses = cross_entropy(
            logits, labels, label_smoothing=config.label_smoothing, focal_gamma=config.focal_gamma
        ).mean(1)
        if config.class_weights is None:
            return losses, jnp.ones(len(label), jnp.float32)
        by_label = jnp.array([config.class_weights[name] for name in self.labels], jnp.float32)[label]
        return losses * by_label, by_label

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`logits` float32 `(batch, labels)` and `label` int32 `(batch,)`."""
        return {"logits": self.logits(apply, batch)[:, 0], "label": batch["label"]}

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """`label`, and the `probabilities` of all labels."""
        return [label_and_probabilities(logits, self.labels) for logits in outputs["logits"]]


def label_and_probabilities(logits: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """`label`, the likeliest, and the `probabilities` of all labels.

    Args:
      logits: float `(labels,)`.
      labels: their names.
    """
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    shown = {label: round(float(p), 6) for label, p in zip(labels, probabilities, strict=True)}
    return {"label": labels[int(logits.argmax())], "probabilities": shown}
