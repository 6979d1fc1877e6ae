"""Permutation language modelling with two streams of attention (XLNet, Yang et al. 2019, arXiv 1906.08237)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.store import TOKENS, Record
from jaxft.errors import InvalidField, RecipeError
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.config import TextConfig
from jaxft.objectives.language_loss import token_loss
from jaxft.objectives.objective import Apply, Objective, ObjectiveContext, ReadsText, StreamLoss, count_tokens
from jaxft.objectives.rows import enclose, lay_out, starts_of
from jaxft.objectives.shown import ShownRow, gathered_targets, shown_tokens


@dataclasses.dataclass(frozen=True)
class PermutationLMConfig(TextConfig):
    """Permutation language modelling in a recipe.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of a row, special tokens included; the model's `max_length` where None.
      target_rate: share of the tokens that are predicted; the paper predicts 85 of 512.
      longest_span: predicted tokens stand in spans of one to so many.
      identity_order: predict every token from left to right, as causal language modelling does; to compare with it.
    """

    kind: Literal["permutation_lm"] = "permutation_lm"
    text: str = "text"
    length: int | None = None
    target_rate: float = 1 / 6
    longest_span: int = 5
    identity_order: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.target_rate < 1:
            raise InvalidField("target_rate", f"must lie between 0 and 1, found {self.target_rate}")
        if self.longest_span < 1:
            raise InvalidField("longest_span", f"must be at least 1, found {self.longest_span}")


class PermutationLM(ReadsText, Objective):
    """Predicts some tokens in a random order, each from all that are not predicted and those that came before it."""

    _config: PermutationLMConfig
    families = frozenset({"encoder"})

    def __init__(self, config: PermutationLMConfig, context: ObjectiveContext):
        heads = {"permutation_lm": HeadConfig("causal_lm", vocabulary_bias=True)}
        super().__init__(config.kind, context, config.length, heads)
        if context.model.position != "transformer_xl":
            raise RecipeError(f"objective {config.kind}: needs a model with position transformer_xl, such as XLNet's")
        self._config = config
        tokenizer = context.tokenizer
        self._ends = [end for end in (tokenizer.separator_id, tokenizer.start_id) if end is not None]
        rate = 1.0 if config.identity_order else config.target_rate
        self.budget = min(self.length, math.ceil(self.length * rate) + math.ceil(self.length / 32))

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A packed row; pieces end with separator and start token, as XLNet's do.

        Returns:
          `token_ids`, `segment_ids`, `positions`, `order` int32 `(length,)`; `gather`, `labels` int32 and
          `label_weights` float32 `(budget,)`.
        """
        tokenizer = self.tokenizer
        pieces = [enclose((), record[TOKENS], *self._ends) for record in records]
        row = lay_out(pieces, self.length, tokenizer.pad_id)
        order, places = np.zeros(self.length, np.int32), []
        for start, record, key in zip(starts_of(pieces), records, keys, strict=True):
            chosen = self._choose(len(record[TOKENS]), key)
            ranks = np.arange(len(chosen)) if self._config.identity_order else key.permutation(len(chosen))
            # Rank 0 is that of the tokens that are read from the start.
            order[start + chosen] = ranks + 1
            places.append(start + chosen)
        gather = np.zeros(self.budget, np.int32)
        found = np.concatenate(places)[: self.budget]
        gather[: len(found)] = found
        weights = (np.arange(self.budget) < len(found)).astype(np.float32)
        return {**row, "order": order, "gather": gather, "labels": row["token_ids"][gather], "label_weights": weights}

    def shown(self, row: Batch) -> ShownRow:
        """The row with the tokens that have to be predicted."""
        return ShownRow({"input": shown_tokens(row, self.tokenizer, gathered_targets(row, self.tokenizer))})

    def _choose(self, length: int, key: np.random.Generator) -> np.ndarray:
        """Sorted places of the tokens that are predicted.

        Spans have one to `longest_span` tokens, a span of `n` with probability in proportion to `1 / n`, somewhere in a
        stretch of `n / target_rate` tokens of its own, as in the authors' code.
        """
        config = self._config
        if config.identity_order:
            return np.arange(length)
        goal = max(1, round(length * config.target_rate))
        sizes = np.arange(1, config.longest_span + 1)
        spans = key.choice(sizes, goal, p=(1 / sizes) / (1 / sizes).sum())
        stretches = np.round(spans / config.target_rate).astype(np.int64)
        begins = np.cumsum(stretches) - stretches + (key.random(goal) * (stretches - spans + 1)).astype(np.int64)
        steps = np.arange(config.longest_span)
        covered = (begins[:, None] + steps)[steps < spans[:, None]]
        covered = covered[covered < length][:goal]
        missing = goal - len(covered)
        others = np.setdiff1d(np.arange(length), covered)
        return np.sort(np.concatenate([covered, key.permutation(others)[:missing]]).astype(np.int64))

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the predicted tokens, from the stream of queries."""
        sequences = Sequences(batch["token_ids"], batch["segment_ids"], batch["positions"], order=batch["order"])
        weights = batch["label_weights"] * batch["row_weight"][:, None]
        sums = apply.token_sums(batch["labels"], weights, self.head_name, sequences, gather=batch["gather"])
        return token_loss(sums, weights.sum(), count_tokens(batch["segment_ids"]))
