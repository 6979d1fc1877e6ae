"""Positions enter as the papers and the reference implementations have it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from jaxft.models.positions import RelativeBias, alibi_bias, rotary_angles, rotate, rotate_by_product, sinusoidal_table


def heads(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rotary_dim", [8, 6, 2])
@pytest.mark.parametrize("base", [10000.0, 500.0])
def test_rotary_is_a_product_of_complex_numbers(rotary_dim, base):
    x = heads(2, 5, 3, 8)
    positions = np.array([[0, 1, 2, 0, 1], [7, 3, 100, 4, 4]])
    half = rotary_dim // 2
    waves = np.exp(1j * positions[..., None, None] / base ** (2 * np.arange(half) / rotary_dim))
    turned = (x[..., :half] + 1j * x[..., half:rotary_dim]) * waves
    wanted = np.concatenate([turned.real, turned.imag, x[..., rotary_dim:]], -1)
    ours = rotate(jnp.asarray(x), rotary_angles(jnp.asarray(positions), rotary_dim, base))
    np.testing.assert_allclose(ours, wanted, atol=2e-5)


def test_rotary_scores_depend_on_the_distance_alone():
    query, key = heads(8), heads(8, seed=1)

    def score(query_position: int, key_position: int) -> float:
        def turned(x, position):
            return rotate(jnp.asarray(x)[None, None, None], rotary_angles(jnp.full((1, 1), position), 8, 10000.0))

        return float((turned(query, query_position) * turned(key, key_position)).sum())

    near = [score(start + 3, start) for start in (0, 5, 50, 200)]
    np.testing.assert_allclose(near, near[0], atol=1e-4)
    assert abs(score(4, 0) - near[0]) > 1e-2 and abs(score(0, 3) - near[0]) > 1e-2


def test_rotary_keeps_lengths_and_position_zero():
    x = jnp.asarray(heads(1, 4, 2, 8))
    angles = rotary_angles(jnp.arange(4)[None], 8, 10000.0)
    ours = rotate(x, angles)
    np.testing.assert_allclose(jnp.linalg.norm(ours, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(ours[:, 0], x[:, 0])
    assert rotate(x.astype(jnp.bfloat16), angles).dtype == jnp.bfloat16


@pytest.mark.parametrize("rotary_dim", [8, 6, 2])
def test_a_product_turns_as_well_and_back(rotary_dim):
    """How TPUs turn bfloat16, here in float32, in which CPUs can compute the product, too."""
    x, gradient = jnp.asarray(heads(2, 5, 3, 8)), jnp.asarray(heads(2, 5, 3, 8, seed=1))
    angles = rotary_angles(jnp.asarray([[0, 1, 2, 0, 1], [7, 3, 100, 4, 4]]), rotary_dim, 500.0)
    plain, back = jax.vjp(lambda y: rotate(y, angles), x)
    product, back_by_product = jax.vjp(lambda y: rotate_by_product(y, *angles), x)
    np.testing.assert_allclose(product, plain, atol=1e-6)
    np.testing.assert_allclose(back_by_product(gradient)[0], back(gradient)[0], atol=1e-6)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (16, 64), (8, 20)])
def test_buckets_are_t5s(bidirectional, buckets, max_distance):
    distances = np.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(torch.tensor(distances), bidirectional, buckets, max_distance)
    # A table whose rows are their own numbers shows which row each pair of positions reads.
    module = RelativeBias(1, buckets, max_distance, bidirectional)
    table = {"params": {"table": jnp.arange(buckets, dtype=jnp.float32)[:, None]}}
    bias = module.apply(table, jnp.full((1, 1), 300), jnp.asarray(300 + distances)[None])
    assert bias.shape == (1, 1, 1, len(distances))
    np.testing.assert_array_equal(np.asarray(bias).ravel(), theirs.numpy())


def test_relative_bias_gives_each_head_its_column():
    module = RelativeBias(3, 8, 20, True)
    positions = jnp.asarray([[0, 1, 2, 0]])
    table = heads(8, 3)
    bias = np.asarray(module.apply({"params": {"table": table}}, positions, positions))
    for head in range(3):
        np.testing.assert_array_equal(np.diag(bias[0, head]), np.full(4, table[0, head]))
    # The last token stands at position 0 again, as the first does.
    np.testing.assert_array_equal(bias[0, :, 3, :3], bias[0, :, 0, :3])


# Press et al.: a geometric sequence from 2**(-8/n); for 12 heads, those of 8 and then every other one of 16.
ALIBI_SLOPES = {
    8: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256],
    12: [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5],
    1: [1 / 256],
}


@pytest.mark.parametrize("number", ALIBI_SLOPES)
def test_alibi_has_the_papers_slopes(number):
    positions = jnp.asarray([[0, 1, 2, 5], [3, 0, 1, 2]])
    bias = np.asarray(alibi_bias(positions, positions, number))
    distance = np.abs(np.asarray(positions)[:, :, None] - np.asarray(positions)[:, None, :])
    wanted = -np.asarray(ALIBI_SLOPES[number])[None, :, None, None] * distance[:, None]
    np.testing.assert_allclose(bias, wanted, rtol=1e-6)


@pytest.mark.parametrize("features", [6, 7])
def test_sinusoidal_is_vaswanis(features):
    table = sinusoidal_table(40, features)
    assert table.shape == (40, features) and table.dtype == np.float32
    waves = -(-features // 2)
    for position in (0, 1, 17, 39):
        angles = [position / 10000 ** (2 * i / features) for i in range(waves)]
        np.testing.assert_allclose(table[position], [*np.sin(angles), *np.cos(angles)][:features], atol=1e-6)


def test_positions_are_computed_alike_in_every_program():
    """A rotation inside and outside of a compiled function uses the same frequencies."""
    positions = jnp.arange(2000)[None]
    inside = jax.jit(lambda p: rotary_angles(p, 64, 10000.0))(positions)
    for one, other in zip(inside, rotary_angles(positions, 64, 10000.0), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
