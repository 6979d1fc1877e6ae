"""How the gradients of several streams become one: clipping, weights, conflicts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxft.errors import InvalidField
from jaxft.parallel.trees import Tree


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Clipping of gradients by their global norm.

    Attributes:
      norm: largest norm; 0 clips nothing.
      scope: `stream` clips every stream's gradient by itself, before its weight, so that the large gradient of one
        cannot shrink another's (a replay of pretraining data often has a larger gradient than the task); `total` clips
        their sum.
    """

    norm: float = 1.0
    scope: Literal["stream", "total"] = "stream"

    def __post_init__(self) -> None:
        if self.norm < 0:
            raise InvalidField("norm", f"must not be negative (0 clips nothing), found {self.norm}")


@dataclasses.dataclass(frozen=True)
class BalanceConfig:
    """How the first stream, the task, is protected from the others, beyond clipping and weights.

    Attributes:
      method: `none`; `norm`: every other gradient is made as long as the first's before its weight; `project`: what of
        another gradient points against the first's is taken out of it (Yu et al. 2020, arXiv 2001.06782, where both
        sides give way; here the first never does).
      cosine: whether the cosine of each other gradient with the first is reported.
    """

    method: Literal["none", "norm", "project"] = "none"
    cosine: bool = False


@dataclasses.dataclass(frozen=True)
class Combined:
    """One gradient out of several.

    Attributes:
      gradient: tree of float32 arrays.
      norm: of it, float32 scalar.
      cosines: of each gradient but the first with the first, float32 scalars; empty where nothing asks for them.
    """

    gradient: Any
    norm: jax.Array
    cosines: tuple[jax.Array, ...]


def combine(
    gradients: Sequence[Any],
    means: Sequence[jax.Array],
    norms: Sequence[jax.Array],
    weights: Sequence[jax.Array | float],
    clip: ClipConfig,
    balance: BalanceConfig,
) -> Combined:
    """The weighted sum of the streams' mean gradients, clipped and balanced.

    Args:
      gradients: of the streams' summed losses, the task's first.
      means: factors that make them gradients of means.
      norms: of the mean gradients.
      weights: of the streams.
      clip: clipping.
      balance: protection of the first.
    """
    # One factor for each tree, so that every gradient is read once.
    factors = [weight * mean for weight, mean in zip(weights, means, strict=True)]
    if clip.scope == "stream":
        factors = [factor * clip_factor(norm, clip.norm) for factor, norm in zip(factors, norms, strict=True)]
    if balance.method == "norm":
        shared = clip_factor(norms[0], clip.norm) if clip.scope == "stream" else 1.0
        others = zip(weights[1:], means[1:], norms[1:], strict=True)
        factors[1:] = [w * mean * shared * norms[0] / jnp.maximum(norm, 1e-9) for w, mean, norm in others]
    cosines: tuple[jax.Array, ...] = ()
    if balance.method == "project" or balance.cosine:
        pairs = zip(gradients[1:], means[1:], norms[1:], strict=True)
        cosines = tuple(
            _dot(gradient, gradients[0]) * mean * means[0] / jnp.maximum(norm * norms[0], 1e-9)
            for gradient, mean, norm in pairs
        )
    if balance.method == "project":
        for cosine, factor, mean, norm in zip(cosines, factors[1:], means[1:], norms[1:], strict=True):
            against = jnp.minimum(cosine, 0.0) * norm / jnp.maximum(norms[0], 1e-9) * means[0] / mean
            factors[0] = factors[0] - factor * against
    total = jax.tree.map(lambda *leaves: sum(g * f for g, f in zip(leaves, factors, strict=True)), *gradients)
    norm = norms[0] * factors[0] / means[0] if len(gradients) == 1 else global_norm(total)
    if clip.scope == "total":
        shrink = clip_factor(norm, clip.norm)
        total = jax.tree.map(lambda g: g * shrink, total)
    return Combined(total, norm, cosines)


def clip_factor(norm: jax.Array, largest: float) -> jax.Array | float:
    """What a gradient of this norm is multiplied by."""
    return jnp.minimum(1.0, largest / jnp.maximum(norm, 1e-9)) if largest else 1.0


def global_norm(tree: Tree) -> jax.Array:
    """Euclidean norm of all leaves together, float32."""
    return jnp.sqrt(_dot(tree, tree))


def _dot(one: Tree, other: Tree) -> jax.Array:
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    products = [_product(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in leaves]
    return functools.reduce(jnp.add, products, jnp.float32(0))


def _product(one: jax.Array, other: jax.Array) -> jax.Array:
    """Sum of the products of all elements.

    On CPUs as one product of vectors, which takes one pass: XLA writes the products out and reads them again to sum
    them, which cost a tenth of a BERT-base step. Accelerators fuse the two, and have better uses for their matrix
    units.
    """
    axes = tuple(range(one.ndim))

    def vectors(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.lax.dot_general(x, y, ((axes, axes), ((), ())), precision=jax.lax.Precision.HIGHEST)

    return jax.lax.platform_dependent(one, other, cpu=vectors, default=lambda x, y: (x * y).sum())
