"""Weights from files straight into the parameters' shardings, a slice at a time."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jaxft.huggingface.description import Description, flat_paths
from jaxft.huggingface.placing import Place
from jaxft.huggingface.safetensors_files import StoredTensor

# Largest piece, in bytes of the target, that is held on the host; larger shards are assembled on their device.
PIECE = 64 * 2**20

Sources = dict[tuple[int, ...], tuple[StoredTensor, Place]]


def load_parameters(description: Description, target) -> dict[str, Any]:
    """The weights in the layout of `target`, each shard read once by the process that holds it.

    Args:
      description: the files.
      target: nested dict of ShapeDtypeStruct with dtypes and shardings; what it lacks is not read.

    Returns:
      A nested dict of the same structure.
    """
    sources: dict[str, Sources] = {}
    for name, tensor in description.placed.items():
        for place in tensor.places:
            sources.setdefault(place.path, {})[place.rows] = (description.stored[name], place)
    flat = {path: _load(leaf, sources[path]) for path, leaf in flat_paths(target).items()}
    structure = jax.tree.structure(target)
    return jax.tree.unflatten(structure, list(flat.values()))


def _load(leaf: jax.ShapeDtypeStruct, sources: Sources) -> jax.Array:
    sharding: NamedSharding = leaf.sharding
    shards: dict[tuple, jax.Array] = {}
    arrays = []
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        wanted = tuple(slice(*cut.indices(size)[:2]) for cut, size in zip(index, leaf.shape, strict=True))
        key = tuple((cut.start, cut.stop) for cut in wanted)
        # A replica is copied from the device that has it, not read again.
        shards[key] = jax.device_put(shards[key], device) if key in shards else _shard(leaf, sources, wanted, device)
        arrays.append(shards[key])
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays)


def _shard(leaf: jax.ShapeDtypeStruct, sources: Sources, wanted: tuple[slice, ...], device) -> jax.Array:
    """One shard on its device."""
    shape = tuple(cut.stop - cut.start for cut in wanted)
    axis = _file_axis(sources)
    per_row = math.prod(shape) // max(1, shape[axis] if shape else 1) * leaf.dtype.itemsize
    at_once = max(1, PIECE // max(1, per_row))
    if not shape or at_once >= shape[axis]:
        return jax.device_put(_read(sources, wanted, leaf.dtype), device)
    whole = jax.device_put(jnp.zeros(shape, leaf.dtype, device=device), device)
    for first in range(0, shape[axis], at_once):
        start = wanted[axis].start + first
        cut = slice(start, min(start + at_once, wanted[axis].stop))
        piece = _read(sources, (*wanted[:axis], cut, *wanted[axis + 1 :]), leaf.dtype)
        origin = [0] * len(shape)
        origin[axis] = first
        whole = _put(whole, jax.device_put(piece, device), *origin)
    return whole


@functools.partial(jax.jit, donate_argnums=0)
def _put(whole: jax.Array, piece: jax.Array, *origin: int) -> jax.Array:
    return jax.lax.dynamic_update_slice(whole, piece, origin)


def _file_axis(sources: Sources) -> int:
    """The axis of our parameter that is cheapest to cut: the one that advances slowest in the file."""
    if () not in sources:
        return 0
    pattern = sources[()][1].pattern
    for axis, names in enumerate(pattern.ours):
        if len(names) == 1 and pattern.theirs and names[0] in pattern.theirs[0]:
            return axis
    return 0


def _read(sources: Sources, wanted: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
    """A slice of a parameter on the host, in the dtype of the target."""
    if () in sources:
        tensor, place = sources[()]
        array = place.pattern.read(tensor.read, place.sizes, wanted, place.part, place.offset)
        return np.ascontiguousarray(array.astype(dtype, copy=False))
    result = np.empty(tuple(cut.stop - cut.start for cut in wanted), dtype)
    for number, row in enumerate(range(wanted[0].start, wanted[0].stop)):
        result[number] = _read(_row(sources, row), wanted[1:], dtype)
    return result


def _row(sources: Mapping[tuple[int, ...], tuple[StoredTensor, Place]], row: int) -> Sources:
    return {rows[1:]: source for rows, source in sources.items() if rows[0] == row}
