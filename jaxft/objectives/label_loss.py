"""What classifiers share: labels found in the data, their weights, and the agreement of two views (R-Drop)."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NewType

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxft.data.sources import Row
from jaxft.errors import DataError, InvalidField
from jaxft.kernels.cross_entropy import symmetric_divergence
from jaxft.kernels.shapes import Array

# Of one label of several, and those of them that are reported where a recipe names none.
LABEL_METRICS = (
    "loss", "accuracy", "macro_f1", "micro_f1", "precision", "recall", "confusion_matrix", "f1", "balanced_accuracy",
    "weighted_precision", "weighted_recall", "weighted_f1", "matthews", "roc_auc", "average_precision",
    "expected_calibration_error", "brier",
)  # fmt: skip
DEFAULT_LABEL_METRICS = LABEL_METRICS[:7]
LOWER_IS_BETTER = frozenset({"loss", "expected_calibration_error", "brier"})
# Of the data's own, so it may be any text.
Label = NewType("Label", str)


def as_label(value: object, row: Row, column: str) -> str:
    """A label as text.

    Raises:
      DataError: it is neither text nor a whole number nor true or false.
    """
    if isinstance(value, (str, int)) and value != "":
        return str(value)
    problem = f"{row.location}: column {column!r} must hold a label (text or a whole number), found {value!r}"
    raise DataError(problem, "not_a_label")


def sorted_labels(labels: Iterable[str], column: str, where: str) -> tuple[str, ...]:
    """All different labels, sorted: as numbers where all are.

    Raises:
      DataError: fewer than two labels.
    """
    found = set(labels)
    if len(found) < 2:
        only = f"only the label {found.pop()!r}" if found else "no examples"
        raise DataError(f"{where}: column {column!r} holds {only}; a classifier needs at least two labels")
    if all(re.fullmatch("-?[0-9]+", label) for label in found):
        return tuple(sorted(found, key=lambda label: (int(label), label)))  # `01` and `1` are two labels
    return tuple(sorted(found))


def number_of(label: str, labels: Mapping[str, int], row: Row) -> int:
    """The id of a label.

    Raises:
      DataError: training has no such label.
    """
    if label in labels:
        return labels[label]
    near = difflib.get_close_matches(label, labels, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    known = ", ".join(map(repr, list(labels)[:20]))
    raise DataError(
        f"{row.location}: label {label!r} was not seen in training, which has {known}{hint}", "unknown_label"
    )


def check_labels(labels: Sequence[str] | None) -> None:
    """Makes sure that labels differ.

    Raises:
      InvalidField: fewer than two, or one of them twice.
    """
    if labels is not None and (len(labels) < 2 or len(set(labels)) < len(labels)):
        raise InvalidField("labels", f"must be at least two different labels, found {list(labels)}")


def check_weights(name: str, weights: object, labels: Sequence[str] | None) -> None:
    """Makes sure that weights by label are positive numbers, one for each label that is known.

    Raises:
      InvalidField: they are not.
    """
    if not isinstance(weights, Mapping):
        return
    for label, weight in weights.items():
        if not weight > 0:
            raise InvalidField(f"{name}.{label}", f"must be positive, found {weight}")
    if labels is not None and set(weights) != set(labels):
        wrong = ", ".join(map(repr, sorted(set(weights) ^ set(labels))))
        raise InvalidField(name, f"must have one weight for each of {', '.join(labels)}; these do not agree: {wrong}")


def balanced_weights(labels: Sequence[str], targets: Iterable[str]) -> dict[Label, float]:
    """Weights with which all labels count alike: examples over (labels times examples of the label).

    Args:
      labels: each of them.
      targets: label of each example.
    """
    counts = Counter(targets)
    total = counts.total()
    # A label without an example never weighs anything.
    return {Label(label): round(total / (len(labels) * max(counts[label], 1)), 6) for label in labels}


def disagreement(logits: Float[Array, "batch 2 classes"]) -> Float[Array, " batch"]:
    """Symmetric divergence of the distributions of two views (R-Drop, Liang et al. 2021, arXiv 2106.14448).

    Args:
      logits: float32 `(batch, 2, classes)`.

    Returns:
      float32 `(batch,)`, in nats.
    """
    log_p = jax.nn.log_softmax(logits)
    return symmetric_divergence(log_p[:, 0], log_p[:, 1])


def binary_disagreement(logits: Float[Array, "batch 2 labels"]) -> Float[Array, " batch"]:
    """As `disagreement`, of the mean over labels that each hold or do not."""
    log_p = jnp.stack([jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)], axis=-1)
    return symmetric_divergence(log_p[:, 0], log_p[:, 1]).mean(-1)
