"""Scaled dot-product attention behind one contract.

Every implementation takes queries `(batch, query_length, heads, head_dim)`, keys and values
`(batch, key_length, kv_heads, head_dim)` with `heads` a multiple of `kv_heads`, an `AttentionMask`, and returns
`(batch, query_length, heads, head_dim)` in the dtype of the queries. Softmax is computed in float32. A query that sees
no key returns zeros.
"""

from __future__ import annotations

import functools
import logging

import jax
import jax.numpy as jnp

from jaxft.kernels.dropout import dropout
from jaxft.kernels.masks import AttentionMask

IMPLEMENTATIONS = ("auto", "reference", "xla")

_logger = logging.getLogger("jaxft")
_HIDDEN = -1e30


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    scale: float,
    soft_cap: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Attention by the named implementation.

    Args:
      query: `(batch, query_length, heads, head_dim)`.
      key: `(batch, key_length, kv_heads, head_dim)`.
      value: as `key`.
      mask: what each query may see.
      scale: factor of the scores.
      soft_cap: scores become `soft_cap * tanh(scores / soft_cap)` (Gemma 2); None leaves them.
      dropout_rate: rate of dropout on the attention probabilities; 0 where `dropout_key` is None.
      dropout_key: random key of that dropout.
      implementation: `auto`, `reference` or `xla`.

    Raises:
      ValueError: the named implementation cannot express what was asked.
    """
    rate = dropout_rate if dropout_key is not None else 0.0
    chosen, reason = choose(implementation, soft_cap=soft_cap, dropout_rate=rate)
    if implementation == "auto":
        _say_once(chosen, reason)
    if chosen == "xla":
        return _xla(query, key, value, mask, scale)
    return _reference(query, key, value, mask, scale, soft_cap, rate, dropout_key)


def choose(implementation: str, *, soft_cap: float | None, dropout_rate: float) -> tuple[str, str]:
    """Name of the implementation that runs, and why.

    Raises:
      ValueError: an unknown name, or an implementation that cannot express what was asked.
    """
    beyond_xla = "a soft cap" if soft_cap is not None else "dropout of probabilities" if dropout_rate else ""
    if implementation == "auto":
        return ("reference", f"only it has {beyond_xla}") if beyond_xla else ("xla", "it expresses all that is asked")
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention {implementation!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    if implementation == "xla" and beyond_xla:
        raise ValueError(f"attention 'xla' has no {beyond_xla.removeprefix('a ')}; use 'reference' or 'auto'")
    return implementation, "asked for"


@functools.cache
def _say_once(chosen: str, reason: str) -> None:
    _logger.info("attention: %s (%s)", chosen, reason)


def _reference(query, key, value, mask, scale, soft_cap, dropout_rate, dropout_key):
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


def masked_softmax(scores: jax.Array, mask: AttentionMask, soft_cap: float | None) -> jax.Array:
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


def _xla(query, key, value, mask, scale):
    """`jax.nn.dot_product_attention`, which averages over all keys where a query sees none: zeroed here."""
    visible = mask.dense(query.shape[1], key.shape[1])
    # The bias stays float32, as the scores are: in bfloat16 neighbours at a long distance would share one value.
    output = jax.nn.dot_product_attention(
        query, key, value, bias=mask.bias, mask=visible, scale=scale, implementation="xla"
    )
    if visible is None:
        return output
    sees = jnp.moveaxis(visible.any(-1), 1, 2)[..., None]
    return jnp.where(sees, output, 0).astype(query.dtype)
