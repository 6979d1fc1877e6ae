"""All that a run must remember: parameters, optimizer, step and seed."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxft.models.model import Model, abstract_parameters, initialize
from jaxft.parallel.sharding import parameter_shardings, replicated


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
    whole = replicated(mesh)

    def like(leaf, parameter, sharding):
        # Factored moments have other shapes than their parameter and are small.
        return _struct(leaf, sharding if leaf.shape == parameter.shape else whole)

    optimizer_shapes = optax.tree_map_params(
        optimizer, like, jax.eval_shape(optimizer.init, shapes), shapes, shardings,
        transform_non_params=lambda leaf: _struct(leaf, whole),
    )  # fmt: skip
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    return TrainState(scalar, scalar, jax.tree.map(_struct, shapes, shardings), optimizer_shapes)


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
