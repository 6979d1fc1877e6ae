"""Attention by plain products: the formula, and XLA's own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxft.kernels.dropout import dropout
from jaxft.kernels.masks import AttentionMask, Visible
from jaxft.kernels.shapes import Array, Keys, Queries, RandomKey

Scores = Float[Array, "batch heads query_length key_length"]

_HIDDEN = -1e30


def reference(
    query: Queries,
    key: Keys,
    value: Keys,
    mask: AttentionMask,
    scale: float,
    soft_cap: float | None,
    dropout_rate: float,
    dropout_key: RandomKey | None,
) -> Queries:
    """The formula as it is written in papers, which every other implementation is tested against."""
    batch, query_length, heads, head_dim = query.shape
    key_length, kv_heads = key.shape[1:3]
    grouped = query.reshape(batch, query_length, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum("bqhgd,bkhd->bhgqk", grouped, key, preferred_element_type=jnp.float32) * scale
    probabilities = masked_softmax(scores.reshape(batch, heads, query_length, key_length), mask, soft_cap)
    probabilities = dropout(probabilities, dropout_rate, dropout_key).astype(value.dtype)
    probabilities = probabilities.reshape(batch, kv_heads, heads // kv_heads, query_length, key_length)
    output = jnp.einsum("bhgqk,bkhd->bqhgd", probabilities, value, preferred_element_type=jnp.float32)
    return output.reshape(query.shape).astype(query.dtype)


def masked_softmax(scores: Scores, mask: AttentionMask, soft_cap: float | None) -> Scores:
    """Probabilities of the keys, float32 `(batch, heads, query_length, key_length)`, from scaled scores of that shape.

    Those of a query that sees no key are zeros.
    """
    if soft_cap is not None:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    if mask.bias is not None:
        scores = scores + mask.bias.astype(jnp.float32)
    visible = mask.dense(*scores.shape[2:])
    if visible is None:
        return jax.nn.softmax(scores, axis=-1)
    probabilities = jax.nn.softmax(jnp.where(visible, scores, _HIDDEN), axis=-1)
    return jnp.where(visible.any(-1, keepdims=True), probabilities, 0.0)


def xla(query: Queries, key: Keys, value: Keys, mask: AttentionMask, scale: float) -> Queries:
    """`jax.nn.dot_product_attention`, which averages over all keys where a query sees none: zeroed here."""
    visible = mask.dense(query.shape[1], key.shape[1])
    # The bias stays float32, as the scores are: in bfloat16 neighbours at a long distance would share one value.
    output = jax.nn.dot_product_attention(
        query, key, value, bias=mask.bias, mask=visible, scale=scale, implementation="xla"
    )
    return output if visible is None else zero_where_blind(output, visible)


def zero_where_blind(output: Queries, visible: Visible) -> Queries:
    """Attention's output, zeros where a query sees no key, where an implementation averages over all keys.

    Args:
      output: `(batch, query_length, heads, head_dim)`.
      visible: bool, broadcastable to `(batch, heads, query_length, key_length)`.
    """
    sees = jnp.moveaxis(visible.any(-1), 1, 2)[..., None]
    return jnp.where(sees, output, 0).astype(output.dtype)
