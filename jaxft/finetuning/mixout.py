"""Mixout (Lee et al. 2020, arXiv 1909.11299): dropout whose value is the parameter at the start instead of zero."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxft.parallel.trees import Flags, Parameters


def mixout(rate: float, anchored: Flags) -> Callable[[Parameters, Parameters | None, jax.Array], Parameters]:
    """What a step's parameters become: each number with probability `rate` that of the start, the mean kept.

    Args:
      rate: in (0, 1).
      anchored: tree of booleans: what has a start.

    Returns:
      A function of parameters, those at the start, and a random key.
    """
    return functools.partial(_mixed, rate, anchored)


def _mixed(
    rate: float, anchored: Flags, parameters: Parameters, origin: Parameters | None, key: jax.Array
) -> Parameters:
    leaves, structure = jax.tree.flatten(parameters)
    others = zip(leaves, jax.tree.leaves(origin), jax.tree.leaves(anchored), strict=True)

    def mixed(number: int, leaf: jax.Array, start: jax.Array, own: bool) -> jax.Array:
        if not own or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        replaced = jax.random.bernoulli(jax.random.fold_in(key, number), rate, leaf.shape)
        # So that the mean over choices is the parameter itself.
        return (jnp.where(replaced, start, leaf) - rate * start) / (1 - rate)

    return jax.tree.unflatten(structure, [mixed(i, *one) for i, one in enumerate(others)])
