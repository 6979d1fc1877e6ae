"""Attention on NVIDIA GPUs by cuDNN's flash attention."""

from __future__ import annotations

import jax

from jaxft.kernels.masks import AttentionMask
from jaxft.kernels.plain import zero_where_blind


def cudnn(query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask, scale: float) -> jax.Array:
    """Attention in 16 bits.

    Causal masks and windows of the past cuDNN knows, and skips what they hide; all else becomes a bias.

    Args:
      query: `(batch, query_length, heads, head_dim)`.
      key: `(batch, key_length, kv_heads, head_dim)`.
      value: as `key`.
      mask: any.
      scale: factor of the scores.

    Returns:
      As `query`.
    """
    lengths = query.shape[1], key.shape[1]
    by_index = mask.causal and mask.prefix is None and mask.query_positions is None and mask.balanced == 1
    window = (mask.window[0], 0) if by_index and mask.window is not None else None
    visible = (mask.replace(causal=False, window=None) if by_index else mask).dense(*lengths)
    output = jax.nn.dot_product_attention(
        query, key, value, bias=mask.bias, mask=visible, scale=scale, is_causal=by_index, local_window_size=window,
        implementation="cudnn",
    )  # fmt: skip
    return output if visible is None else zero_where_blind(output, mask.dense(*lengths))
