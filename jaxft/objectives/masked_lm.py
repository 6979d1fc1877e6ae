"""Masked language modelling (BERT, Devlin et al. 2018, arXiv 1810.04805; dynamic masks as in RoBERTa, 1907.11692)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxft.kernels.shapes import Array, OfTokens, Places
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.language_loss import token_loss
from jaxft.objectives.masking import MaskedObjective, Masking, MaskingConfig
from jaxft.objectives.objective import Apply, ObjectiveContext, StreamLoss, count_tokens
from jaxft.objectives.pseudo_likelihood import pseudo_log_likelihood


@dataclasses.dataclass(frozen=True)
class MaskedLMConfig(MaskingConfig):
    """Masked language modelling in a recipe; the fields of `MaskingConfig` too.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of a row, special tokens included; the model's `max_length` where None.
    """

    kind: Literal["masked_lm"] = "masked_lm"
    text: str = "text"
    length: int | None = None


class MaskedLM(MaskedObjective):
    """Predicts masked tokens."""

    families = frozenset({"encoder"})
    metrics = ("loss", "perplexity", "accuracy", "pseudo_perplexity")
    default_metrics = metrics[:3]

    def __init__(self, config: MaskedLMConfig, context: ObjectiveContext):
        super().__init__(config.kind, context, config.length, {"masked_lm": HeadConfig("masked_lm")})
        self._config, self._context = config, context
        self._masking = Masking(config.kind, config, context.tokenizer, self.length)
        self.budget = self._masking.budget

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the predicted tokens; their logits alone are computed."""
        sequences = Sequences(batch["token_ids"], batch["segment_ids"], batch["positions"])
        weights = batch["label_weights"] * batch["row_weight"][:, None]
        sums = apply.token_sums(batch["labels"], weights, self.head_name, sequences, gather=batch["gather"])
        return token_loss(sums, weights.sum(), count_tokens(batch["segment_ids"]))

    def outputs(self, apply: Apply, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """`pseudo_log_likelihood` and `scored_tokens`, float32 `(batch,)`: every token masked by itself in turn."""
        whole = restored(batch)
        sequences = Sequences(whole, batch["segment_ids"], batch["positions"])
        text = (batch["segment_ids"] > 0) & ~is_special(whole, self.tokenizer.special_ids)
        scores = pseudo_log_likelihood(apply, sequences, text, self.head_name, self._masking.mask_id)
        return {"pseudo_log_likelihood": scores, "scored_tokens": text.sum(1, dtype=scores.dtype)}


def restored(batch: Mapping[str, jax.Array]) -> OfTokens:
    """The token ids of masked rows as they were, int32 `(batch, length)`."""
    return put_tokens(batch["token_ids"], batch, batch["labels"])


def put_tokens(ids: OfTokens, batch: Mapping[str, jax.Array], tokens: Places) -> OfTokens:
    """Rows `(batch, length)` with tokens `(batch, budget)` in the predicted places."""

    def one(row: jax.Array, places: jax.Array, new: jax.Array, weights: jax.Array) -> jax.Array:
        # Unused entries of the budget are sent out of the row, where they change nothing.
        return row.at[jnp.where(weights > 0, places, len(row))].set(new, mode="drop")

    return jax.vmap(one)(ids, batch["gather"], tokens, batch["label_weights"])


def is_special(ids: OfTokens, special_ids: frozenset[int]) -> Bool[Array, "batch length"]:
    """Which of the tokens are no text."""
    return jnp.isin(ids, np.array(sorted(special_ids), np.int32))
