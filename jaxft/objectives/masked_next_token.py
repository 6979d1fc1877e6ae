"""Masked next-token prediction: a causal model learns to read both ways.

LLM2Vec, BehnamGhader et al. 2024, arXiv 2404.05961.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.store import Record
from jaxft.errors import RecipeError
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.language_loss import token_loss
from jaxft.objectives.masking import MaskedObjective, Masking, MaskingConfig
from jaxft.objectives.objective import Apply, ObjectiveContext, StreamLoss, count_tokens


@dataclasses.dataclass(frozen=True)
class MaskedNextTokenConfig(MaskingConfig):
    """Masked next-token prediction in a recipe; the fields of `MaskingConfig` too.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of a row, special tokens included; the model's `max_length` where None.
      mask_token: a text of one token that stands for a masked one; needed where the tokenizer has no mask token (most
        decoders have none; LLM2Vec takes `_`).
    """

    kind: Literal["masked_next_token"] = "masked_next_token"
    text: str = "text"
    length: int | None = None
    mask_token: str | None = None
    mask_rate: float = 0.2
    evaluation_mask_rate: float = 0.2
    masked: float = 1.0
    randomized: float = 0.0


class MaskedNextToken(MaskedObjective):
    """Predicts masked tokens with the causal head, one place before each, while the stack reads both ways."""

    families = frozenset({"decoder"})

    def __init__(self, config: MaskedNextTokenConfig, context: ObjectiveContext):
        super().__init__(config.kind, context, config.length, {"causal_lm": HeadConfig("causal_lm")})
        self._config, self._context = config, context
        if context.tokenizer.start_id is None:
            raise RecipeError(f"objective {config.kind}: this tokenizer has no start token, before the first token")
        self._masking = Masking(
            config.kind, config, context.tokenizer, self.length, _mask_id(config.mask_token, context)
        )

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """A packed row as that of `masked_lm`, whose `gather` says one place before each predicted token."""
        row = super().make_row(records, keys)
        return {**row, "gather": np.maximum(row["gather"] - 1, 0)}

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """Cross entropy of the masked tokens."""
        sequences = Sequences(batch["token_ids"], batch["segment_ids"], batch["positions"], causal=False)
        weights = batch["label_weights"] * batch["row_weight"][:, None]
        sums = apply.token_sums(batch["labels"], weights, self.head_name, sequences, gather=batch["gather"])
        return token_loss(sums, weights.sum(), count_tokens(batch["segment_ids"]))


def _mask_id(text: str | None, context: ObjectiveContext) -> int | None:
    if text is None:
        return None
    (ids,) = context.tokenizer.encode([text])
    if len(ids) != 1:
        raise RecipeError(f"objective masked_next_token: mask_token {text!r} is {len(ids)} tokens; it must be one")
    return int(ids[0])
