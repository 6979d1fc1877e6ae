"""Masked language modelling (BERT, Devlin et al. 2018, arXiv 1810.04805; dynamic masks as in RoBERTa, 1907.11692)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, text_column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import InvalidField, RecipeError
from jaxft.kernels.cross_entropy import cross_entropy, is_first
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.objective import Apply, StreamLoss, concatenate, count_tokens


@dataclasses.dataclass(frozen=True)
class MaskedLMConfig:
    """Masked language modelling in a recipe.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of a row, special tokens included; the model's `max_length` where None.
      mask_rate: share of the tokens that are predicted.
      evaluation_mask_rate: that share in evaluation, the same in all recipes so that losses compare.
      masked: share of the predicted tokens that the input replaces by the mask token.
      randomized: share that it replaces by a random token; the rest it keeps.
      whole_words: whether all pieces of a word are predicted together.
    """

    kind: Literal["masked_lm"] = "masked_lm"
    text: str = "text"
    length: int | None = None
    mask_rate: float = 0.15
    evaluation_mask_rate: float = 0.15
    masked: float = 0.8
    randomized: float = 0.1
    whole_words: bool = False

    def __post_init__(self):
        for name in ("mask_rate", "evaluation_mask_rate"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidField(name, f"must lie between 0 and 1, found {getattr(self, name)}")
        if self.masked < 0 or self.randomized < 0 or self.masked + self.randomized > 1:
            raise InvalidField(
                "masked", f"masked {self.masked} and randomized {self.randomized} must be shares of at most 1"
            )


class MaskedLM:
    """Predicts masked tokens; see `jaxft.objectives.objective.Objective`."""

    head_name = "masked_lm"
    head = HeadConfig("masked_lm")
    overhead = 2
    pack = True
    truncate = False
    metrics = default_metrics = ("loss", "perplexity", "accuracy")
    lower_is_better = frozenset({"loss", "perplexity"})
    labels = ()

    def __init__(self, config: MaskedLMConfig, tokenizer: Tokenizer, length: int):
        if tokenizer.mask_id is None:
            raise RecipeError("objective masked_lm: this tokenizer has no mask token; use one that has, such as BERT's")
        self._config, self._tokenizer, self.length = config, tokenizer, length
        self._continues = tokenizer.is_continuation() if config.whole_words else None
        self._ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids)).astype(np.int32)
        # Rounding to whole tokens adds at most half a token for each piece: this holds rows of pieces of 16 tokens or
        # more.
        self.budget = math.ceil(length * config.mask_rate) + math.ceil(length / 32)

    def fields(self, row: Row) -> Fields:
        """The text alone."""
        return Fields({TOKENS: text_column(row, self._config.text)})

    def record_options(self) -> str:
        """The column."""
        return f"masked_lm text={self._config.text}"

    def for_evaluation(self) -> MaskedLM:
        """With the mask rate of evaluation."""
        config = dataclasses.replace(self._config, mask_rate=self._config.evaluation_mask_rate)
        return MaskedLM(config, self._tokenizer, self.length)

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A packed row.

        Returns:
          `token_ids`, `segment_ids`, `positions` `(length,)`; `gather`, `labels` int32 and `label_weights` float32
          `(budget,)`: the predicted positions, in order, and their original tokens.
        """
        tokenizer = self._tokenizer
        tokens = [record[TOKENS] for record in records]
        row = concatenate(tokens, self.length, tokenizer.start_id, tokenizer.separator_id, tokenizer.pad_id)
        starts = np.cumsum([1, *(len(piece) + 2 for piece in tokens)])[:-1]
        chosen = [start + self._choose(piece, key) for start, piece, key in zip(starts, tokens, keys, strict=True)]
        places = np.concatenate(chosen)
        if len(places) > self.budget:  # a row of very short pieces
            places = np.sort(keys[0].permutation(places)[: self.budget])
        gather, labels = np.zeros(self.budget, np.int32), np.zeros(self.budget, np.int32)
        gather[: len(places)], labels[: len(places)] = places, row["token_ids"][places]
        for piece_places, key in zip(chosen, keys, strict=True):
            kept = piece_places[np.isin(piece_places, places)]
            row["token_ids"][kept] = self._corrupt(row["token_ids"][kept], key)
        weights = (np.arange(self.budget) < len(places)).astype(np.float32)
        return {**row, "gather": gather, "labels": labels, "label_weights": weights}

    def _choose(self, tokens: np.ndarray, key: np.random.Generator) -> np.ndarray:
        """Sorted places of `max(1, round(rate * length))` tokens, a uniform choice among all such sets."""
        count = max(1, round(len(tokens) * self._config.mask_rate))
        if self._continues is None:
            return np.sort(key.permutation(len(tokens))[:count])
        words = np.cumsum(~self._continues[tokens])
        words -= words[0]
        sizes = np.bincount(words)
        chosen, room = [], count
        for word in key.permutation(len(sizes)):
            if sizes[word] <= room:
                chosen.append(word)
                room -= sizes[word]
        if not chosen:  # every word is longer than the budget of this piece
            chosen = [int(np.argmin(sizes))]
        return np.flatnonzero(np.isin(words, chosen))

    def _corrupt(self, tokens: np.ndarray, key: np.random.Generator) -> np.ndarray:
        """Replaces most of the tokens by the mask token, some by random ordinary tokens, and keeps the rest."""
        fate = key.random(len(tokens))
        random_tokens = self._ordinary[key.integers(len(self._ordinary), size=len(tokens))]
        config = self._config
        out = np.where(fate < config.masked + config.randomized, random_tokens, tokens)
        return np.where(fate < config.masked, self._tokenizer.mask_id, out).astype(np.int32)

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the predicted tokens; their logits alone are computed."""
        sequences = Sequences(batch["token_ids"], batch["segment_ids"], batch["positions"])
        logits = apply(sequences, head=self.head_name, gather=batch["gather"]).logits
        weights = batch["label_weights"] * batch["row_weight"][:, None]
        losses = cross_entropy(logits, batch["labels"])
        hits = is_first(logits, batch["labels"])
        tokens = count_tokens(batch["segment_ids"])
        return StreamLoss((losses * weights).sum(), weights.sum(), tokens, {"accuracy": (hits * weights).sum()})

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """None: its metrics come from the sums of the loss."""
        return {}
