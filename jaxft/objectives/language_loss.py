"""The loss of predicted tokens, which most pretraining objectives share."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxft.kernels.cross_entropy import cross_entropy_and_first
from jaxft.objectives.objective import Ratio, StreamLoss


def token_loss(
    logits: jax.Array, labels: jax.Array, weights: jax.Array, tokens: jax.Array, text_bytes: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> StreamLoss:  # fmt: skip
    """Cross entropy of tokens.

    Args:
      logits: float32 `(..., vocab)`.
      labels: int32 `(...)`.
      weights: float32 `(...)`, 0 for what is not predicted.
      tokens: float32 scalar, tokens read.
      text_bytes: float32 `(batch,)`, bytes of the text that all of these tokens spell, or None.
      label_smoothing: share of the target that is spread over the vocabulary.

    Returns:
      With the ratios `accuracy` and, where there are bytes, `bits_per_byte`.
    """
    losses, first = cross_entropy_and_first(logits, labels, label_smoothing=label_smoothing)
    loss, weight = (losses * weights).sum(), weights.sum()
    ratios = {"accuracy": Ratio((first * weights).sum(), weight)}
    if text_bytes is not None:
        ratios["bits_per_byte"] = Ratio(loss / math.log(2), text_bytes.sum())
    return StreamLoss(loss, weight, jnp.asarray(tokens, jnp.float32), ratios)
