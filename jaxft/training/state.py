"""All that a run must remember: parameters, optimizer, step and seed."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.models.model import Model, abstract_parameters, initialize
from jaxft.parallel.sharding import parameter_shardings, replicated
from jaxft.training.matrices import matrix_shape, matrix_spec


@flax.struct.dataclass
class TrainState:
    """State of a run; every random key is derived from `seed` and `step`.

    Attributes:
      step: int32 scalar, steps done.
      seed: int32 scalar.
      parameters: tree of float32 arrays.
      optimizer: state of the gradient transformation.
    """

    step: jax.Array
    seed: jax.Array
    parameters: Any
    optimizer: Any


def abstract_state(model: Model, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a state, without computing anything.

    Returns:
      A TrainState of ShapeDtypeStruct, each with its NamedSharding.

    Raises:
      RecipeError: the mesh does not fit the parameters.
    """
    shapes, axes = abstract_parameters(model)
    shardings = parameter_shardings(axes, shapes, mesh)
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    moments = _laid_out_moments(jax.eval_shape(optimizer.init, shapes), shapes, axes, shardings, mesh)
    return TrainState(scalar, scalar, jax.tree.map(_struct, shapes, shardings), moments)


def _laid_out_moments(moments, shapes, axes, shardings, mesh: jax.sharding.Mesh):
    """Moments lie as their parameters do, also where an optimizer holds them as matrices; what is neither is small.

    Optimizers keep trees of the parameters' structure somewhere inside their state, so a moment is known by the end of
    its path.
    """
    known = {}
    leaves = zip(*(jax.tree_util.tree_leaves_with_path(tree) for tree in (shapes, axes, shardings)), strict=True)
    for (path, shape), (_, spec), (_, sharding) in leaves:
        matrix = NamedSharding(mesh, matrix_spec(_padded(sharding.spec, len(shape.shape)), spec))
        known[path] = {matrix_shape(shape.shape, spec): matrix, shape.shape: sharding}

    def lay_out(path, leaf):
        owner = next((path[i:] for i in range(len(path)) if path[i:] in known), None)
        return _struct(leaf, known.get(owner, {}).get(leaf.shape, replicated(mesh)))

    return jax.tree_util.tree_map_with_path(lay_out, moments)


def _padded(spec: PartitionSpec, length: int) -> PartitionSpec:
    return PartitionSpec(*spec, *[None] * (length - len(spec)))


def _struct(leaf, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def create_state(
    model: Model, optimizer: optax.GradientTransformation, seed: int, mesh: jax.sharding.Mesh, start=None
) -> TrainState:
    """A state at step 0, laid out on the mesh.

    Args:
      model: the model.
      optimizer: the gradient transformation.
      seed: of initialization and of every later random choice.
      mesh: devices.
      start: nested dict of arrays that replace fresh parameters of the same names (pretrained weights), or None.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh))

    def fresh_parameters():
        return initialize(model, jax.random.fold_in(jax.random.key(seed), 2**31 - 1))

    parameters = jax.jit(fresh_parameters, out_shardings=shardings.parameters)()
    if start is not None:
        parameters = _replaced(parameters, start)
    moments = jax.jit(optimizer.init, out_shardings=shardings.optimizer)(parameters)
    scalars = [jax.device_put(jnp.asarray(number, jnp.int32), replicated(mesh)) for number in (0, seed)]
    return TrainState(*scalars, parameters, moments)


def _replaced(parameters, start):
    """`parameters` with the leaves that `start` has, in the layout of the former."""
    if not isinstance(parameters, dict):
        return jax.device_put(start, parameters.sharding)
    return {name: _replaced(old, start[name]) if name in start else old for name, old in parameters.items()}
