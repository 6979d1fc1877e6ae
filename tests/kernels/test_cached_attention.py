"""Attention to a cache and to new tokens is attention to both of them joined."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.kernels.attention import attention
from jaxft.kernels.cached_attention import cached_attention
from jaxft.kernels.masks import AttentionMask, ring_positions

BATCH, HEADS, KV_HEADS, HEAD_DIM = 3, 4, 2, 8


def _drawn(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("new", [1, 3])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("window", [None, (4, 4)])
def test_the_last_tokens_of_a_sequence(new, soft_cap, window):
    """Queries of a whole pass, and the same ones with the keys before them out of a cache that ends in rubbish."""
    length, slots = 9, 12
    query, key, value = _drawn(
        (BATCH, length, HEADS, HEAD_DIM), (BATCH, length, KV_HEADS, HEAD_DIM), (BATCH, length, KV_HEADS, HEAD_DIM)
    )
    how = {"scale": 0.3, "soft_cap": soft_cap}
    whole = attention(query, key, value, AttentionMask(causal=True, window=window), implementation="reference", **how)
    before = length - new

    def cached(x):
        return jnp.pad(x[:, :before], ((0, 0), (0, slots - before), (0, 0), (0, 0)), constant_values=7.0)

    lengths = jnp.full((BATCH,), before)
    places = lengths[:, None] + jnp.arange(new)
    mask = AttentionMask(
        causal=True,
        window=window,
        query_positions=places,
        key_positions=jnp.concatenate([ring_positions(lengths, slots), places], axis=1),
    )
    parts = [(cached(key), cached(value)), (key[:, before:], value[:, before:])]
    found = cached_attention(query[:, before:], parts, mask, **how)
    np.testing.assert_allclose(found, whole[:, before:], atol=1e-5)


@pytest.mark.parametrize("length", [1, 2])
def test_a_query_that_sees_nothing_gets_zeros(length):
    query, key = _drawn((BATCH, length, HEADS, HEAD_DIM), (BATCH, 5, KV_HEADS, HEAD_DIM))
    segments = jnp.zeros((BATCH, 5), jnp.int32).at[1:].set(1)
    mask = AttentionMask(query_segments=jnp.ones((BATCH, length), jnp.int32), key_segments=segments)
    found = np.asarray(cached_attention(query, [(key, key)], mask, scale=1.0))
    assert (found[0] == 0).all() and (found[1:] != 0).all()


def test_which_token_a_slot_holds():
    """Written in turn on the host, for all lengths around one and two rounds of the ring."""
    slots = 5
    for length in range(14):
        held = np.full(slots, -1)
        for token in range(length):
            held[token % slots] = token
        found = np.asarray(ring_positions(jnp.asarray([length]), slots))[0]
        np.testing.assert_array_equal(np.where(found < 0, -1, found), held)
