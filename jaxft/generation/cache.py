"""Keys and values of the tokens that a model has read, so that each is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxft.kernels.masks import ring_positions
from jaxft.models.config import ModelConfig
from jaxft.parallel.sharding import constrain

Layers = dict[str, Any]

_AXES = ("layers", "batch", None, "kv_heads", "head_dim")


class Cache(flax.struct.PyTreeNode):
    """What a decoder has read.

    A row's token i is in slot i of a layer without a window. A layer with a window has slots for its window alone,
    used in a ring: token i is in slot i modulo their number. So what a slot holds follows from the row's length, a
    token that is taken back needs no more than a smaller length, and what comes next is written over it.

    Attributes:
      layers: the collection `cache` of the model: arrays `(layers, batch, slots, kv_heads, head_dim)`; of cross
        attention `(layers, batch, source_length, kv_heads, head_dim)`.
      lengths: int32 `(batch,)`: tokens of each row.
      source_segments: int32 `(batch, source_length)` of an encoder-decoder's source, 0 for padding, or None.
      slots: of a layer without a window (static).
    """

    layers: Layers
    lengths: jax.Array
    source_segments: jax.Array | None = None
    slots: int = flax.struct.field(pytree_node=False, default=0)


def ring_sizes(config: ModelConfig, slots: int, undone: int) -> dict[tuple[str, str], int]:
    """Slots of each layer, by the names of its group and of its block within that.

    Args:
      config: the model.
      slots: of a layer without a window.
      undone: so many tokens of a step may be taken back again, and must not have cost others their place.
    """
    layers = config.decoder_layers if config.family == "encoder_decoder" else config.num_layers
    # A bias is computed once for layers of all kinds, so their slots must be the same.
    has_rings = config.position not in ("relative_bias", "alibi")
    return {
        (group.name, f"block_{i}"): min(slots, kind.window + undone) if kind.window and has_rings else slots
        for group in config.layer_groups(layers)
        for i, kind in enumerate(group.kinds)
    }


def fill_cache(
    config: ModelConfig,
    kept: Layers,
    lengths: jax.Array,
    source_segments: jax.Array | None,
    slots: int,
    undone: int = 0,
) -> Cache:
    """A cache that holds the tokens of a first pass.

    Args:
      config: the model.
      kept: collection `keys_values` of a pass over rows that are padded at their ends.
      lengths: int32 `(batch,)`: tokens of each row that are no padding.
      source_segments: as in `Cache`.
      slots: of a layer without a window; at least the length of the rows.
      undone: see `ring_sizes`.
    """
    sizes = ring_sizes(config, slots, undone)

    def fill(path: tuple[str, ...], x: jax.Array) -> jax.Array:
        if _is_cross(path):
            return constrain(x, *_AXES)
        size = sizes[path[-4], path[-3]]
        if x.shape[2] <= size:
            x = jnp.pad(x, ((0, 0), (0, 0), (0, size - x.shape[2]), (0, 0), (0, 0)))
        else:
            held = jnp.maximum(ring_positions(lengths, size), 0)
            x = jnp.take_along_axis(x, held[None, :, :, None, None], axis=2)
        return constrain(x, *_AXES)

    return Cache(_mapped(fill, _of_decoder(kept)), lengths, source_segments, slots)


def append(cache: Cache, kept: Layers, advance: jax.Array, offset: jax.Array | int = 0) -> Cache:
    """The cache with the keys and values of new tokens.

    Args:
      cache: the cache.
      kept: collection `keys_values` of a pass over the new tokens: `(layers, batch, new, kv_heads, head_dim)`.
      advance: int32 `(batch,)`: how many of the new tokens stay; those after them are as if never written.
      offset: int32 `(batch,)`: added to the slots that are written. It is 0 of every row that matters, but XLA does not
        know: computed from what the cache was read for, it has the writing come after all reading, in place.
    """

    def write(path: tuple[str, ...], old: jax.Array) -> jax.Array:
        if _is_cross(path):
            return old
        new = _at(kept, path)
        first = (cache.lengths + offset)[:, None]
        slots = (first + jnp.arange(new.shape[2], dtype=jnp.int32)) % old.shape[2]
        return constrain(_put(old, slots, new), *_AXES)

    return cache.replace(layers=_mapped(write, cache.layers), lengths=cache.lengths + advance)


def _put(old: jax.Array, slots: jax.Array, new: jax.Array) -> jax.Array:
    """`(layers, batch, slots, kv_heads, head_dim)` with `new` in the slots, int32 `(batch, new)`, of its rows.

    Rows are a dimension that writing goes along, so that a mesh that splits them need not gather them; said to XLA in
    its own words, as `vmap` would turn the whole cache around for it, at every step.
    """
    dimensions = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(0, 3, 4),
        inserted_window_dims=(2,),
        scatter_dims_to_operand_dims=(2,),
        operand_batching_dims=(1,),
        scatter_indices_batching_dims=(0,),
    )
    return jax.lax.scatter(
        old,
        slots[..., None],
        new.astype(old.dtype),
        dimensions,
        indices_are_sorted=False,
        mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """The cache of other rows, int32 `(new_batch,)`, each the number of one of the old."""
    source = None if cache.source_segments is None else cache.source_segments[rows]
    layers = jax.tree.map(lambda x: constrain(x[:, rows], *_AXES), cache.layers)
    return cache.replace(layers=layers, lengths=cache.lengths[rows], source_segments=source)


def _of_decoder(kept: Layers) -> Layers:
    """Without an encoder's own keys and values, which nothing reads again."""
    return {"trunk": {name: tree for name, tree in kept["trunk"].items() if name != "encoder"}}


def _is_cross(path: tuple[str, ...]) -> bool:
    return path[-2] == "cross_attention"


def _at(tree: Layers, path: tuple[str, ...]) -> jax.Array:
    *branches, last = path
    for name in branches:
        tree = tree[name]
    return tree[last]


def _mapped(function: Callable[[tuple[str, ...], jax.Array], jax.Array], tree: Layers) -> Layers:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(tuple(_names(path)), leaf), tree)


def _names(path: tuple[Any, ...]) -> Iterator[str]:
    return (key.key for key in path)
