"""All that a run must remember: parameters, optimizer, step and seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.models.model import AnyModel, abstract_parameters, initialize
from jaxft.parallel.sharding import parameter_shardings, replicated
from jaxft.parallel.trees import Axes, Flags, Parameters, Shapes, Shardings, Tree
from jaxft.training.matrices import matrix_shape, matrix_spec


class TrainState(flax.struct.PyTreeNode):
    """State of a run; every random key is derived from `seed` and `step`.

    Attributes:
      step: int32 scalar, steps done.
      seed: int32 scalar.
      parameters: tree of float32 arrays; of integers too where they are frozen and quantized.
      optimizer: state of the gradient transformation, for the parameters that are trained.
      origin: the parameters at step 0, where something in the run compares with them, else None.
      average: average of the parameters over steps, where a run keeps one, else None.
    """

    step: jax.Array
    seed: jax.Array
    parameters: Parameters
    optimizer: Any
    origin: Parameters | None = None
    average: Parameters | None = None

    @property
    def used(self) -> Parameters:
        """The parameters to evaluate and to keep: the average where there is one."""
        return self.parameters if self.average is None else self.average


@dataclasses.dataclass(frozen=True)
class Keeping:
    """What a state holds besides parameters and moments.

    Attributes:
      trained: tree of booleans of the parameters' structure; the others have no moments. None: all are.
      origin: whether the parameters at step 0 are kept.
      average: whether an average is kept.
    """

    trained: Flags | None = None
    origin: bool = False
    average: bool = False


def split(parameters: Tree, trained: Tree | None) -> tuple[Tree, Tree]:
    """The trained parameters and the others, two trees of the same structure with None where the other has a leaf."""
    if trained is None:
        return parameters, jax.tree.map(lambda _: None, parameters)
    chosen = jax.tree.map(lambda leaf, own: leaf if own else None, parameters, trained)
    return chosen, jax.tree.map(lambda leaf, own: None if own else leaf, parameters, trained)


def joined(trained: Tree, others: Tree) -> Tree:
    """What `split` took apart."""
    return jax.tree.map(lambda a, b: b if a is None else a, trained, others, is_leaf=lambda leaf: leaf is None)


def abstract_state(
    model: AnyModel, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh, keeping: Keeping = Keeping()
) -> TrainState:
    """Shapes, dtypes and shardings of a state, without computing anything.

    Returns:
      A TrainState of ShapeDtypeStruct, each with its NamedSharding.

    Raises:
      RecipeError: the mesh does not fit the parameters.
    """
    shapes, axes = abstract_parameters(model)
    shardings = parameter_shardings(axes, shapes, mesh)
    # Each struct stands in the place of an array.
    scalar: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(mesh))
    moments = jax.eval_shape(optimizer.init, split(shapes, keeping.trained)[0])
    parameters = jax.tree.map(_struct, shapes, shardings)
    return TrainState(
        scalar,
        scalar,
        parameters,
        _laid_out_moments(moments, shapes, axes, shardings, mesh),
        parameters if keeping.origin else None,
        parameters if keeping.average else None,
    )


def _laid_out_moments(moments: Any, shapes: Shapes, axes: Axes, shardings: Shardings, mesh: jax.sharding.Mesh) -> Any:
    """Moments lie as their parameters do, also where an optimizer holds them as matrices; what is neither is small.

    Optimizers keep trees of the parameters' structure somewhere inside their state, so a moment is known by the end of
    its path.
    """
    known = {}
    leaves = zip(*(jax.tree_util.tree_leaves_with_path(tree) for tree in (shapes, axes, shardings)), strict=True)
    for (path, shape), (_, spec), (_, sharding) in leaves:
        matrix = NamedSharding(mesh, matrix_spec(_padded(sharding.spec, len(shape.shape)), spec))
        known[path] = {matrix_shape(shape.shape, spec): matrix, shape.shape: sharding}

    def lay_out(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        owner = next((path[i:] for i in range(len(path)) if path[i:] in known), None)
        return _struct(leaf, known.get(owner, {}).get(leaf.shape, replicated(mesh)))

    return jax.tree_util.tree_map_with_path(lay_out, moments)


def _padded(spec: PartitionSpec, length: int) -> PartitionSpec:
    return PartitionSpec(*spec, *[None] * (length - len(spec)))


def _struct(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def create_state(
    model: AnyModel,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: jax.sharding.Mesh,
    start: Callable[[Parameters], Parameters] | None = None,
    keeping: Keeping = Keeping(),
) -> TrainState:
    """A state at step 0, laid out on the mesh.

    Args:
      model: the model.
      optimizer: the gradient transformation.
      seed: of initialization and of every later random choice.
      mesh: devices.
      start: from fresh parameters to those that the run begins with (pretrained ones in their place), or None.
      keeping: what else it holds.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, optimizer, mesh, keeping))

    def fresh_parameters() -> Parameters:
        return initialize(model, jax.random.fold_in(jax.random.key(seed), 2**31 - 1))

    parameters = jax.jit(fresh_parameters, out_shardings=shardings.parameters)()
    if start is not None:
        parameters = start(parameters)
    moments = jax.jit(optimizer.init, out_shardings=shardings.optimizer)(split(parameters, keeping.trained)[0])
    step, own_seed = (jax.device_put(jnp.asarray(number, jnp.int32), replicated(mesh)) for number in (0, seed))
    # Copies: the step gives the buffers of its state away.
    origin, average = (
        jax.tree.map(jnp.copy, parameters) if kept else None for kept in (keeping.origin, keeping.average)
    )
    return TrainState(step, own_seed, parameters, moments, origin, average)


def replaced(parameters: Tree, start: Tree) -> Tree:
    """`parameters` with the leaves that `start`, a nested dict, has; in the layout of the former."""
    if not isinstance(parameters, dict):
        return jax.device_put(start, parameters.sharding)
    return {name: replaced(old, start[name]) if name in start else old for name, old in parameters.items()}
