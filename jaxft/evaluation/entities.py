"""Metrics of named entities: an entity is right where its type, its first and its last word are.

Those of conlleval (Tjong Kim Sang and Buchholz 2000).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxft.data.tags import TagSet
from jaxft.evaluation.paired import check_paired


def entity_counts(
    references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], tag_set: TagSet
) -> np.ndarray:
    """How many entities are right, predicted and there.

    Args:
      references: the right tags of each sentence.
      predictions: as many tags.
      tag_set: all tags.

    Returns:
      int64 `(sentences, types, 3)`: entities that are right, predicted, and in the reference.

    Raises:
      DataError: sentences, or tags of one, of different number.
    """
    check_paired(references, predictions)
    for reference, predicted in zip(references, predictions, strict=True):
        check_paired(reference, predicted, "tags of a sentence")
    numbers = {label: number for number, label in enumerate(tag_set.labels)}
    # Sentences one after the other, with a place between them that no entity crosses.
    starts = np.cumsum([0, *(len(tags) + 1 for tags in references)])
    found = [
        tag_set.entities(np.array([number for tags in side for number in (*map(numbers.__getitem__, tags), -1)], int))
        for side in (references, predictions)
    ]
    right = _common(*found)
    counts = np.zeros((len(references), len(tag_set.types), 3), np.int64)
    for column, entities in enumerate((right, found[1], found[0])):
        sentences = np.searchsorted(starts, entities[:, 1], side="right") - 1
        np.add.at(counts[..., column], (sentences, entities[:, 0]), 1)
    return counts


def _common(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rows that both have."""
    known = set(map(tuple, first.tolist()))
    return second[[tuple(row) in known for row in second.tolist()]] if len(second) else second


def precision_recall_f1(counts: np.ndarray) -> np.ndarray:
    """Precision, recall and F1, float `(..., 3)`, each 0 where it has nothing to count.

    Args:
      counts: int `(..., 3)`: right, predicted, there.
    """
    right, predicted, there = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    pairs = ((right, predicted), (right, there), (2 * right, predicted + there))
    return np.stack([np.divide(top, below, out=np.zeros_like(top), where=below > 0) for top, below in pairs], -1)


def macro_f1(counts: np.ndarray) -> float:
    """Plain mean of the F1 of the types that occur in the reference.

    Args:
      counts: int `(types, 3)`.
    """
    there = counts[:, 2] > 0
    return float(precision_recall_f1(counts)[there, 2].mean()) if there.any() else 0.0


def entity_report(counts: np.ndarray, types: Sequence[str]) -> list[dict[str, float | int | str]]:
    """Precision, recall, F1 and numbers of each type.

    Args:
      counts: int `(types, 3)`.
      types: their names.
    """
    return [
        {
            "type": kind,
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "right": int(own[0]),
            "predicted": int(own[1]),
            "there": int(own[2]),
        }
        for kind, own, (precision, recall, f1) in zip(types, counts, precision_recall_f1(counts), strict=True)
    ]
