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

    They are split between two sentences, and a piece of a single sentence in its middle.
    """

    def pair(self, record: Record, key: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Both segments, and whether they were swapped."""
        tokens, ends = record[TOKENS], sentence_ends(record)
        split = int(ends[key.integers(len(ends) - 1)]) if len(ends) > 1 else (len(tokens) + 1) // 2
        if len(tokens) == 1 or key.random() < 0.5:
            return tokens[:split], tokens[split:], 0
        return tokens[split:], tokens[:split], 1
