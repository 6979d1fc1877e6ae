"""Products of activations with weights, in float32 or with bfloat16 operands and float32 sums."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxft.kernels.shapes import Array
from jaxft.parallel.platform import target_platform
from jaxft.parallel.sharding import parts_of


@dataclasses.dataclass(frozen=True)
class _Contraction:
    """Which axes a product contracts, and in which dtypes it is computed.

    Attributes:
      count: contracted axes, the last of the activations.
      onto_rows: whether they are the last of the weights too, and not the first.
      dtype: of the operands and the result.
      reduce_dtype: in which devices add what each found of the weights' gradient.
    """

    count: int
    onto_rows: bool
    dtype: DTypeLike
    reduce_dtype: DTypeLike

    def axes(self, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of weights of so many axes, those that are contracted and those of the output."""
        first, last = (ndim - self.count, self.count) if self.onto_rows else (self.count, ndim - self.count)
        parts = tuple(range(first)), tuple(range(first, first + last))
        return parts[::-1] if self.onto_rows else parts


def project(
    x: Float[Array, "..."],
    kernel: Float[Array, "..."],
    contracted: int,
    dtype: DTypeLike,
    reduce_dtype: DTypeLike = jnp.float32,
) -> Float[Array, "..."]:
    """Contracts the last `contracted` axes of `x` with the first of `kernel`.

    Args:
      x: `(..., *contracted axes)`.
      kernel: `(*contracted axes, *output axes)`, float32.
      contracted: number of contracted axes.
      dtype: dtype of the operands and of the result.
      reduce_dtype: to which the gradient of the kernel that a device finds is rounded before devices add theirs.

    Returns:
      `(..., *output axes)` in `dtype`. In low precision all three products (forward and both of the backward pass) take
      `dtype` operands and sum in float32, and the gradient of the kernel is float32: a plain product would hand
      its transposes a float32 operand, which doubles their cost, or round the kernel's gradient.
    """
    if not _faster_as_matrices():
        return _product(_Contraction(contracted, False, dtype, reduce_dtype), x, kernel)
    leading, outputs = x.shape[: x.ndim - contracted], kernel.shape[contracted:]
    inner = math.prod(kernel.shape[:contracted])
    matrices = x.reshape(-1, inner), kernel.reshape(inner, -1)
    return _product(_Contraction(1, False, dtype, reduce_dtype), *matrices).reshape(*leading, *outputs)


def project_onto_rows(
    x: Float[Array, "*leading features"], table: Float[Array, "rows features"], dtype: DTypeLike
) -> Float[Array, "*leading rows"]:
    """Products of vectors with the rows of a table, as `project` with its transpose, whose gradient is a table too.

    Where the table is also read by rows, its gradients are laid out alike, or one is copied to be added to the other.

    Args:
      x: `(..., features)`.
      table: float32 `(rows, features)`.
      dtype: dtype of the operands and of the result.

    Returns:
      `(..., rows)` in `dtype`.
    """
    how = _Contraction(1, True, dtype, jnp.dtype(jnp.float32))
    if not _faster_as_matrices():
        return _product(how, x, table)
    return _product(how, x.reshape(-1, x.shape[-1]), table).reshape(*x.shape[:-1], len(table))


def add_bias(x: Float[Array, "*shape"], bias: Float[Array, "..."]) -> Float[Array, "*shape"]:
    """`x` `(..., *axes)` plus a float32 bias `(*axes)`, in the dtype of `x`.

    In low precision the bias's gradient is summed in float32, for precision, and since XLA's CPU backend sums rows of
    bfloat16 so slowly that the biases took an eighth of a BERT-base step.
    """
    return x + bias if x.dtype == jnp.float32 else _add_bias(x, bias)


@jax.custom_vjp
def _add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + bias.astype(x.dtype)


def _add_bias_forward(x: jax.Array, bias: jax.Array) -> tuple[jax.Array, int]:
    return _add_bias(x, bias), bias.ndim


def _add_bias_backward(ndim: int, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    leading = tuple(range(gradient.ndim - ndim))
    return gradient, gradient.astype(jnp.float32).sum(leading)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _faster_as_matrices() -> bool:
    """Whether axes are better merged for a product, and split again.

    XLA's CPU backend multiplies matrices twice as fast as arrays of higher rank. That of TPUs fuses less with such
    products, and gathers weights once more for the backward pass: a Llama of 1.2B took 11% more cycles so. Merging two
    axes that devices share would gather one of them.
    """
    return target_platform() == "cpu" and parts_of("length") == 1


def _product(how: _Contraction, x: jax.Array, weights: jax.Array) -> jax.Array:
    x = x.astype(how.dtype)
    return _forward(how, x, weights) if how.dtype == jnp.float32 else _low_precision(how, x, weights)


def _dot(
    left: jax.Array,
    right: jax.Array,
    axes: tuple[tuple[int, ...], tuple[int, ...]],
    dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    return lax.dot_general(left, right, (axes, ((), ())), preferred_element_type=dtype)


def _forward(how: _Contraction, x: jax.Array, weights: jax.Array) -> jax.Array:
    contracted, _ = how.axes(weights.ndim)
    return _dot(x, weights.astype(how.dtype), (tuple(range(x.ndim - how.count, x.ndim)), contracted)).astype(how.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _low_precision(how: _Contraction, x: jax.Array, weights: jax.Array) -> jax.Array:
    return _forward(how, x, weights)


def _low_precision_forward(
    how: _Contraction, x: jax.Array, weights: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    cast = weights.astype(how.dtype)
    return _forward(how, x, cast), (x, cast)


def _low_precision_backward(
    how: _Contraction, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, weights = saved
    _, outputs = how.axes(weights.ndim)
    gradient, leading = gradient.astype(how.dtype), tuple(range(x.ndim - how.count))
    of_gradient = tuple(range(len(leading), gradient.ndim))
    of_x = _dot(gradient, weights, (of_gradient, outputs)).astype(how.dtype)
    factors = (gradient, x) if how.onto_rows else (x, gradient)
    # Each device sums in float32 and rounds its sum: what they add is what the product gives.
    of_weights = _dot(*factors, (leading, leading), how.reduce_dtype).astype(jnp.float32)
    return of_x, of_weights


_low_precision.defvjp(_low_precision_forward, _low_precision_backward)
