"""Kernels as matrices, for optimizers that look at matrices.

A kernel like `(layers, embed, heads, head_dim)` is a stack of matrices from `embed` to `heads * head_dim`; these
functions see it as `(layers, inputs, outputs)`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import optax
from jax.sharding import PartitionSpec

from jaxft.parallel.trees import Axes, Parameters

_TABLE_AXES = {"vocab", "position", "token_type", "buckets", "labels"}


def is_table(spec: PartitionSpec) -> bool:
    """Whether a parameter with these logical axes is an embedding or an output over a vocabulary or labels."""
    return bool(_TABLE_AXES & set(spec))


def _groups(spec: PartitionSpec) -> list[slice]:
    """The axes of a kernel that make up each axis of its matrix view; all in one where it is a vector."""
    names = tuple(spec)
    lead = int(names[:1] == ("layers",))
    stack = [slice(0, lead)] * lead
    # Kernels read `embed` or write it; a bias `(heads, head_dim)` does not.
    if len(names) - lead < 2 or "embed" not in names:
        return [*stack, slice(lead, len(names))]
    # What reads it has it first.
    split = lead + 1 if names[lead] == "embed" else len(names) - 1
    return [*stack, slice(lead, split), slice(split, len(names))]


def matrix_shape(shape: tuple[int, ...], spec: PartitionSpec) -> tuple[int, ...]:
    """Shape of the matrix view: `(inputs, outputs)`, or `(size,)` of a vector, after `layers` where stacked."""
    return tuple(math.prod(shape[group]) for group in _groups(spec))


def matrix_spec(laid: PartitionSpec, spec: PartitionSpec) -> PartitionSpec:
    """How the matrix view lies on the mesh where the parameter lies as `laid`: by the major axis of each group.

    Args:
      laid: over mesh axes, as long as `spec`.
      spec: over logical axes.
    """
    return PartitionSpec(*(laid[group.start] for group in _groups(spec)))


def on_matrices(inner: optax.GradientTransformation, axes: Axes) -> optax.GradientTransformation:
    """`inner`, which sees every kernel as a matrix or a stack of matrices.

    Args:
      inner: any gradient transformation.
      axes: tree of PartitionSpec over logical axes, of the structure of the parameters.
    """

    def view(tree: Parameters) -> Parameters:
        return jax.tree.map(lambda x, spec: x.reshape(matrix_shape(x.shape, spec)), tree, axes)

    def init(parameters: Parameters) -> Any:
        return inner.init(view(parameters))

    def update(updates: Parameters, state: Any, parameters: Parameters) -> tuple[Parameters, Any]:
        matrices, state = inner.update(view(updates), state, view(parameters))
        return jax.tree.map(lambda new, old: new.reshape(old.shape), matrices, updates), state

    return optax.GradientTransformation(init, update)
