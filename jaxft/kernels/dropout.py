"""Dropout with few random bits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxft.kernels.shapes import Array, RandomKey


def dropout(x: Float[Array, "*shape"], rate: float, key: RandomKey | None) -> Float[Array, "*shape"]:
    """Zeroes elements with probability `rate` and scales the others so that the expectation stays.

    One 32-bit random word decides two elements, which halves the cost of the generator. The rate is therefore a
    multiple of 2**-16, and the scale is that of the exact rate.

    Args:
      x: any shape; its last axis may be odd.
      rate: probability of a zero, in [0, 1).
      key: random key; None or a rate of 0 returns `x` as it is.
    """
    if key is None or rate == 0.0:
        return x
    threshold = round(rate * 2**16)
    keep = 1.0 - threshold / 2**16
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32)
    # Halves side by side along the last axis, not interleaved: no shuffle of lanes.
    halves = jnp.concatenate([words & 0xFFFF, words >> 16], axis=-1)[..., : x.shape[-1]]
    # Scaled in float32: a scale rounded to bfloat16 would shift the expectation.
    scaled = (x.astype(jnp.float32) / keep).astype(x.dtype)
    return jnp.where(halves >= threshold, scaled, jnp.zeros((), x.dtype))
