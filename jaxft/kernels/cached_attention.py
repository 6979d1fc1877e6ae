"""Attention of a few new tokens to many cached ones, whose arrays are read where they lie."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxft.kernels.masks import AttentionMask
from jaxft.kernels.plain import masked_softmax
from jaxft.kernels.shapes import Array, Keys, Queries

# Keys or values of some of the tokens.
SomeKeys = Float[Array, "batch _ kv_heads head_dim"]
Grouped = Float[Array, "batch query_length kv_heads group head_dim"]
GroupedScores = Float[Array, "batch kv_heads group query_length key_length"]


def cached_attention(
    query: Queries,
    parts: Sequence[tuple[SomeKeys, SomeKeys]],
    mask: AttentionMask,
    *,
    scale: float,
    soft_cap: float | None = None,
) -> Queries:
    """Attention to keys and values that come in parts, as if these were joined.

    Joining them would copy the cache for every token; scores are small, so those are joined instead.

    Args:
      query: `(batch, query_length, heads, head_dim)`.
      parts: pairs of keys and values `(batch, part_length, kv_heads, head_dim)`.
      mask: what each query may see of all parts, one after the other.
      scale: factor of the scores.
      soft_cap: as in `jaxft.kernels.attention.attention`.

    Returns:
      `(batch, query_length, heads, head_dim)` in the dtype of the queries; zeros for a query that sees no key.
    """
    batch, length, heads, head_dim = query.shape
    kv_heads = parts[0][0].shape[2]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    # As a product and a sum, XLA's CPU backend reads the cache in place; for a matrix product it lays it out anew.
    in_place = length == 1 and jax.default_backend() == "cpu"
    score, mix = (_score_in_place, _mix_in_place) if in_place else (_score, _mix)
    scores = jnp.concatenate([score(grouped, key) for key, _ in parts], axis=-1) * scale
    scores = scores.reshape(batch, heads, length, -1)
    probabilities = masked_softmax(scores, mask, soft_cap).astype(query.dtype)
    probabilities = probabilities.reshape(batch, kv_heads, heads // kv_heads, length, -1)
    output, start = jnp.zeros(grouped.shape, jnp.float32), 0
    for _, value in parts:
        output += mix(probabilities[..., start : start + value.shape[1]], value)
        start += value.shape[1]
    return output.reshape(query.shape).astype(query.dtype)


def _score(query: Grouped, key: Keys) -> GroupedScores:
    """float32 `(batch, kv_heads, group, query_length, key_length)`."""
    return jnp.einsum("bqhgd,bkhd->bhgqk", query, key, preferred_element_type=jnp.float32)


def _mix(probabilities: GroupedScores, value: Keys) -> Grouped:
    """float32 `(batch, query_length, kv_heads, group, head_dim)`."""
    return jnp.einsum("bhgqk,bkhd->bqhgd", probabilities, value, preferred_element_type=jnp.float32)


def _score_in_place(query: Grouped, key: Keys) -> GroupedScores:
    scores = (query.astype(jnp.float32) * key[:, :, :, None].astype(jnp.float32)).sum(-1)
    return scores.transpose(0, 2, 3, 1)[:, :, :, None]


def _mix_in_place(probabilities: GroupedScores, value: Keys) -> Grouped:
    weights = probabilities[:, :, :, 0].transpose(0, 3, 1, 2)[..., None].astype(jnp.float32)
    return (weights * value[:, :, :, None].astype(jnp.float32)).sum(1, keepdims=True)
