"""Classification of a text, or of a pair of texts, into any number of labels at once."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, required_column
from jaxft.data.store import Fields, Record
from jaxft.errors import DataError, InvalidField
from jaxft.kernels.cross_entropy import binary_cross_entropy
from jaxft.objectives.config import LabelConfig, TextPairConfig
from jaxft.objectives.label_loss import (
    Label,
    as_label,
    binary_disagreement,
    check_labels,
    check_weights,
    number_of,
    sorted_labels,
)
from jaxft.objectives.mixup import draw_mixing
from jaxft.objectives.objective import Apply, FoundInData, ObjectiveContext, Ratio, StreamLoss, count_tokens
from jaxft.objectives.shown import ShownRow
from jaxft.objectives.text_task import TextTask, check_shares

_LABELS = "label_numbers"


@dataclasses.dataclass(frozen=True)
class MultiLabelClassificationConfig(FoundInData, TextPairConfig, LabelConfig):
    """Multi-label classification in a recipe.

    Attributes:
      text: column with the text.
      pair: column with a second text, or None.
      label: column with a list of labels, which may be empty.
      labels: all labels in the order of their ids; found in the training data where None.
      threshold: probability from which a label is predicted.
      positive_weights: of the loss of each label where it holds, while training; `balanced` weighs them as the examples
        where it does not hold.
      r_drop: weight of the divergence between two passes with different dropout (R-Drop), which costs a second pass;
        0 for none.
      mixup: parameter of the Beta distribution by which two examples and their labels are mixed while training, 0.2 for
        instance; 0 for none.
      length: tokens of a row, special tokens included, longer texts are cut; the model's `max_length` where None.
      pooling: a text's vector is that of its first or last token or the mean over its tokens; the one that the
        model's architecture has where None.
      dropout: rate before the last projection.
    """

    problem_type = "multi_label_classification"

    kind: Literal["multi_label_classification"] = "multi_label_classification"
    text: str = "text"
    pair: str | None = None
    label: str = "labels"
    labels: tuple[str, ...] | None = None
    threshold: float = 0.5
    positive_weights: Literal["balanced"] | dict[Label, float] | None = None
    r_drop: float = 0.0
    mixup: float = 0.0
    length: int | None = None
    pooling: Literal["first", "last", "mean"] | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_labels(self.labels)
        check_shares(self, "dropout")
        check_weights("positive_weights", self.positive_weights, self.labels)
        if not 0 < self.threshold < 1:
            raise InvalidField("threshold", f"must lie between 0 and 1, found {self.threshold}")
        for name in ("r_drop", "mixup"):
            if getattr(self, name) < 0:
                raise InvalidField(name, f"must not be negative, found {getattr(self, name)}")

    @property
    def is_complete(self) -> bool:
        """Whether labels and weights are known."""
        return self.labels is not None and self.positive_weights != "balanced"

    def target_of(self, row: Row) -> tuple[str, ...]:
        """The labels of a row."""
        found = required_column(row, self.label)
        if not isinstance(found, (list, tuple)):
            problem = f"column {self.label!r} must hold a list of labels, found {found!r}"
            raise DataError(f"{row.location}: {problem}", "not_a_list")
        labels = tuple(as_label(one, row, self.label) for one in found)
        if len(set(labels)) < len(labels):
            raise DataError(f"{row.location}: column {self.label!r} holds a label twice: {found!r}", "label_twice")
        return labels

    def completed(self, targets: Iterable[tuple[str, ...]], where: str) -> MultiLabelClassificationConfig:
        """With all labels, and their weights."""
        targets = list(targets)
        labels = self.labels or sorted_labels((one for own in targets for one in own), self.label, where)
        weights = self.positive_weights
        if weights == "balanced":
            counts = Counter(one for own in targets for one in own)
            weights = {Label(one): round(max(len(targets) - counts[one], 1) / max(counts[one], 1), 6) for one in labels}
        return dataclasses.replace(self, labels=labels, positive_weights=weights)

    def specimen(self, text: str, number: int) -> dict[str, Any]:
        """With every label."""
        return {**super().specimen(text, number), self.label: list(self.specimen_labels())}


class MultiLabelClassification(TextTask):
    """Says of each label whether it holds."""

    metrics = (
        "loss", "micro_f1", "macro_f1", "samples_f1", "subset_accuracy", "hamming_loss", "accuracy", "roc_auc",
        "average_precision",
    )  # fmt: skip
    default_metrics = metrics[:7]
    lower_is_better = frozenset({"loss", "hamming_loss"})

    def __init__(self, config: MultiLabelClassificationConfig, context: ObjectiveContext):
        self.labels = config.label_names()
        super().__init__(config, context, len(self.labels))
        self._ids = {label: number for number, label in enumerate(self.labels)}

    @property
    def threshold(self) -> float:
        """Probability from which a label is predicted."""
        return self._config.threshold

    def fields(self, row: Row) -> Fields:
        """The texts, and the numbers of the labels."""
        numbers = [number_of(label, self._ids, row) for label in self._config.target_of(row)]
        return Fields(self.texts(row), {_LABELS: np.array(numbers, np.int32)})

    def unlabelled_fields(self, row: Row) -> Fields:
        """The texts of a row that is to be predicted."""
        return Fields(self.texts(row), {_LABELS: np.zeros(0, np.int32)})

    def record_options(self) -> str:
        """The columns and the labels."""
        config = self._config
        return f"text={config.text} pair={config.pair} label={config.label} labels={self.labels}"

    def for_evaluation(self) -> MultiLabelClassification:
        """With the plain cross entropy, so that losses compare."""
        config = dataclasses.replace(self._config, positive_weights=None, r_drop=0.0, mixup=0.0)
        return MultiLabelClassification(config, self._context)

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """One text or pair: `token_ids`, `segment_ids`, `token_types` int32 `(length,)`; `label` float32 `(labels,)`, 1
        where it holds."""
        (record,) = records
        holds = np.zeros(len(self.labels), np.float32)
        holds[record[_LABELS]] = 1.0
        return {**self.text_row(record), "label": holds}

    def shown(self, row: Batch) -> ShownRow:
        """The text and the names of the labels that hold."""
        holding = [self.labels[number] for number in np.flatnonzero(row["label"])]
        return ShownRow(super().shown(row).parts, holding)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Mean over the labels of the cross entropy of yes and no, one weight for each row.

        `accuracy` is the share of all labels that are guessed right.
        """
        config, weights = self._config, batch["row_weight"]
        positive: jax.Array | float = 1.0
        if config.positive_weights is not None:
            positive = jnp.array([config.positive_weights[name] for name in self.labels], jnp.float32)
        logits, label = self.logits(apply, batch, views=2 if config.r_drop else 1), batch["label"]
        hits = ((jax.nn.sigmoid(logits[:, 0]) >= config.threshold) == (label > 0)).mean(-1)
        accuracy = Ratio((hits * weights).sum(), weights.sum())
        if config.mixup and apply.key is not None:
            mixing = draw_mixing(apply.key, config.mixup, len(label))
            logits, label = mixing(logits), mixing(label)
        losses = binary_cross_entropy(logits, label[:, None], positive).mean((1, 2))
        if config.r_drop:
            losses += config.r_drop * binary_disagreement(logits)
        tokens = count_tokens(batch["segment_ids"])
        return StreamLoss((losses * weights).sum(), weights.sum(), tokens, {"accuracy": accuracy})

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`logits` and `label` float32 `(batch, labels)`."""
        return {"logits": self.logits(apply, batch)[:, 0], "label": batch["label"]}

    def predictions(self, records: Sequence[Record], outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """The `labels` from the threshold on, and the `probabilities` of all."""
        predicted = []
        for logits in outputs["logits"]:
            probabilities = {
                label: round(float(p), 6) for label, p in zip(self.labels, jax.nn.sigmoid(logits), strict=True)
            }
            chosen = [label for label, p in probabilities.items() if p >= self._config.threshold]
            predicted.append({"labels": chosen, "probabilities": probabilities})
        return predicted
