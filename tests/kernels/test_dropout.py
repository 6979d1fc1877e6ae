"""Dropout has the rate and the scale that were asked for, and each key its own mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.kernels import dropout as kernels

dropout = jax.jit(kernels.dropout, static_argnums=1)


@pytest.mark.parametrize(
    ("rate", "shape"), [(0.03, (200, 500)), (0.1, (1000, 101)), (0.5, (7, 11, 1301)), (0.9, (100_001,))]
)
def test_the_rate_is_within_four_standard_deviations(rate, shape):
    kept = np.asarray(dropout(jnp.ones(shape), rate, jax.random.key(1))) > 0
    spread = np.sqrt(rate * (1 - rate) / kept.size)
    assert abs((1 - kept.mean()) - rate) < 4 * spread + 2**-16


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_kept_values_are_scaled_by_one_over_the_share_kept(rate):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 33)), jnp.float32)
    out = np.asarray(dropout(x, rate, jax.random.key(0)))
    kept = out != 0
    ratios = out[kept] / np.asarray(x)[kept]
    np.testing.assert_allclose(ratios, ratios[0], rtol=5e-7)
    # The rate is rounded to a multiple of 2**-16, and the scale with it.
    assert abs(1 / ratios[0] - (1 - rate)) <= 2**-17 + 1e-7
    if rate == 0.5:
        np.testing.assert_array_equal(out[kept], 2 * np.asarray(x)[kept])


def test_the_expectation_stays_in_low_precision():
    """A scale rounded to bfloat16 would shift every expectation by up to 0.2 %."""
    x = jnp.asarray(np.random.default_rng(0).uniform(1, 2, size=200_000), jnp.bfloat16)
    out = np.asarray(dropout(x, 0.1, jax.random.key(0)), np.float64)
    kept = out != 0
    ratios = out[kept] / np.asarray(x, np.float64)[kept]
    spread = ratios.std() / np.sqrt(kept.sum())
    assert abs(ratios.mean() - 1 / 0.9) < 5 * spread + 2e-5


def test_without_a_key_or_a_rate_nothing_happens():
    x = jnp.arange(10.0)
    assert kernels.dropout(x, 0.5, None) is x
    assert kernels.dropout(x, 0.0, jax.random.key(0)) is x


@pytest.mark.parametrize("features", [1, 2, 7, 8])
def test_any_width_of_the_last_axis(features):
    x = jnp.ones((3000, features), jnp.bfloat16)
    out = np.asarray(dropout(x, 0.5, jax.random.key(3)), np.float32)
    assert out.shape == x.shape and set(np.unique(out)) == {0.0, 2.0}
    # Every column is dropped at the rate, wherever the halves of the random words meet.
    assert (np.abs((out == 0).mean(0) - 0.5) < 4 * 0.5 / np.sqrt(3000)).all()


def test_masks_of_different_keys_are_independent():
    masks = [np.asarray(dropout(jnp.ones(40_000), 0.3, jax.random.key(i))) == 0 for i in range(3)]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs((masks[one] & masks[other]).mean() - 0.09) < 4 * np.sqrt(0.09 * 0.91 / 40_000)
    np.testing.assert_array_equal(masks[0], np.asarray(dropout(jnp.ones(40_000), 0.3, jax.random.key(0))) == 0)


def test_the_two_halves_of_a_random_word_are_independent():
    mask = np.asarray(dropout(jnp.ones((2000, 64)), 0.3, jax.random.key(0))) == 0
    columns = np.corrcoef(mask.T.astype(float)) - np.eye(64)
    # The largest of 2016 correlations, each of standard deviation 1/sqrt(2000).
    assert np.abs(columns).max() < 5.5 / np.sqrt(2000)


def test_gradients_pass_where_values_pass():
    x = jnp.ones(1000)
    out = dropout(x, 0.4, jax.random.key(0))
    gradient = jax.grad(lambda x: dropout(x, 0.4, jax.random.key(0)).sum())(x)
    np.testing.assert_allclose(gradient, out)
