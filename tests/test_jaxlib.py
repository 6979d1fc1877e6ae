"""The installed jaxlib computes what it is asked."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.parametrize("size", [3, 8, 16, 33])
@pytest.mark.parametrize("rows", [2, 7])
def test_vmapped_products_of_a_matrix_and_a_vector_are_right(size, rows):
    """jaxlib 0.10.2 gives a wrong number here on CPUs (jax issue 39103); the package's requirements exclude it."""
    generator = np.random.default_rng(0)
    matrix, vectors = (jnp.asarray(generator.normal(size=(n, size)), jnp.float32) for n in (size, rows))
    sums = jax.jit(jax.vmap(lambda vector: jnp.sum((matrix @ vector) ** 2)))(vectors)
    wanted = np.square(np.asarray(vectors, np.float64) @ np.asarray(matrix, np.float64).T).sum(1)
    np.testing.assert_allclose(sums, wanted, rtol=1e-5)
