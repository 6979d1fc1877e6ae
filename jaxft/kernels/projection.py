"""Products of activations with weights, in float32 or with bfloat16 operands and float32 sums."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax


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
    if dtype == jnp.float32:
        return _dot(x.astype(dtype), kernel.astype(dtype), _forward_axes(x.ndim, contracted))
    return _low_precision(x.astype(dtype), kernel, contracted, dtype)


def _forward_axes(ndim: int, contracted: int):
    return tuple(range(ndim - contracted, ndim)), tuple(range(contracted))


def _dot(left, right, axes):
    return lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _low_precision(x, kernel, contracted, dtype):
    return _dot(x, kernel.astype(dtype), _forward_axes(x.ndim, contracted)).astype(dtype)


def _low_precision_forward(x, kernel, contracted, dtype):
    cast = kernel.astype(dtype)
    return _dot(x, cast, _forward_axes(x.ndim, contracted)).astype(dtype), (x, cast)


def _low_precision_backward(contracted, dtype, saved, gradient):
    x, kernel = saved
    outputs = kernel.ndim - contracted
    leading = x.ndim - contracted
    gradient = gradient.astype(dtype)
    of_x = _dot(
        gradient, kernel, (tuple(range(leading, leading + outputs)), tuple(range(contracted, contracted + outputs)))
    ).astype(dtype)
    of_kernel = _dot(x, gradient, (tuple(range(leading)), tuple(range(leading))))
    return of_x, of_kernel


_low_precision.defvjp(_low_precision_forward, _low_precision_backward)
