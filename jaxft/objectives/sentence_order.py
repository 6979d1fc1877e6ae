"""Masked language modelling with sentence-order prediction (ALBERT, Lan et al. 2019, arXiv 1909.11942)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxft.data.store import TOKENS, Record
from jaxft.objectives.next_sentence import SentencePairConfig, SentencePairs, sentence_ends


@dataclasses.dataclass(frozen=True)
class SentenceOrderConfig(SentencePairConfig):
    """Sentence-order prediction in a recipe; the fields of `SentencePairConfig`."""

    kind: Literal["sentence_order"] = "sentence_order"


class SentenceOrder(SentencePairs):
    """Are two consecutive segments in their order (0), or were they swapped (1)? Half of them are.

    They are split between two sentences, and a piece of a single sentence in its middle. Where a piece begins or ends
    within a sentence, that part of a sentence is left out: it would say which segment stood first or last.
    """

    def pair(self, record: Record, key: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Both segments, and whether they were swapped."""
        tokens, ends = whole_sentences(record)
        split = int(ends[key.integers(len(ends) - 1)]) if len(ends) > 1 else (len(tokens) + 1) // 2
        if len(tokens) == 1 or key.random() < 0.5:
            return tokens[:split], tokens[split:], 0
        return tokens[split:], tokens[:split], 1


def whole_sentences(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of the sentences that a piece holds whole, int32, and where these end; all where there is at most one.

    Args:
      record: a piece (`jaxft.data.store.cut`).
    """
    tokens, ends = record[TOKENS], sentence_ends(record)
    first, last = (0 if record.get("begins", True) else 1), len(ends) - (0 if record.get("ends", True) else 1)
    if last - first < 2:
        return tokens, ends
    start = int(ends[first - 1]) if first else 0
    return tokens[start : ends[last - 1]], ends[first:last] - start
