"""Attention on NVIDIA GPUs by cuDNN's flash attention."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxft.kernels.masks import AttentionMask
from jaxft.kernels.plain import zero_where_blind
from jaxft.kernels.shapes import Keys, Queries


def cudnn(query: Queries, key: Keys, value: Keys, mask: AttentionMask, scale: float) -> Queries:
    """Attention in 16 bits.

    Args:
      query: `(batch, query_length, heads, head_dim)`.
      key: `(batch, key_length, kv_heads, head_dim)`.
      value: as `key`.
      mask: any.
      scale: factor of the scores.

    Returns:
      As `query`.
    """
    asked = in_words_of_jax(mask, query.shape[1], key.shape[1], query.dtype)
    output = jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="cudnn", **asked)
    visible = mask.dense(query.shape[1], key.shape[1])
    return output if visible is None else zero_where_blind(output, visible)


def in_words_of_jax(mask: AttentionMask, query_length: int, key_length: int, dtype: jnp.dtype) -> dict[str, Any]:
    """A mask as `jax.nn.dot_product_attention` takes it.

    Causal masks, windows of the past and padding behind rows cuDNN knows, and skips what they hide; all else becomes a
    bias. Queries that see no key get keys all the same: what cuDNN finds for them and for their gradients would be NaN
    with some lengths (pytorch issue 196678), and nobody reads it.

    Args:
      mask: any.
      query_length: of a row.
      key_length: of a row.
      dtype: of the queries, which cuDNN wants of biases too (gradients of others were NaN, jax issue 32242).

    Returns:
      Arguments by name.
    """
    by_index = mask.causal and mask.prefix is None and mask.query_positions is None and mask.balanced == 1
    asked: dict[str, Any] = {"is_causal": by_index}
    if by_index:
        mask = mask.replace(causal=False)
        if mask.window is not None:
            asked["local_window_size"] = mask.window[0], 0
            mask = mask.replace(window=None)
    if mask.padded and mask.window is None and not mask.causal:
        assert mask.query_segments is not None and mask.key_segments is not None  # which say the padding
        lengths = (
            jnp.maximum((ids > 0).sum(1, dtype=jnp.int32), 1) for ids in (mask.query_segments, mask.key_segments)
        )
        asked |= dict(zip(("query_seq_lengths", "key_value_seq_lengths"), lengths, strict=True))
        mask = mask.replace(query_segments=None, key_segments=None)
    visible = mask.dense(query_length, key_length)
    if visible is not None:
        asked["mask"] = visible | ~visible.any(-1, keepdims=True)
    if mask.bias is not None:
        asked["bias"] = mask.bias.astype(dtype)
    return asked
