"""Weights from files straight into the parameters' shardings, a slice at a time."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.huggingface.description import Description
from jaxft.huggingface.placing import Place
from jaxft.huggingface.safetensors_files import StoredTensor
from jaxft.models.model import flat_paths
from jaxft.parallel.trees import Parameters, Shapes

# Largest piece, in bytes of the target, that is held on the host; larger shards are assembled on their device.
PIECE = 64 * 2**20

Sources = dict[tuple[int, ...], tuple[StoredTensor, Place]]


def load_parameters(description: Description, target: Shapes) -> Parameters:
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
    wanted = flat_paths(target)
    arrays: dict[str, jax.Array] = {}
    for group in _groups(description, wanted):
        arrays |= _load({path: wanted[path] for path in group}, sources)
    return jax.tree.unflatten(jax.tree.structure(target), [arrays[path] for path in wanted])


def _groups(description: Description, wanted: Mapping[str, object]) -> list[list[str]]:
    """Parameters that share tensors, such as joint queries, keys and values, together; the others alone."""
    group_of: dict[str, list[str]] = {path: [path] for path in wanted}
    for tensor in description.placed.values():
        held = list(dict.fromkeys(place.path for place in tensor.places if place.path in wanted))
        for other in held[1:]:
            first = held[0]
            if group_of[other] is not group_of[first]:
                group_of[first] += group_of[other]
                group_of |= dict.fromkeys(group_of[first], group_of[first])
    return list({id(group): group for group in group_of.values()}.values())


def _load(leaves: Mapping[str, jax.ShapeDtypeStruct], sources: Mapping[str, Sources]) -> dict[str, jax.Array]:
    """Parameters by path: all their shards advance through the files together, so that each row is read once."""
    made = {path: _shards_of(leaf, sources[path]) for path, leaf in leaves.items()}
    everyone = [shard for shards in made.values() for shard in shards.values()]
    at_once = min(shard.rows_within(PIECE // len(everyone)) for shard in everyone)
    for first in range(0, max(shard.length for shard in everyone), at_once):
        rows = _Rows(shared=len(everyone) > 1)
        for shard in everyone:
            shard.fill(rows, first, at_once)
    return {path: _assembled(leaf, made[path]) for path, leaf in leaves.items()}


def _shards_of(leaf: jax.ShapeDtypeStruct, sources: Sources) -> dict[tuple, _Shard]:
    """The different shards of a parameter in this process, by their places."""
    shards: dict[tuple, _Shard] = {}
    for device, index in leaf.sharding.addressable_devices_indices_map(leaf.shape).items():
        wanted = _ranges(index, leaf.shape)
        shards.setdefault(_key(wanted), _Shard(sources, wanted, device, leaf))
    return shards


def _assembled(leaf: jax.ShapeDtypeStruct, shards: Mapping[tuple, _Shard]) -> jax.Array:
    """A parameter from its shards; a replica is copied from the device that has it, not read again."""
    indices = leaf.sharding.addressable_devices_indices_map(leaf.shape)
    arrays = [
        jax.device_put(shards[_key(_ranges(index, leaf.shape))].array, device) for device, index in indices.items()
    ]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, arrays)


def _ranges(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(*cut.indices(size)[:2]) for cut, size in zip(index, shape, strict=True))


def _key(wanted: tuple[slice, ...]) -> tuple:
    return tuple((cut.start, cut.stop) for cut in wanted)


class _Rows:
    """Reads slices of tensors; where several shards need columns of the same rows, these are read once and kept."""

    def __init__(self, shared: bool):
        self._shared = shared
        self._kept: dict[tuple, np.ndarray] = {}

    def read(self, tensor: StoredTensor, wanted: tuple[slice, ...]) -> np.ndarray:
        """A slice of a tensor."""
        if not self._shared or not wanted:
            return tensor.read(wanted)
        key = (tensor.file, tensor.offset, wanted[0].start, wanted[0].stop)
        if key not in self._kept:
            self._kept[key] = tensor.read((wanted[0], *(slice(0, size) for size in tensor.shape[1:])))
        return self._kept[key][(slice(None), *wanted[1:])]


class _Shard:
    """A shard under way: on the host where it comes in one piece, else assembled on its device.

    Attributes:
      array: as far as it is read.
      length: rows along the axis that is cut.
    """

    def __init__(self, sources: Sources, wanted: tuple[slice, ...], device: jax.Device, leaf: jax.ShapeDtypeStruct):
        self.array: jax.Array | None = None
        self._sources, self._wanted, self._device, self._leaf = sources, wanted, device, leaf
        self._shape = tuple(cut.stop - cut.start for cut in wanted)
        self._axis = _file_axis(sources)
        self.length = self._shape[self._axis] if wanted else 1

    def rows_within(self, size: int) -> int:
        """How many rows of the file, whole even where the shard has some columns alone, fit into so many bytes."""
        whole = self._leaf.shape[self._axis] if self._leaf.shape else 1
        return max(1, size // max(1, self._leaf.size // max(1, whole) * self._leaf.dtype.itemsize))

    def fill(self, rows: _Rows, first: int, at_once: int) -> None:
        """Reads up to `at_once` rows from row `first` of the shard on."""
        if first >= self.length:
            return
        if at_once >= self.length:
            self.array = jax.device_put(self._read(rows, self._wanted), self._device)
            return
        if self.array is None:
            self.array = jax.device_put(jnp.zeros(self._shape, self._leaf.dtype, device=self._device), self._device)
        axis, whole = self._axis, self._wanted[self._axis]
        cut = slice(whole.start + first, min(whole.start + first + at_once, whole.stop))
        piece = self._read(rows, (*self._wanted[:axis], cut, *self._wanted[axis + 1 :]))
        origin = [0] * len(self._shape)
        origin[axis] = first
        self.array = _put(self.array, jax.device_put(piece, self._device), *origin)

    def _read(self, rows: _Rows, wanted: tuple[slice, ...]) -> np.ndarray:
        return _read(self._sources, rows, wanted, self._leaf.dtype)


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


def _read(sources: Sources, rows: _Rows, wanted: tuple[slice, ...], dtype: np.dtype) -> np.ndarray:
    """A slice of a parameter on the host, in the dtype of the target."""
    if () in sources:
        tensor, place = sources[()]
        read = functools.partial(rows.read, tensor)
        array = place.pattern.read(read, place.sizes, wanted, place.part, place.offset)
        return np.ascontiguousarray(array.astype(dtype, copy=False))
    result = np.empty(tuple(cut.stop - cut.start for cut in wanted), dtype)
    for number, row in enumerate(range(wanted[0].start, wanted[0].stop)):
        result[number] = _read(_row(sources, row), rows, wanted[1:], dtype)
    return result


def _row(sources: Mapping[tuple[int, ...], tuple[StoredTensor, Place]], row: int) -> Sources:
    return {rows[1:]: source for rows, source in sources.items() if rows[0] == row}
