"""Logical axes of arrays, and the one table that lays them on the mesh."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxft.errors import RecipeError
from jaxft.parallel.mesh import batch_shards
from jaxft.parallel.trees import Axes, Parameters, Shapes, Shardings, Tree

# The name of a logical axis, None where nothing splits it, or `UNCONSTRAINED`, whose type JAX keeps to itself.
LogicalAxis = Any

# Logical axis -> mesh axes. The names of parameters' axes come first, those of activations after.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
    "layers": None,
    "position": None,
    "token_type": None,
    "buckets": None,
    "norm": None,
    "labels": None,
    "rank": None,
    "block": "fsdp",
    "code": None,
    "batch": ("data", "fsdp"),
    # Rows of all devices that share a copy of the parameters.
    "rows_of_copy": "data",
    "length": "context",
    "features": None,
}

# In place of an axis: the compiler chooses what splits it.
UNCONSTRAINED = PartitionSpec.UNCONSTRAINED

# Arrays smaller than this many elements may stay whole on every device.
SMALL_ARRAY = 2**20


def spec_of(axes: Sequence[LogicalAxis]) -> PartitionSpec:
    """PartitionSpec of an array with these logical axes, or `UNCONSTRAINED` where the compiler chooses.

    Raises:
      KeyError: an axis that the table does not know, which is a defect of the caller.
    """
    return PartitionSpec(*(axis if axis in (None, UNCONSTRAINED) else RULES[axis] for axis in axes))


def parts_of(axis: str) -> int:
    """In how many parts the mesh in use splits this logical axis."""
    mesh, names = jax.sharding.get_abstract_mesh(), RULES[axis]
    if mesh.empty or names is None:
        return 1
    return math.prod(mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def on_each_device(function: Callable[..., Any], in_specs: tuple, out_specs: Any) -> Callable[..., Any]:
    """A function of what each device of the mesh in use holds, as kernels need it that the compiler cannot split.

    Args:
      function: of local arrays.
      in_specs: for each argument a PartitionSpec, or a tree of them.
      out_specs: of the result.

    Returns:
      A function of global arrays; the function itself outside a mesh, and on a single device.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    # What is not split is the same on all devices by construction, which kernels can't tell.
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def constrain(x: jax.Array, *axes: LogicalAxis) -> jax.Array:
    """Asks the compiler to lay an activation out by its logical axes; outside a mesh it does nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or math.prod(mesh.shape.values()) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec_of(axes))


def parameter_shardings(axes: Axes, shapes: Parameters | Shapes, mesh: jax.sharding.Mesh) -> Shardings:
    """Shardings of a tree of parameters.

    Args:
      axes: tree of PartitionSpec over logical axes, as `flax.linen.get_partition_spec` gives it.
      shapes: tree of arrays or ShapeDtypeStruct of the same structure.
      mesh: the mesh of the run.

    Returns:
      A tree of NamedSharding.

    Raises:
      RecipeError: an axis without a rule, two axes on the same mesh axis, a dimension that the mesh does not divide,
        or a large array that no axis of a mesh with parameter sharding splits; it names parameter, shape and rule.
    """

    def of(path: tuple[Any, ...], spec: PartitionSpec, shape: jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, _audited(name, tuple(spec), shape.shape, mesh))

    return jax.tree_util.tree_map_with_path(of, axes, shapes, is_leaf=lambda x: isinstance(x, PartitionSpec))


def _audited(name: str, axes: tuple, shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> PartitionSpec:
    """PartitionSpec over mesh axes for one parameter, or a RecipeError that says what does not fit."""
    if len(axes) != len(shape):
        raise RecipeError(f"parameter {name} {shape} has {len(axes)} logical axes: {axes}")
    if unknown := [axis for axis in axes if axis is not None and axis not in RULES]:
        raise RecipeError(f"parameter {name} {shape}: no sharding rule for its axis {unknown[0]!r}")
    used: list[Any] = []
    for axis, size in zip(axes, shape, strict=True):
        mesh_axis = RULES[axis] if axis is not None else None
        if mesh_axis is None:
            continue
        if mesh_axis in used:
            raise RecipeError(
                f"parameter {name} {shape}: two of its axes {axes} would lie on the mesh axis {mesh_axis!r}"
            )
        if size % mesh.shape[mesh_axis]:
            raise RecipeError(
                f"parameter {name} {shape}: its axis {axis!r} of {size} does not divide by mesh.{mesh_axis} = "
                f"{mesh.shape[mesh_axis]}; choose a size of mesh.{mesh_axis} that divides {size}"
            )
        used.append(mesh_axis)
    parameter_devices = mesh.shape["fsdp"] * mesh.shape["tensor"]
    whole = all(mesh.shape[mesh_axis] == 1 for mesh_axis in used)
    if parameter_devices > 1 and whole and math.prod(shape) > SMALL_ARRAY:
        way_out = " or ".join(f"mesh.{mesh_axis}" for mesh_axis in used)
        raise RecipeError(
            f"parameter {name} {shape} with axes {axes} would lie whole on each of the {mesh.size} devices; "
            + (f"choose a size of {way_out} above 1" if used else "no sharding rule splits any of its axes")
        )
    return spec_of(axes)


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Sharding of a batch: its leading axis over `data` and `fsdp`."""
    return NamedSharding(mesh, spec_of(("batch",)))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def own_rows(mesh: jax.sharding.Mesh, rows: int) -> slice | np.ndarray:
    """Which rows of a global batch the devices of this process hold; all of them where it is alone.

    Other processes may hold the same ones, where the axes `tensor` or `context` lie across processes.
    """
    if jax.process_count() == 1:
        return slice(None)
    return np.concatenate([np.arange(*block) for block in _own_blocks(mesh, rows)])


def put_batch(batch: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """A tree of host arrays as global arrays, their leading axis split over `data` and `fsdp`.

    Args:
      batch: arrays with the rows of this process, as `own_rows` names them.
      mesh: the mesh of the run.
    """
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    parts, own = batch_shards(mesh), len(_own_blocks(mesh, batch_shards(mesh)))

    def put(x: np.ndarray) -> jax.Array:
        rows = len(x) // own * parts
        held = {start: i * (rows // parts) for i, (start, _) in enumerate(_own_blocks(mesh, rows))}

        def block(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # of devices of this process
            begin = held[index[0].indices(rows)[0]]
            return x[begin : begin + rows // parts]

        return jax.make_array_from_callback((rows, *x.shape[1:]), sharding, block)

    return jax.tree.map(put, batch)


def put_whole_batch(batch: Tree, mesh: jax.sharding.Mesh) -> Tree:
    """As `put_batch`, of arrays with all rows of the batch in every process."""
    return put_batch(jax.tree.map(lambda x: x[own_rows(mesh, len(x))], batch), mesh)


def host_copies(tree: Tree) -> Tree:
    """Arrays of the whole mesh as numpy arrays, also what only devices of other processes hold; all processes ask."""

    def copied(x: Any) -> Any:
        if getattr(x, "is_fully_addressable", True) or x.is_fully_replicated:
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.device_get(jax.tree.map(copied, tree))


def _own_blocks(mesh: jax.sharding.Mesh, rows: int) -> list[tuple[int, int]]:
    """Starts and ends of the blocks of rows that devices of this process hold, each once, in their order."""
    held = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return sorted({index[0].indices(rows)[:2] for index in held if index is not None})
