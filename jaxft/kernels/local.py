"""Attention within windows, block by block: time and memory linear in the length, on any device."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from jaxft.kernels.masks import AttentionMask
from jaxft.kernels.shapes import Array, RandomKey

# Sides of blocks are multiples of this, as matrix units like them.
_STEP = 16


def local(
    query: Float[Array, "batch length heads head_dim"],
    key: Float[Array, "batch length kv_heads head_dim"],
    value: Float[Array, "batch length kv_heads head_dim"],
    mask: AttentionMask,
    within: Callable[..., jax.Array],
    dropout_key: RandomKey | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """Attention under a mask with a window, from the plain attention of each block to itself and its neighbours.

    As block-local attention in "Longformer" (Beltagy et al. 2020, arXiv 2004.05150, section 3.2), without the global
    tokens.

    Args:
      query: `(batch, length, heads, head_dim)`.
      key: `(batch, length, kv_heads, head_dim)`.
      value: as `key`.
      mask: with a window, and without bias, prefix, order and positions.
      within: plain attention: of queries, keys, values, a mask and a random key or None.
      dropout_key: random key of the dropout of probabilities, or None.

    Returns:
      As `query`.
    """
    length = query.shape[1]
    assert mask.window is not None
    left, right = mask.window
    right = 0 if mask.causal else right
    block = max(_STEP, -(-max(left, right) // _STEP) * _STEP)
    blocks = -(-length // block)
    sides = (1, 0) if right == 0 else (1, 1)
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), query.shape[:2])
    own = AttentionMask(
        causal=mask.causal,
        window=(left, right),
        query_positions=_blocks(places, block, blocks, -1),
        key_positions=_with_neighbours(_blocks(places, block, blocks, -1), sides, -1),
    )
    if mask.query_segments is not None:
        assert mask.key_segments is not None  # given with those of the queries
        own = own.replace(
            query_segments=_blocks(mask.query_segments, block, blocks),
            key_segments=_with_neighbours(_blocks(mask.key_segments, block, blocks), sides),
        )
    keys = None if dropout_key is None else jax.random.split(dropout_key, blocks)
    output = jax.vmap(within, in_axes=(1, 1, 1, 1, None if keys is None else 0), out_axes=1)(
        _blocks(query, block, blocks),
        *(_with_neighbours(_blocks(x, block, blocks), sides) for x in (key, value)),
        own,
        keys,
    )
    return output.reshape(query.shape[0], blocks * block, *query.shape[2:])[:, :length]


def _blocks(
    x: Shaped[Array, "batch length *rest"], block: int, blocks: int, filler: int = 0
) -> Shaped[Array, "batch {blocks} {block} *rest"]:
    """`(batch, blocks, block, ...)` from `(batch, length, ...)`."""
    missing = blocks * block - x.shape[1]
    x = jnp.pad(x, ((0, 0), (0, missing), *[(0, 0)] * (x.ndim - 2)), constant_values=filler)
    return x.reshape(x.shape[0], blocks, block, *x.shape[2:])


def _with_neighbours(
    x: Shaped[Array, "batch blocks block *rest"], sides: tuple[int, int], filler: int = 0
) -> Shaped[Array, "batch blocks _ *rest"]:
    """Each block after the one before it, and before the one after it, of which there are none at the ends."""
    padded = jnp.pad(x, ((0, 0), sides, *[(0, 0)] * (x.ndim - 2)), constant_values=filler)
    return jnp.concatenate([padded[:, i : i + x.shape[1]] for i in range(1 + sum(sides))], axis=2)
