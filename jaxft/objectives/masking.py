"""Which tokens are masked, and what becomes of them (BERT, SpanBERT), shared by all objectives that mask."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Self

import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.store import TOKENS, Record
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import InvalidField, RecipeError
from jaxft.objectives.config import TextConfig
from jaxft.objectives.objective import Objective, ObjectiveContext, ReadsText
from jaxft.objectives.rows import lay_out, starts_of
from jaxft.objectives.shown import ShownRow, gathered_targets, shown_tokens


@dataclasses.dataclass(frozen=True)
class MaskingConfig(TextConfig):
    """What objectives that mask have in common.

    Attributes:
      mask_rate: share of the tokens that are predicted.
      evaluation_mask_rate: that share in evaluation, the same in all recipes so that losses compare.
      masked: share of the predicted tokens that the input replaces by the mask token.
      randomized: share that it replaces by a random token; the rest it keeps.
      whole_words: whether all pieces of a word are predicted together.
      span_length: mean length of masked spans of tokens, geometric over 1 to 10 (SpanBERT, Joshi et al. 2019, arXiv
        1907.10529: 3.8); single tokens where None.
    """

    mask_rate: float = 0.15
    evaluation_mask_rate: float = 0.15
    masked: float = 0.8
    randomized: float = 0.1
    whole_words: bool = False
    span_length: float | None = None

    def __post_init__(self) -> None:
        for name in ("mask_rate", "evaluation_mask_rate"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidField(name, f"must lie between 0 and 1, found {getattr(self, name)}")
        if self.masked < 0 or self.randomized < 0 or self.masked + self.randomized > 1:
            raise InvalidField(
                "masked", f"masked {self.masked} and randomized {self.randomized} must be shares of at most 1"
            )
        if self.span_length is not None and not 1 < self.span_length <= 5:
            raise InvalidField("span_length", f"must lie between 1 and 5, found {self.span_length}")
        if self.span_length is not None and self.whole_words:
            raise InvalidField("span_length", "give either span_length or whole_words")

    def for_evaluation(self) -> Self:
        """With the mask rate of evaluation."""
        return dataclasses.replace(self, mask_rate=self.evaluation_mask_rate)


LONGEST_SPAN = 10


class MaskedObjective(ReadsText, Objective):
    """An objective on packed texts with masked tokens; its class sets `_config`, `_context` and `_masking`."""

    _config: MaskingConfig
    _context: ObjectiveContext
    _masking: Masking

    def for_evaluation(self) -> Self:
        """With the mask rate of evaluation."""
        make: Callable[[MaskingConfig, ObjectiveContext], Self] = type(self)
        return make(self._config.for_evaluation(), self._context)

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A packed row: `token_ids`, `segment_ids`, `positions` `(length,)`, and what `Masking.apply` adds."""
        template = self.tokenizer.template
        pieces = [template.wrap(record[TOKENS]) for record in records]
        row = lay_out(pieces, self.length, self.tokenizer.pad_id)
        return self._masking.apply(row, starts_of(pieces) + len(template.before.ids), records, keys)

    def shown(self, row: Batch) -> ShownRow:
        """The row with the tokens that have to be predicted."""
        return ShownRow({"input": shown_tokens(row, self.tokenizer, gathered_targets(row, self.tokenizer))})


class Masking:
    """Chooses and corrupts tokens.

    Attributes:
      budget: places for predicted tokens in a row.
    """

    def __init__(self, kind: str, config: MaskingConfig, tokenizer: Tokenizer, length: int, mask_id: int | None = None):
        """
        Args:
          kind: what a recipe calls the objective.
          config: rates.
          tokenizer: of the run.
          length: tokens of a row.
          mask_id: stands for a masked token; the tokenizer's own mask token where None.

        Raises:
          RecipeError: there is no mask token.
        """
        mask_id = tokenizer.mask_id if mask_id is None else mask_id
        if mask_id is None:
            raise RecipeError(f"objective {kind}: this tokenizer has no mask token; use one that has, such as BERT's")
        self._config, self.mask_id = config, mask_id
        self._continues = tokenizer.is_continuation() if config.whole_words else None
        self._span_shares = None if config.span_length is None else _span_shares(config.span_length)
        self._ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids)).astype(np.int32)
        # Rounding to whole tokens adds at most half a token for each piece: this holds rows of pieces of 16 tokens or
        # more.
        self.budget = math.ceil(length * config.mask_rate) + math.ceil(length / 32)

    def apply(self, row: Batch, starts: np.ndarray, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A row with tokens chosen and corrupted.

        Args:
          row: laid-out pieces (`jaxft.objectives.rows.lay_out`).
          starts: where the text of each piece begins in it.
          records: the pieces.
          keys: one for each.

        Returns:
          The row with corrupted `token_ids`, and `gather`, `labels` int32 and `label_weights` float32 `(budget,)`: the
          predicted places, in order, and their original tokens.
        """
        texts = [record[TOKENS] for record in records]
        chosen = [start + self.choose(text, key) for start, text, key in zip(starts, texts, keys, strict=True)]
        places = np.concatenate(chosen)
        if len(places) > self.budget:  # a row of very short pieces
            places = np.sort(keys[0].permutation(places)[: self.budget])
        gather, labels = np.zeros(self.budget, np.int32), np.zeros(self.budget, np.int32)
        gather[: len(places)], labels[: len(places)] = places, row["token_ids"][places]
        token_ids = row["token_ids"].copy()
        for piece_places, key in zip(chosen, keys, strict=True):
            kept = piece_places[np.isin(piece_places, places)]
            token_ids[kept] = self._corrupt(token_ids[kept], key)
        weights = (np.arange(self.budget) < len(places)).astype(np.float32)
        return {**row, "token_ids": token_ids, "gather": gather, "labels": labels, "label_weights": weights}

    def choose(self, tokens: np.ndarray, key: np.random.Generator) -> np.ndarray:
        """Sorted places of `max(1, round(rate * length))` tokens, a uniform choice among all such sets or spans."""
        count = max(1, round(len(tokens) * self._config.mask_rate))
        if self._span_shares is not None:
            return _choose_spans(len(tokens), count, self._span_shares, key)
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
        return np.where(fate < config.masked, self.mask_id, out).astype(np.int32)


def _span_shares(mean: float) -> np.ndarray:
    """Probabilities of spans of 1 to `LONGEST_SPAN` tokens: a geometric distribution over these alone, of this mean."""
    sizes = np.arange(1, LONGEST_SPAN + 1)
    low, high = 0.0, 1.0
    for _ in range(60):  # the mean grows with the ratio of neighbours
        ratio = (low + high) / 2
        shares = ratio**sizes / (ratio**sizes).sum()
        low, high = (ratio, high) if shares @ sizes < mean else (low, ratio)
    return shares


def _choose_spans(length: int, count: int, shares: np.ndarray, key: np.random.Generator) -> np.ndarray:
    """`count` places in spans of lengths with these probabilities, apart from each other where there is room."""
    lengths = key.choice(np.arange(1, len(shares) + 1), count, p=shares)
    ends = np.cumsum(lengths)
    lengths = lengths[: np.searchsorted(ends, count) + 1]
    lengths[-1] -= lengths.sum() - count
    return np.flatnonzero(place_spans(length, lengths, key))


def place_spans(length: int, lengths: np.ndarray, key: np.random.Generator) -> np.ndarray:
    """Lays spans at random, in this order and without overlap, at least one place apart where there is room.

    All such arrangements are equally likely.

    Args:
      length: places.
      lengths: int `(spans,)`, at least 1 each and not more than `length` together.
      key: random.

    Returns:
      bool `(length,)`: what the spans cover.
    """
    free, spans = length - int(lengths.sum()), len(lengths)
    apart = 1 if free >= spans - 1 else 0
    rest = free - apart * (spans - 1)
    # Bars among stars: where each span stands among the free places that are left.
    before = np.sort(key.choice(rest + spans, spans, replace=False)) - np.arange(spans)
    starts = before + np.concatenate([[0], np.cumsum(lengths + apart)[:-1]])
    edges = np.zeros(length + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + lengths, -1)
    return np.cumsum(edges[:-1]) > 0
