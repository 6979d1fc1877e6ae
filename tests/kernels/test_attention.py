"""Every attention kernel computes the same function, and that function is the field's."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxft.errors import RecipeError
from jaxft.kernels import attention as kernels
from jaxft.kernels.masks import AttentionMask

attention = jax.jit(kernels.attention, static_argnames=("scale", "soft_cap", "dropout_rate", "implementation"))

BATCH, HEADS, WIDTH = 2, 4, 8
QUERY_SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 2, 2, 3, 3, 4]], np.int32)
KEY_SEGMENTS = np.array([[1, 1, 2, 2, 2, 2, 0, 0, 3], [1, 2, 2, 3, 3, 3, 0, 0, 0]], np.int32)


def arrays(query_length: int, key_length: int, kv_heads: int = HEADS, dtype=jnp.float32):
    """Queries, keys and values of a fixed seed."""
    draw = np.random.default_rng(query_length * 100 + key_length * 10 + kv_heads).normal
    query = draw(size=(BATCH, query_length, HEADS, WIDTH))
    key, value = (draw(size=(BATCH, key_length, kv_heads, WIDTH)) for _ in range(2))
    return tuple(jnp.asarray(x, dtype) for x in (query, key, value))


def bias_of(query_length: int, key_length: int, heads: int = HEADS, batch: int = BATCH):
    return jnp.asarray(np.random.default_rng(5).normal(size=(batch, heads, query_length, key_length)), jnp.float32)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("kind", ["full", "causal", "padded", "bias", "bias and padding"])
def test_reference_is_torchs_attention(kind, kv_heads):
    query, key, value = arrays(7, 7, kv_heads)
    mask, torch_mask = AttentionMask(), None
    if kind == "causal":
        mask, torch_mask = AttentionMask(causal=True), np.tril(np.ones((7, 7), bool))
    if "padd" in kind:
        segments = np.array([[1] * 7, [1] * 4 + [0] * 3], np.int32)
        mask = mask.replace(query_segments=segments, key_segments=segments)
        torch_mask = np.broadcast_to((segments > 0)[:, None, None, :], (BATCH, 1, 7, 7))
    if "bias" in kind:
        bias = bias_of(7, 7)
        mask = mask.replace(bias=bias)
        torch_mask = bias if torch_mask is None else np.where(torch_mask, bias, -np.inf)
    ours = attention(query, key, value, mask, scale=0.3, implementation="reference")

    as_torch = [torch.tensor(np.asarray(x)).movedim(1, 2) for x in (query, key, value)]
    given = None if torch_mask is None else torch.tensor(np.array(torch_mask))
    theirs = torch.nn.functional.scaled_dot_product_attention(*as_torch, attn_mask=given, scale=0.3, enable_gqa=True)
    real = np.ones((BATCH, 7), bool) if mask.query_segments is None else mask.query_segments > 0
    np.testing.assert_allclose(np.asarray(ours)[real], theirs.movedim(1, 2).numpy()[real], atol=2e-6)


MASKS = {
    "full": {},
    "causal": {"causal": True},
    "window": {"window": (2, 1)},
    "causal window": {"causal": True, "window": (3, 3)},
    "segments": {"segments": True},
    "causal prefix": {"causal": True, "prefix": True},
    "bias": {"bias": "heads"},
    "bias of all heads": {"bias": "shared", "causal": True},
    "everything": {"causal": True, "window": (4, 2), "segments": True, "prefix": True, "bias": "heads"},
}


def make_mask(described: dict, query_length: int, key_length: int) -> AttentionMask:
    mask = AttentionMask(causal=described.get("causal", False), window=described.get("window"))
    if described.get("segments"):
        mask = mask.replace(query_segments=QUERY_SEGMENTS, key_segments=KEY_SEGMENTS[:, :key_length])
    if described.get("prefix"):
        mask = mask.replace(prefix=np.random.default_rng(3).random((BATCH, key_length)) < 0.4)
    if "bias" in described:
        one = described["bias"] == "shared"
        mask = mask.replace(bias=bias_of(query_length, key_length, *((1, 1) if one else ())))
    return mask


# Every mask with grouped heads over another length; some also with as many keys as queries, and with one key head.
SHAPES = [(name, 2, 9) for name in MASKS] + [("everything", 1, 7), ("everything", 4, 9), ("causal window", 4, 7)]


@pytest.mark.parametrize(("name", "kv_heads", "key_length"), SHAPES)
def test_xla_is_the_reference_in_values_and_gradients(name, kv_heads, key_length):
    inputs = arrays(7, key_length, kv_heads)
    mask = make_mask(MASKS[name], 7, key_length)
    toward = np.random.default_rng(9).normal(size=inputs[0].shape)

    def weighted(inputs, bias, implementation):
        out = attention(*inputs, mask.replace(bias=bias), scale=0.4, implementation=implementation)
        return (out * toward).sum(), out

    run = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True), static_argnums=2)
    ours, theirs = (jax.tree.leaves(run(inputs, mask.bias, kind)) for kind in ("xla", "reference"))
    for one, other in zip(ours, theirs, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("described", [MASKS["everything"], MASKS["causal"]], ids=["everything", "causal"])
def test_low_precision_stays_within_its_rounding(implementation, described):
    inputs = arrays(7, 9, 2, jnp.bfloat16)
    mask = make_mask(described, 7, 9)
    low = attention(*inputs, mask, scale=0.4, implementation=implementation)
    exact = attention(*(x.astype(jnp.float32) for x in inputs), mask, scale=0.4, implementation="reference")
    assert low.dtype == jnp.bfloat16
    # Probabilities and the result are rounded to 8 bits, each a relative error of at most 2**-9.
    np.testing.assert_allclose(np.asarray(low, np.float32), exact, atol=2**-7 * float(jnp.abs(inputs[2]).max()))


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_a_bias_keeps_float32_in_low_precision(implementation):
    """A bias far from zero with fine steps (ALiBi at long distances) would be flattened by bfloat16."""
    query, key, value = arrays(5, 9, dtype=jnp.bfloat16)
    bias = jnp.broadcast_to(-200.0 - 0.5 * jnp.arange(9.0), (1, 1, 5, 9))
    zeros = jnp.zeros_like(query)
    out = attention(zeros, key, value, AttentionMask(bias=bias), scale=1.0, implementation=implementation)
    shares = np.exp(-0.5 * np.arange(9)) / np.exp(-0.5 * np.arange(9)).sum()
    wanted = np.einsum("k,bkhd->bhd", shares, np.asarray(value, np.float32))
    np.testing.assert_allclose(np.asarray(out[:, 0], np.float32), wanted, atol=0.03)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_a_query_without_keys_gives_zeros_and_finite_gradients(implementation):
    inputs = arrays(7, 9)
    mask = AttentionMask(query_segments=QUERY_SEGMENTS, key_segments=KEY_SEGMENTS)
    blind = np.array(
        [[not {q} & (set(keys) - {0}) for q in row] for row, keys in zip(QUERY_SEGMENTS, KEY_SEGMENTS, strict=True)]
    )
    assert blind.any() and not blind.all()

    def of(query, key, value):
        out = attention(query, key, value, mask, scale=0.4, implementation=implementation)
        return jnp.square(out).sum(), out

    gradients, out = jax.jit(jax.grad(of, argnums=(0, 1, 2), has_aux=True))(*inputs)
    out = np.asarray(out)
    assert (out[blind] == 0).all()
    assert (np.abs(out[~blind]).max(axis=(-1, -2)) > 1e-3).all()
    assert all(np.isfinite(g).all() for g in gradients)
    assert (np.asarray(gradients[0])[blind] == 0).all()


@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_soft_cap_is_gemmas(implementation):
    query, key, value = (10 * np.asarray(x) for x in arrays(5, 5))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) * 0.3
    scores = 20.0 * np.tanh(scores / 20.0)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    wanted = np.einsum("bhqk,bkhd->bqhd", shares, value)
    ours = attention(
        *map(jnp.asarray, (query, key, value)), AttentionMask(), scale=0.3, soft_cap=20.0, implementation=implementation
    )
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_dropout_zeroes_probabilities_and_rescales_the_others():
    query, key, _ = arrays(9, 9)
    # With the identity as values the output is the matrix of probabilities itself.
    value = jnp.broadcast_to(jnp.eye(9)[None, :, None, :], (BATCH, 9, HEADS, 9))
    query, key = (jnp.pad(x, [(0, 0)] * 3 + [(0, 1)]) for x in (query, key))
    run = functools.partial(attention, query, key, value, AttentionMask(causal=True), scale=0.3)
    kept = np.asarray(run())
    dropped = np.asarray(run(dropout_rate=0.25, dropout_key=jax.random.key(0)))
    zeroed = (dropped == 0) & (kept > 0)
    assert 0.1 < zeroed.sum() / (kept > 0).sum() < 0.4
    np.testing.assert_allclose(dropped[~zeroed], kept[~zeroed] / 0.75, rtol=1e-5)
    np.testing.assert_array_equal(run(dropout_rate=0.25), kept)


def test_what_a_kernel_cannot_express_is_refused():
    run = functools.partial(attention, *arrays(3, 3), AttentionMask(), scale=1.0)
    with pytest.raises(RecipeError, match=r"soft cap.*'reference'"):
        run(soft_cap=5.0, implementation="xla")
    with pytest.raises(RecipeError, match=r"dropout.*'reference'"):
        run(dropout_rate=0.1, dropout_key=jax.random.key(0), implementation="xla")
    with pytest.raises(RecipeError, match=r"'flash' is not one of .*xla"):
        run(implementation="flash")
    # Without a key there is no dropout, and nothing to refuse.
    np.testing.assert_array_equal(run(dropout_rate=0.1, implementation="xla"), run(implementation="xla"))
