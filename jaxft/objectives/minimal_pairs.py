"""Which of two sentences a language model finds likelier; measures only.

BLiMP, Warstadt et al. 2019, arXiv 1912.00582.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, text_column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.errors import RecipeError
from jaxft.kernels.cross_entropy import cross_entropy
from jaxft.kernels.shapes import Array, OfTokens
from jaxft.models.heads import HeadConfig, HeadKind
from jaxft.models.transformer import Sequences
from jaxft.objectives.config import ObjectiveConfig
from jaxft.objectives.masked_lm import is_special
from jaxft.objectives.objective import Apply, Objective, ObjectiveContext, Ratio, StreamLoss, count_tokens
from jaxft.objectives.pseudo_likelihood import pseudo_log_likelihood
from jaxft.objectives.rows import side_by_side
from jaxft.objectives.shown import ShownRow, side_tokens


@dataclasses.dataclass(frozen=True)
class MinimalPairsConfig(ObjectiveConfig):
    """Minimal pairs in a recipe's evaluation.

    Attributes:
      good: column with the acceptable sentence.
      bad: column with the other one.
      length: tokens of a row, special tokens included, longer texts are cut; the model's `max_length` where None.
    """

    kind: Literal["minimal_pairs"] = "minimal_pairs"
    good: str = "sentence_good"
    bad: str = "sentence_bad"
    length: int | None = None

    def text_columns(self) -> tuple[str, ...]:
        """Both sentences."""
        return (self.good, self.bad)


class MinimalPairs(Objective):
    """Likelihoods from left to right in a decoder; in an encoder, of every token where it alone is masked."""

    families = frozenset({"encoder", "decoder"})
    pack = False
    truncate = True
    trains = False
    metrics = ("accuracy", "loss")
    default_metrics = metrics

    def __init__(self, config: MinimalPairsConfig, context: ObjectiveContext):
        is_encoder = context.model.family == "encoder"
        name: HeadKind = "masked_lm" if is_encoder else "causal_lm"
        super().__init__(config.kind, context, config.length, {name: HeadConfig(name)})
        # None for a decoder, which needs no mask.
        self._mask_id = context.tokenizer.mask_id if is_encoder else None
        if is_encoder and self._mask_id is None:
            raise RecipeError(f"objective {config.kind}: this tokenizer has no mask token, which an encoder needs")
        self._config = config

    def fields(self, row: Row) -> Fields:
        """Both sentences."""
        return Fields({TOKENS: text_column(row, self._config.good), "bad": text_column(row, self._config.bad)})

    def record_options(self) -> str:
        """The columns."""
        return f"good={self._config.good} bad={self._config.bad}"

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """The good and the bad sentence: `token_ids` and `segment_ids` int32 `(2, length)`."""
        (record,) = records
        texts = (record[TOKENS], record["bad"][: self.longest])
        return side_by_side(texts, self.length, self.tokenizer)

    def shown(self, row: Batch) -> ShownRow:
        """The good and the bad sentence."""
        return ShownRow(side_tokens(row, self.tokenizer))

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Negative log-likelihood of the good sentences, in nats per sentence; `accuracy`: how many are likelier."""
        ids, segments = (batch[name].reshape(-1, self.length) for name in ("token_ids", "segment_ids"))
        good, bad = self._scores(apply, ids, segments).reshape(-1, 2).T
        weights = batch["row_weight"]
        accuracy = Ratio(((good > bad) * weights).sum(), weights.sum())
        tokens = count_tokens(batch["segment_ids"])
        return StreamLoss((-good * weights).sum(), weights.sum(), tokens, {"accuracy": accuracy})

    def _scores(self, apply: Apply, ids: OfTokens, segments: OfTokens) -> Float[Array, " batch"]:
        """Log-likelihoods `(rows,)` of rows `(rows, length)`."""
        sequences = Sequences(ids, segments, padded=True)
        if self._mask_id is not None:
            text = (segments > 0) & ~is_special(ids, self.tokenizer.special_ids)
            return pseudo_log_likelihood(apply, sequences, text, self.head_name, self._mask_id)
        logits = apply(sequences, head=self.head_name).logits[:, :-1]
        losses = cross_entropy(logits, ids[:, 1:])
        return -(losses * (segments[:, 1:] > 0)).sum(1)
