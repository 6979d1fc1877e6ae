"""Sums over predicted tokens for a part of them at a time, with their gradients found on the way forward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxft.kernels.shapes import Array, Hidden, OfTokens, Scalar
from jaxft.parallel.sharding import UNCONSTRAINED, constrain, parts_of
from jaxft.parallel.trees import Parameters, Tree
from jaxft.training.state import joined, split

Sums = tuple[Scalar, Scalar]
# From parameters, hidden states `(tokens, embed)`, labels and weights `(tokens,)` to two float32 scalars.
SumsOfTokens = Callable[[Parameters, jax.Array, jax.Array, jax.Array], Sums]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def sums_in_parts(
    function: SumsOfTokens,
    parts: int,
    reduce_dtype: jnp.dtype,
    parameters: Parameters,
    hidden: Hidden,
    labels: OfTokens,
    weights: Float[Array, "batch length"],
) -> Sums:
    """What a function sums over tokens that are given to it in parts, one after the other.

    The gradient of a part is found while what it is computed from is in memory, as in Liger Kernel (Hsu et al. 2024,
    arXiv 2410.10989): what becomes of a sum changes its gradient by a factor alone. So nothing is computed twice. Of
    several devices each sums the gradients of the parameters over its own tokens; these meet once, after the last part.

    Args:
      function: to a loss, and to a second sum that has no gradient.
      parts: how many there are.
      reduce_dtype: in which devices add what each has summed of the gradients of matrices.
      parameters: tree of the arrays that the function reads.
      hidden: `(batch, length, embed)`.
      labels: int32 `(batch, length)`.
      weights: float32 `(batch, length)`, constants. Tokens that fill up a part have 0.

    Returns:
      Both sums over all tokens.
    """

    def sums(*arguments: Any) -> tuple[Sums, None]:
        return function(*arguments), None

    return _over_parts(sums, parts, reduce_dtype, parameters, hidden, labels, weights)[0]


def _forward(
    function: SumsOfTokens,
    parts: int,
    reduce_dtype: jnp.dtype,
    parameters: Tree,
    hidden: Any,
    labels: Any,
    weights: Any,
) -> tuple[Sums, tuple[Tree, jax.Array | None]]:
    """The sums, and the gradients of the first by those parameters and hidden states that are asked for theirs."""
    wanted = jax.tree.map(lambda leaf: leaf.perturbed, (parameters, hidden))
    parameters, hidden, labels, weights = jax.tree.map(lambda leaf: leaf.value, (parameters, hidden, labels, weights))

    def sums_and_gradients(
        parameters: Parameters, hidden: jax.Array, labels: jax.Array, weights: jax.Array
    ) -> tuple[tuple[Sums, Tree], jax.Array | None]:
        own, others = split((parameters, hidden), wanted)

        def loss(own: Tree) -> tuple[jax.Array, Sums]:
            parameters, hidden = joined(own, others)
            sums = function(parameters, hidden, labels, weights)
            return sums[0], sums

        (of_parameters, of_hidden), sums = jax.grad(loss, has_aux=True)(own)
        return (sums, of_parameters), of_hidden

    (sums, of_parameters), of_hidden = _over_parts(
        sums_and_gradients, parts, reduce_dtype, parameters, hidden, labels, weights
    )
    if of_hidden is not None:
        of_hidden = _gathered_in(of_hidden, hidden.shape)
    # Or the compiler keeps what each device has summed until the gradient of a tied embedding is there to be added.
    return sums, jax.lax.optimization_barrier((of_parameters, of_hidden))


def _backward(
    function: SumsOfTokens, parts: int, reduce_dtype: jnp.dtype, gradients: Tree, cotangents: tuple[Any, Any]
) -> tuple[Tree, ...]:
    factor = cotangents[0]
    return *jax.tree.map(lambda leaf: (factor * leaf).astype(leaf.dtype), gradients), None, None


sums_in_parts.defvjp(_forward, _backward, symbolic_zeros=True)


def _over_parts(
    function: Callable[..., tuple[Tree, Tree]],
    parts: int,
    reduce_dtype: jnp.dtype,
    parameters: Parameters,
    hidden: jax.Array,
    labels: jax.Array,
    weights: jax.Array,
) -> tuple[Tree, Tree]:
    """Of a pair of trees that a function gives for tokens of one device, the first summed over all devices and parts.

    The second has an array of every part, `(parts, rows, columns, tokens, ...)` as `_dealt`.
    """
    devices = parts_of("batch"), parts_of("length")
    if devices != (1, 1):
        # A copy for each device, or the parameters were gathered for every part again.
        parameters = jax.tree.map(lambda x: _on_its_device(jnp.broadcast_to(x, (*devices, *x.shape))), parameters)

    def each(tokens: tuple[jax.Array, ...]) -> tuple[Tree, Tree]:
        if devices != (1, 1):
            return jax.vmap(jax.vmap(function))(parameters, *tokens)
        # A product of arrays with two more axes takes CPUs twice as long.
        found = function(parameters, *(x[0, 0] for x in tokens))
        return jax.tree.map(lambda x: x[None, None], found)

    def add(sums: Tree, tokens: tuple[jax.Array, ...]) -> tuple[Tree, Tree]:
        new, by_token = each(tokens)
        return jax.tree.map(lambda old, new: _on_its_device(old + new), sums, new), by_token

    dealt = tuple(_dealt(x, parts) for x in (hidden, labels, weights))
    shapes, _ = jax.eval_shape(each, tuple(x[0] for x in dealt))
    zeros = jax.tree.map(lambda leaf: _on_its_device(jnp.zeros(leaf.shape, leaf.dtype)), shapes)
    sums, by_token = jax.lax.scan(add, zeros, dealt)
    return jax.tree.map(lambda x: _met(x, reduce_dtype), sums), by_token


def _met(x: jax.Array, reduce_dtype: jnp.dtype) -> jax.Array:
    """What the devices have found by themselves, `(rows, columns, ...)`, added, matrices in `reduce_dtype`."""
    if x.ndim < 4:
        return x.sum((0, 1))
    # Not by `sum`, which would add in float32.
    zero = jnp.zeros((), reduce_dtype)
    return jax.lax.reduce(x.astype(reduce_dtype), zero, jax.lax.add, (0, 1)).astype(x.dtype)


def _on_its_device(x: jax.Array) -> jax.Array:
    """An array `(rows, columns, ...)` with what each device found by itself."""
    return constrain(x, "batch", "length", *[UNCONSTRAINED] * (x.ndim - 2))


def _dealt(x: jax.Array, parts: int) -> jax.Array:
    """Of `(batch, length, ...)` the tokens of each device, `(parts, rows, columns, tokens, ...)`, filled up with zeros.

    There are as many rows and columns as parts of a batch and of a length that devices hold.
    """
    batch, rest = x.shape[0], x.shape[2:]
    rows, columns = parts_of("batch"), parts_of("length")
    x = _filled(x, 1, columns)
    x = x.reshape(rows, batch // rows, columns, -1, *rest).swapaxes(1, 2).reshape(rows, columns, -1, *rest)
    x = _filled(x, 2, parts)
    x = jnp.moveaxis(x.reshape(rows, columns, parts, -1, *rest), 2, 0)
    return constrain(x, None, "batch", "length", *[None] * (x.ndim - 3))


def _gathered_in(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What `_dealt` took apart, of shape `(batch, length, ...)`, without what filled it up."""
    (batch, length), rest = shape[:2], shape[2:]
    rows, columns = x.shape[1:3]
    tokens = batch // rows * -(-length // columns)
    x = jnp.moveaxis(x, 0, 2).reshape(rows, columns, -1, *rest)[:, :, :tokens]
    x = x.reshape(rows, columns, batch // rows, -1, *rest).swapaxes(1, 2).reshape(batch, -1, *rest)[:, :length]
    return constrain(x, "batch", None if length % columns else "length", *[None] * len(rest))


def _filled(x: jax.Array, axis: int, divisor: int) -> jax.Array:
    """With zeros at the end of an axis, so that its length divides."""
    room = [(0, 0)] * x.ndim
    room[axis] = (0, -x.shape[axis] % divisor)
    return jnp.pad(x, room)
