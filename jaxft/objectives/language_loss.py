"""The loss of predicted tokens, which most pretraining objectives share."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxft.objectives.objective import Ratio, StreamLoss


def token_loss(
    found: tuple[jax.Array, jax.Array], weights: jax.Array, tokens: jax.Array, text_bytes: jax.Array | None = None
) -> StreamLoss:
    """The sums of tokens' losses.

    Args:
      found: of each token its cross entropy and whether it was guessed, float32 `(...)`.
      weights: float32 `(...)`, 0 for what is not predicted.
      tokens: float32 scalar, tokens read.
      text_bytes: float32 `(batch,)`, bytes of the text that all of these tokens spell, or None.

    Returns:
      With the ratios `accuracy` and, where there are bytes, `bits_per_byte`.
    """
    losses, first = found
    loss, weight = (losses * weights).sum(), weights.sum()
    ratios = {"accuracy": Ratio((first * weights).sum(), weight)}
    if text_bytes is not None:
        ratios["bits_per_byte"] = Ratio(loss / math.log(2), text_bytes.sum())
    return StreamLoss(loss, weight, jnp.asarray(tokens, jnp.float32), ratios)
