"""The loss of predicted tokens, which most pretraining objectives share."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jaxtyping import Float

from jaxft.kernels.shapes import Array, Scalar
from jaxft.objectives.objective import Ratio, StreamLoss


def token_loss(
    sums: tuple[Scalar, Scalar], weight: Scalar, tokens: Scalar, text_bytes: Float[Array, " batch"] | None = None
) -> StreamLoss:
    """What tokens' losses sum up to.

    Args:
      sums: of their cross entropy, and of those that were guessed, float32 scalars.
      weight: float32 scalar, how many they are.
      tokens: float32 scalar, tokens read.
      text_bytes: float32 `(batch,)`, bytes of the text that all of these tokens spell, or None.

    Returns:
      With the ratios `accuracy` and, where there are bytes, `bits_per_byte`.
    """
    loss, guessed = sums
    ratios = {"accuracy": Ratio(guessed, weight)}
    if text_bytes is not None:
        ratios["bits_per_byte"] = Ratio(loss / math.log(2), text_bytes.sum())
    return StreamLoss(loss, weight, jnp.asarray(tokens, jnp.float32), ratios)
