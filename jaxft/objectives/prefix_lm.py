"""Prefix language modelling (Raffel et al. 2019, arXiv 1910.10683; Dong et al. 2019, arXiv 1905.03197)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.store import TOKENS, Record
from jaxft.models.transformer import Sequences
from jaxft.objectives.causal_lm import CausalLM
from jaxft.objectives.config import TextConfig
from jaxft.objectives.rows import lay


@dataclasses.dataclass(frozen=True)
class PrefixLMConfig(TextConfig):
    """Prefix language modelling in a recipe.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of a row; the model's `max_length` where None.
    """

    kind: Literal["prefix_lm"] = "prefix_lm"
    text: str = "text"
    length: int | None = None


class PrefixLM(CausalLM):
    """Reads a random beginning of each piece in both directions, and predicts the rest of it from left to right.

    The beginning is uniformly long, from one token to all but one; a piece of one token is predicted whole.
    """

    families = frozenset({"decoder"})
    metrics = default_metrics = ("loss", "perplexity", "accuracy")

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """As that of `CausalLM`, with `prefix` bool `(length,)`."""
        weights, prefixes = [], []
        for record, key in zip(records, keys, strict=True):
            size = len(record[TOKENS])
            read = self.overhead + (int(key.integers(1, size)) if size > 1 else 0)
            places = np.arange(size + self.overhead)
            # The last place of the prefix predicts the first token after it.
            weights.append(np.where(places >= read - 1, self._weights(record, key), 0))
            prefixes.append(places < read)
        return {**self._row(records, weights), "prefix": lay(prefixes, self.length, dtype=bool)}

    def sequences(self, batch: Mapping[str, jax.Array]) -> Sequences:
        """What the model reads: the prefix in both directions."""
        return super().sequences(batch).replace(prefix=batch["prefix"])
