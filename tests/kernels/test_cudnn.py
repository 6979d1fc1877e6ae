"""What cuDNN is asked for says all of a mask: JAX's own implementation of the same words is the formula."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.kernels.attention import attention
from jaxft.kernels.cudnn import in_words_of_jax
from jaxft.kernels.masks import AttentionMask

BATCH, HEADS, KV_HEADS, WIDTH = 3, 4, 2, 8
PACKED = np.array([[1, 1, 1, 2, 2, 2, 0, 0], [1, 1, 2, 2, 3, 3, 4, 4], [1] * 8], np.int32)
# Row lengths 5, 8 and none at all, as in what fills up a batch.
PADDED = np.array([[1] * 5 + [0] * 3, [1] * 8, [0] * 8], np.int32)
SHORTER = np.array([[1] * 2 + [0] * 4, [1] * 3 + [0] * 3, [1] * 6], np.int32)


def segments(queries, keys, **fields) -> AttentionMask:
    return AttentionMask(query_segments=queries, key_segments=keys, **fields)


def bias(keys: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, HEADS, 8, keys)).astype(np.float32)


MASKS = {
    "full": AttentionMask(),
    "causal": AttentionMask(causal=True),
    "window of the past": AttentionMask(causal=True, window=(2, 0)),
    "window": AttentionMask(window=(2, 1)),
    "packed": segments(PACKED, PACKED),
    "packed, causal": segments(PACKED, PACKED, causal=True),
    "packed, window of the past": segments(PACKED, PACKED, causal=True, window=(1, 0)),
    "padded": segments(PADDED, PADDED, padded=True),
    "padded, causal": segments(PADDED, PADDED, padded=True, causal=True),
    "padded, window": segments(PADDED, PADDED, padded=True, window=(1, 1)),
    "padded, bias": segments(PADDED, PADDED, padded=True, bias=bias()),
    "padded, across": segments(PADDED, SHORTER, padded=True),
    "packed, bias": segments(PACKED, PACKED, bias=bias()),
    "prefix": segments(PACKED, PACKED, causal=True, prefix=PACKED == 1),
    "padded, prefix": segments(PADDED, PADDED, padded=True, causal=True, prefix=np.arange(8) < 3 * PADDED),
}


@pytest.mark.parametrize("name", MASKS)
def test_the_words_say_all_of_a_mask(name):
    mask = MASKS[name]
    keys = 8 if mask.key_segments is None else mask.key_segments.shape[1]
    draw = np.random.default_rng(0).normal
    query = jnp.asarray(draw(size=(BATCH, 8, HEADS, WIDTH)), jnp.float32)
    key, value = (jnp.asarray(draw(size=(BATCH, keys, KV_HEADS, WIDTH)), jnp.float32) for _ in range(2))
    visible = mask.dense(8, keys)
    sees = np.ones((BATCH, 8), bool)
    if visible is not None:
        sees = np.broadcast_to(visible.any(-1)[:, 0], (BATCH, 8))
    toward = draw(size=query.shape) * sees[..., None, None]

    def words(query, key, value):
        asked = in_words_of_jax(mask, 8, keys, jnp.float32)
        return jax.nn.dot_product_attention(query, key, value, scale=0.4, implementation="xla", **asked)

    def formula(query, key, value):
        return attention(query, key, value, mask, scale=0.4, implementation="reference")

    def values_and_gradients(function):
        output, pull = jax.vjp(function, query, key, value)
        return output, *pull(jnp.asarray(toward, jnp.float32))

    found = [jax.jit(values_and_gradients, static_argnums=0)(function) for function in (words, formula)]
    for ours, theirs in zip(*found, strict=True):
        assert np.isfinite(ours).all()
        keep = sees[..., None, None] if ours.shape == query.shape else True
        np.testing.assert_allclose(np.where(keep, ours, 0), np.where(keep, theirs, 0), atol=2e-5)


@pytest.mark.parametrize("name", ["padded", "padded, causal", "padded, bias", "padded, across"])
def test_padding_behind_rows_needs_no_array_of_pairs(name):
    mask = MASKS[name]
    asked = in_words_of_jax(mask, 8, mask.key_segments.shape[1], jnp.bfloat16)
    assert "mask" not in asked
    # A row of padding alone keeps a token, or its softmax were over nothing.
    np.testing.assert_array_equal(asked["query_seq_lengths"], [5, 8, 1])


@pytest.mark.parametrize("name", MASKS)
def test_no_query_is_left_without_a_key(name):
    """Where cuDNN's gradients are NaN with some lengths; only rows of nothing but padding are longer than they see."""
    asked = in_words_of_jax(MASKS[name], 8, 8, jnp.bfloat16)
    if "mask" in asked:
        assert asked["mask"].any(-1).all()


def test_a_bias_has_the_dtype_of_the_queries():
    assert in_words_of_jax(MASKS["packed, bias"], 8, 8, jnp.bfloat16)["bias"].dtype == jnp.bfloat16
