"""Exact match and F1 of answers in Chinese, as the scorer of CMRC 2018 has them (Cui et al. 2019)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from jaxft.evaluation.answers import scores_of_best

# What its scorer leaves out, beside spaces around a text; other punctuation is part of the answer.
_LEFT_OUT = frozenset("-:_*^/\\~`+=，。：？！“”；’《》…·、「」（）－～『』")
# A Chinese character by itself; of other scripts a number, a word, or a mark.
_PARTS = re.compile(r"[\u4e00-\u9fa5]|\d+(?:[.,]\d+)*|[^\W\d\u4e00-\u9fa5]+|[^\w\s]")


def cmrc_scores(references: Sequence[Sequence[str]], predictions: Sequence[str]) -> np.ndarray:
    """Exact match and F1 of each answer, against the best of its references.

    F1 is of the longest run of characters and words that both have, not of a bag of them.

    Args:
      references: the right answers of each question; none where it has none, whose right answer is empty.
      predictions: an answer for each.

    Returns:
      float64 `(questions, 2)`.

    Raises:
      DataError: their numbers differ.
    """
    return scores_of_best(references, predictions, _compared)


def _compared(reference: str, predicted: str) -> tuple[float, float]:
    first, second = (_kept(text) for text in (reference, predicted))
    parts = _PARTS.findall(first), _PARTS.findall(second)
    if not all(parts):
        return float(first == second), float(parts[0] == parts[1])
    return float(first == second), 2 * _longest_run(*parts) / (len(parts[0]) + len(parts[1]))


def _kept(text: str) -> str:
    return "".join(c for c in text.lower().strip() if c not in _LEFT_OUT)


def _longest_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest run that both have."""
    longest, row = 0, [0] * (len(second) + 1)
    for part in first:
        row = [0, *(row[place] + 1 if part == other else 0 for place, other in enumerate(second))]
        longest = max(longest, *row)
    return longest
