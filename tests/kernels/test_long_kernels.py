"""The kernels for long sequences compute what the formula does, in values and gradients, whatever the length."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.kernels.attention import attention
from jaxft.kernels.masks import AttentionMask, balanced_order

BATCH, WIDTH = 2, 16


def segments_of(length: int, *, empty_rows: bool = False) -> jnp.ndarray:
    """Two pieces of text and padding in one row, one piece in the other, or nothing at all."""
    segments = np.zeros((BATCH, length), np.int32)
    segments[0, : length // 3], segments[0, length // 3 : -7] = 1, 2
    segments[1, : 0 if empty_rows else -3] = 1
    return jnp.asarray(segments)


def arrays(query_length: int, key_length: int, heads: int, kv_heads: int):
    draw = np.random.default_rng(query_length + key_length).normal
    shapes = [(BATCH, query_length, heads, WIDTH), *[(BATCH, key_length, kv_heads, WIDTH)] * 2]
    return tuple(jnp.asarray(draw(size=shape), jnp.float32) for shape in shapes)


def outcome(kernel: str, inputs, mask: AttentionMask, soft_cap: float | None):
    """The output and its gradients towards something fixed."""
    toward = np.random.default_rng(1).normal(size=inputs[0].shape)

    def weighted(inputs):
        out = attention(*inputs, mask, scale=0.3, soft_cap=soft_cap, implementation=kernel)
        return (out * toward).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(weighted, has_aux=True))(inputs)
    return [out, *gradients]


CASES = {
    "splash causal packed": ("splash", 256, 256, 4, 2, {"causal": True}, True, None),
    "splash full, other keys, soft cap": ("splash", 130, 200, 2, 1, {}, True, 20.0),
    "splash window": ("splash", 200, 200, 2, 2, {"window": (30, 10)}, False, None),
    "splash causal window": ("splash", 150, 150, 2, 2, {"causal": True, "window": (20, 20)}, True, None),
    "local packed": ("local", 101, 101, 4, 2, {"window": (9, 4)}, True, None),
    "local causal, soft cap": ("local", 64, 64, 2, 2, {"causal": True, "window": (20, 20)}, False, 20.0),
    "local wider than the text": ("local", 33, 33, 2, 2, {"window": (40, 40)}, True, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_kernel_is_the_formula(case):
    kernel, query_length, key_length, heads, kv_heads, described, packed, soft_cap = CASES[case]
    mask = AttentionMask(**described)
    if packed:
        other = query_length != key_length
        mask = mask.replace(
            query_segments=segments_of(query_length), key_segments=segments_of(key_length, empty_rows=other)
        )
    inputs = arrays(query_length, key_length, heads, kv_heads)
    ours, theirs = (outcome(name, inputs, mask, soft_cap) for name in (kernel, "reference"))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5)
    if packed:  # queries that see nothing
        blind = ~np.asarray(mask.sees_any())
        assert blind.any() and (np.asarray(ours[0])[blind] == 0).all()
        np.testing.assert_array_equal(mask.sees_any(), np.asarray(mask.dense(query_length, key_length)).any((1, 3)))


@pytest.mark.parametrize("kernel", ["splash", "local"])
def test_what_is_hidden_does_not_leak(kernel):
    """Other keys and values where a query must not look change not one bit of what it finds."""
    length = 256 if kernel == "splash" else 96
    mask = AttentionMask(
        causal=True, window=(24, 24), query_segments=segments_of(length), key_segments=segments_of(length)
    )
    query, key, value = arrays(length, length, 2, 2)
    run = jax.jit(lambda key, value: attention(query, key, value, mask, scale=0.3, implementation=kernel))
    before = np.asarray(run(key, value))
    visible = np.asarray(jnp.broadcast_to(mask.dense(length, length), (BATCH, 1, length, length)))[:, 0]
    for place in (0, length // 3, length - 20):
        after = np.asarray(run(key.at[:, place].add(5.0), value.at[:, place].add(7.0)))
        changed = (before != after).any((2, 3))
        np.testing.assert_array_equal(changed, visible[:, :, place])


def test_dropout_within_windows_zeroes_probabilities_and_rescales_the_others():
    length = 48
    query, key, _ = arrays(length, length, 1, 1)
    value = jnp.broadcast_to(jnp.eye(length)[None, :, None, :], (BATCH, length, 1, length))
    query, key = (jnp.pad(x, [(0, 0)] * 3 + [(0, length - WIDTH)]) for x in (query, key))
    mask = AttentionMask(window=(7, 7))

    run = jax.jit(attention, static_argnames=("scale", "dropout_rate", "implementation"))

    def shares(rate):
        options = {"scale": 0.3, "dropout_rate": rate, "implementation": "local"}
        return np.asarray(run(query, key, value, mask, dropout_key=jax.random.key(0), **options))

    kept, dropped = shares(0.0), shares(0.25)
    zeroed = (dropped == 0) & (kept > 0)
    assert 0.15 < zeroed.sum() / (kept > 0).sum() < 0.35
    # No two blocks drop alike.
    assert not np.array_equal(zeroed[:, 16:32, :, 16:32], zeroed[:, 32:48, :, 32:48])
    np.testing.assert_allclose(dropped[~zeroed], kept[~zeroed] / 0.75, rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_devices_that_share_a_length_have_as_much_to_look_at(devices):
    order = balanced_order(48, devices)
    assert sorted(order) == list(range(48))
    pairs = (order + 1).reshape(devices, -1).sum(1)  # token i sees i + 1 tokens
    assert len(set(pairs)) == 1


def test_a_mask_in_a_balanced_order_is_the_mask_of_the_sequence():
    mask = AttentionMask(causal=True, window=(9, 9))
    order = balanced_order(32, 4)
    laid = np.asarray(mask.replace(balanced=4).dense(32, 32))[0, 0]
    np.testing.assert_array_equal(laid, np.asarray(mask.dense(32, 32))[0, 0][np.ix_(order, order)])
