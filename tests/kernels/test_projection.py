"""Projections are contractions, and in low precision every product stays in low precision."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxft.kernels.projection import add_bias, project, project_onto_rows
from jaxft.parallel.platform import planned_for

# Shape of x, shape of the kernel, contracted axes, and the same contraction in letters.
CASES = [
    ((3, 8), (8, 5), 1, "ab,bc->ac"),
    ((2, 3, 8), (8, 4, 6), 1, "abc,cde->abde"),
    ((2, 3, 4, 6), (4, 6, 8), 2, "abcd,cde->abe"),
    ((2, 3, 2, 4, 3), (2, 4, 3, 5, 2), 3, "abcde,cdefg->abfg"),
    ((8,), (8, 3), 1, "a,ab->b"),
]


@pytest.fixture(autouse=True, params=["cpu", "tpu"])
def platform(request):
    """That products are made for: as matrices, and with axes as they are."""
    with planned_for(request.param):
        yield request.param


def draw(*shapes):
    generator = np.random.default_rng(0)
    return [jnp.asarray(generator.normal(size=shape), jnp.float32) for shape in shapes]


def gradients(product, x, kernel, toward):
    """Those of `x` and of the kernel, where `toward` is the gradient of the product."""
    return jax.jit(jax.grad(lambda x, kernel: (product(x, kernel).astype(jnp.float32) * toward).sum(), (0, 1)))(
        x, kernel
    )


@pytest.mark.parametrize(("x_shape", "kernel_shape", "contracted", "letters"), CASES)
def test_float32_is_the_einsum_in_values_and_gradients(x_shape, kernel_shape, contracted, letters):
    x, kernel = draw(x_shape, kernel_shape)
    ours = project(x, kernel, contracted, jnp.float32)
    theirs = np.einsum(letters, np.asarray(x, np.float64), np.asarray(kernel, np.float64))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    (toward,) = draw(theirs.shape)
    pairs = zip(
        gradients(lambda x, k: project(x, k, contracted, jnp.float32), x, kernel, toward),
        gradients(lambda x, k: jnp.einsum(letters, x, k), x, kernel, toward),
        strict=True,
    )
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("x_shape", "kernel_shape", "contracted", "letters"), CASES)
def test_bfloat16_errs_by_its_rounding_alone(x_shape, kernel_shape, contracted, letters):
    x, kernel = draw(x_shape, kernel_shape)
    low = project(x, kernel, contracted, jnp.bfloat16)
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x, kernel)]
    exact = np.einsum(letters, *rounded)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(low, np.float64), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_rows_of_a_table_are_a_kernel_transposed(leading, dtype):
    x, table, toward = draw((*leading, 8), (5, 8), (*leading, 5))
    ours = (
        project_onto_rows(x, table, dtype),
        *gradients(lambda x, table: project_onto_rows(x, table, dtype), x, table, toward),
    )
    # XLA's CPU backend has no such product of more than matrices in 16 bits.
    with planned_for("cpu"):
        theirs = (
            project(x, table.T, 1, dtype),
            *gradients(lambda x, table: project(x, table.T, 1, dtype), x, table, toward),
        )
    assert [one.dtype for one in ours] == [dtype, jnp.float32, jnp.float32]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("x_shape", "kernel_shape", "contracted", "letters"), CASES)
def test_bfloat16_gradients(x_shape, kernel_shape, contracted, letters):
    x, kernel = draw(x_shape, kernel_shape)
    (toward,) = draw(np.einsum(letters, x, kernel).shape)
    toward = toward.astype(jnp.bfloat16).astype(jnp.float32)
    of_x, of_kernel = gradients(
        lambda x, k: project(x, k, contracted, jnp.bfloat16), x.astype(jnp.bfloat16), kernel, toward
    )
    exact_x, exact_kernel = gradients(lambda x, k: jnp.einsum(letters, x, k), x, kernel, toward)
    assert of_x.dtype == jnp.bfloat16 and of_kernel.dtype == jnp.float32
    for low, exact in ((of_x, exact_x), (of_kernel, exact_kernel)):
        exact = np.asarray(exact)
        # Both operands of each product are rounded once: the error is small beside the gradient's size.
        assert np.linalg.norm(np.asarray(low, np.float32) - exact) <= 2**-7 * np.linalg.norm(exact)


def test_the_kernels_gradient_is_not_rounded():
    x, kernel, toward = draw((64, 8), (8, 5), (64, 5))
    _, of_kernel = gradients(lambda x, k: project(x, k, 1, jnp.bfloat16), x.astype(jnp.bfloat16), kernel, toward)
    rounded = of_kernel.astype(jnp.bfloat16).astype(jnp.float32)
    assert (np.asarray(of_kernel) != np.asarray(rounded)).mean() > 0.9


def dots(jaxpr) -> list:
    """All `dot_general` equations of a jaxpr, those of inner jaxprs too."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append(equation)
        for inner in jaxprs_in_params(equation.params):
            found += dots(inner)
    return found


@pytest.mark.parametrize(("x_shape", "kernel_shape", "contracted", "letters"), CASES)
def test_all_three_products_take_bfloat16_and_sum_in_float32(x_shape, kernel_shape, contracted, letters):
    x, kernel = draw(x_shape, kernel_shape)

    def loss(x, kernel):
        return jnp.square(project(x, kernel, contracted, jnp.bfloat16).astype(jnp.float32)).sum()

    products = dots(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x.astype(jnp.bfloat16), kernel).jaxpr)
    assert len(products) == 3
    for product in products:
        assert [v.aval.dtype for v in product.invars] == [jnp.bfloat16, jnp.bfloat16]
        assert product.outvars[0].aval.dtype == jnp.float32


@pytest.mark.parametrize(("x_shape", "kernel_shape", "contracted", "letters"), CASES)
def test_devices_add_16_bits_of_the_kernels_gradient_where_asked(x_shape, kernel_shape, contracted, letters):
    """Of the three products the kernel's gradient alone leaves its device rounded; the optimizer gets float32."""
    x, kernel = draw(x_shape, kernel_shape)
    (toward,) = draw(np.einsum(letters, x, kernel).shape)

    def products_and_gradients(reduce_dtype):
        def run(x, kernel):
            return gradients(lambda x, k: project(x, k, contracted, jnp.bfloat16, reduce_dtype), x, kernel, toward)

        found = dots(jax.make_jaxpr(run)(x.astype(jnp.bfloat16), kernel).jaxpr)
        return [one.outvars[0].aval for one in found], run(x.astype(jnp.bfloat16), kernel)

    (_, exact), (products, rounded) = map(products_and_gradients, (jnp.float32, jnp.bfloat16))
    low = [one.shape for one in products if one.dtype == jnp.bfloat16]
    assert len(products) == 3 and [math.prod(shape) for shape in low] == [kernel.size]
    np.testing.assert_array_equal(exact[0], rounded[0])
    assert rounded[1].dtype == jnp.float32
    np.testing.assert_allclose(exact[1], rounded[1], rtol=2**-8)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (7, 4)])
def test_a_biass_gradient_is_summed_in_float32_whatever_the_precision(shape):
    bias_shape = shape[2:] or shape[1:]
    x, toward, bias = draw(shape, shape, bias_shape)
    summed = np.asarray(jnp.asarray(toward, jnp.bfloat16), np.float64).sum(tuple(range(len(shape) - len(bias_shape))))

    def loss(bias, dtype):
        return (add_bias(x.astype(dtype), bias).astype(jnp.float32) * toward.astype(dtype).astype(jnp.float32)).sum()

    np.testing.assert_array_equal(add_bias(x, bias), x + bias)
    assert add_bias(x.astype(jnp.bfloat16), bias).dtype == jnp.bfloat16
    gradient = jax.grad(loss)(bias, jnp.bfloat16)
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, summed, rtol=1e-5, atol=1e-6)
