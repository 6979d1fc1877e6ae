"""Kernels in eight and four bits: the published levels, bounds of the error, and what is kept exactly."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxft.kernels.quantization import BLOCK, NF4_LEVELS, dequantize, quantize, shapes_of

# Dettmers et al. 2023, arXiv 2305.14314, appendix E.
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip


def kernel(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def round_trip(values: jax.Array, form) -> np.ndarray:
    return np.asarray(dequantize(quantize(values, form), values.shape, form))


def blocks(values) -> np.ndarray:
    flat = np.ravel(values)
    return np.pad(flat, (0, -flat.size % BLOCK)).reshape(-1, BLOCK)


def test_the_levels_are_the_published_ones():
    np.testing.assert_allclose(NF4_LEVELS, PUBLISHED, atol=1e-4)


@pytest.mark.parametrize("form", ["int8", "nf4"])
@pytest.mark.parametrize("shape", [(8, 16), (3, 5, 7), (1,), (130,)])
def test_shapes_are_as_announced_and_come_back(form, shape):
    values = kernel(*shape)
    found = quantize(values, form)
    assert (found.codes.shape, found.scales.shape) == shapes_of(values.size, form)
    assert found.codes.dtype == np.uint8
    assert round_trip(values, form).shape == shape


def test_eight_bits_are_off_by_half_a_step_at_most():
    values = kernel(64, 48)
    error = np.abs(blocks(values) - blocks(round_trip(values, "int8"))).max(1)
    assert (error <= np.abs(blocks(values)).max(1) / 127 / 2 * 1.0001).all()


def test_four_bits_give_the_nearest_level():
    values = kernel(64, 48)
    scales = np.abs(blocks(values)).max(1, keepdims=True)
    distances = np.abs(blocks(values)[..., None] / scales[..., None] - np.asarray(PUBLISHED))
    wanted = np.asarray(PUBLISHED)[distances.argmin(-1)] * scales
    np.testing.assert_allclose(blocks(round_trip(values, "nf4")), wanted, atol=2e-4 * scales.max())


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_zeros_and_the_largest_of_a_block_are_kept_and_a_second_time_changes_nothing(form):
    values = kernel(4, BLOCK).at[:, 3].set(0.0).at[0].set(0.0)
    once = round_trip(values, form)
    assert not once[:, 3].any() and not once[0].any()
    largest = np.abs(np.asarray(values)).argmax(1)
    before, after = (np.take_along_axis(np.asarray(x), largest[:, None], 1)[1:, 0] for x in (values, once))
    np.testing.assert_allclose(after, before, rtol=1e-6)
    np.testing.assert_allclose(round_trip(jnp.asarray(once), form), once, atol=1e-6)


def test_four_bits_take_half_of_eight():
    assert quantize(kernel(64, 64), "nf4").codes.size * 2 == quantize(kernel(64, 64), "int8").codes.size == 64 * 64
