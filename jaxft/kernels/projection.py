"""Products of activations with weights, in float32 or with bfloat16 operands and float32 sums."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxft.parallel.sharding import parts_of


def project(x: jax.Array, kernel: jax.Array, contracted: int, dtype: jnp.dtype) -> jax.Array:
    """Contracts the last `contracted` axes of `x` with the first of `kernel`.

    Args:
      x: `(..., *contracted axes)`.
      kernel: `(*contracted axes, *output axes)`, float32.
      contracted: number of contracted axes.
      dtype: dtype of the operands and of the result.

    Returns:
      `(..., *output axes)` in `dtype`. In low precision all three products (forward and both of the backward pass) take
      `dtype` operands and sum in float32, and the gradient of the kernel stays float32: a plain product would hand
      its transposes a float32 operand, which doubles their cost, or round the kernel's gradient.
    """
    leading, outputs = x.shape[: x.ndim - contracted], kernel.shape[contracted:]
    product = _float32 if dtype == jnp.float32 else functools.partial(_low_precision, dtype)
    if parts_of("length") > 1:
        # Merging two split axes would gather one of them.
        return product(x.astype(dtype), kernel, contracted)
    # As matrices: XLA's CPU backend multiplies those twice as fast as arrays of higher rank, and for the others it is
    # the same.
    inner = math.prod(kernel.shape[:contracted])
    matrix = product(x.astype(dtype).reshape(-1, inner), kernel.reshape(inner, -1), 1)
    return matrix.reshape(*leading, *outputs)


def project_onto_rows(x: jax.Array, table: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Products of vectors with the rows of a table, as `project` with its transpose, whose gradient is a table too.

    Where the table is also read by rows, its gradients are laid out alike, or one is copied to be added to the other.

    Args:
      x: `(..., features)`.
      table: float32 `(rows, features)`.
      dtype: dtype of the operands and of the result.

    Returns:
      `(..., rows)` in `dtype`.
    """
    product = _float32_onto_rows if dtype == jnp.float32 else functools.partial(_low_precision_onto_rows, dtype)
    if parts_of("length") > 1:
        return product(x.astype(dtype), table)
    return product(x.astype(dtype).reshape(-1, x.shape[-1]), table).reshape(*x.shape[:-1], len(table))


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`x` `(..., *axes)` plus a float32 bias `(*axes)`, in the dtype of `x`.

    In low precision the bias's gradient is summed in float32, for precision, and since XLA's CPU backend sums rows of
    bfloat16 so slowly that the biases took an eighth of a BERT-base step.
    """
    return x + bias if x.dtype == jnp.float32 else _add_bias(x, bias)


@jax.custom_vjp
def _add_bias(x, bias):
    return x + bias.astype(x.dtype)


def _add_bias_forward(x, bias):
    return _add_bias(x, bias), bias.ndim


def _add_bias_backward(ndim, gradient):
    leading = tuple(range(gradient.ndim - ndim))
    return gradient, gradient.astype(jnp.float32).sum(leading)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _dot(left, right, axes):
    return lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=jnp.float32)


def _float32(x, kernel, contracted):
    return _dot(x, kernel, _forward_axes(x.ndim, contracted))


def _forward_axes(ndim: int, contracted: int):
    return tuple(range(ndim - contracted, ndim)), tuple(range(contracted))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _low_precision(dtype, x, kernel, contracted):
    return _dot(x, kernel.astype(dtype), _forward_axes(x.ndim, contracted)).astype(dtype)


def _low_precision_forward(dtype, x, kernel, contracted):
    cast = kernel.astype(dtype)
    return _dot(x, cast, _forward_axes(x.ndim, contracted)).astype(dtype), (x, cast)


def _low_precision_backward(dtype, contracted, saved, gradient):
    x, kernel = saved
    outputs, leading = kernel.ndim - contracted, x.ndim - contracted
    gradient = gradient.astype(dtype)
    of_gradient = tuple(range(leading, leading + outputs))
    of_x = _dot(gradient, kernel, (of_gradient, tuple(range(contracted, kernel.ndim)))).astype(dtype)
    of_kernel = _dot(x, gradient, (tuple(range(leading)), tuple(range(leading))))
    return of_x, of_kernel


_low_precision.defvjp(_low_precision_forward, _low_precision_backward)


def _float32_onto_rows(x, table):
    return _dot(x, table, ((x.ndim - 1,), (1,)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _low_precision_onto_rows(dtype, x, table):
    return _dot(x, table.astype(dtype), ((x.ndim - 1,), (1,))).astype(dtype)


def _low_precision_onto_rows_forward(dtype, x, table):
    cast = table.astype(dtype)
    return _dot(x, cast, ((x.ndim - 1,), (1,))).astype(dtype), (x, cast)


def _low_precision_onto_rows_backward(dtype, saved, gradient):
    x, table = saved
    gradient, leading = gradient.astype(dtype), tuple(range(x.ndim - 1))
    of_x = _dot(gradient, table, ((x.ndim - 1,), (0,))).astype(dtype)
    return of_x, _dot(gradient, x, (leading, leading))


_low_precision_onto_rows.defvjp(_low_precision_onto_rows_forward, _low_precision_onto_rows_backward)
